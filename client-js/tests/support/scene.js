// A client of the fake cluster on a fake clock, with a record of what it was told.

import { FlotillaClient } from '../../src/client.js';
import { textOf } from '../../src/content.js';
import { MemoryStore } from '../../src/store/memory.js';
import { FakeClock } from './clock.js';
import { World } from './world.js';

export class Scene {
  clock = new FakeClock();
  world;
  /** @type {FlotillaClient[]} */
  clients = [];

  /** @param {() => number} [random] */
  constructor(random = () => 0.5) {
    this.random = random;
    this.world = new World(this.clock, random);
  }

  /** @param {string} user @param {any} [options] */
  async client(user, options = {}) {
    const store = options.store ?? new MemoryStore();
    const client = await FlotillaClient.open({
      urls: this.world.nodes, user, token: `dev:${user}`, store, WebSocket: this.world.WebSocket, clock: this.clock, random: this.random, ...options,
    });
    this.clients.push(client);
    const log = new Log(client, store);
    return log;
  }

  /** @param {...Log} logs */
  async online(...logs) {
    for (const { client } of logs) await this.clock.until(() => client.status.state === 'online', `${client.user} online`);
  }

  async end() {
    for (const client of this.clients) await client.close();
  }
}

export class Log {
  /** @type {any[]} */ entries = [];
  /** @type {any[]} */ errors = [];
  /** @type {any[]} */ gaps = [];
  /** @type {any[]} */ outcomes = [];
  /** @type {any[]} */ statuses = [];
  /** @type {any[]} */ signals = [];
  /** @type {any[]} */ receipts = [];
  /** @type {any[]} */ resets = [];

  /** @param {FlotillaClient} client @param {any} store */
  constructor(client, store) {
    this.client = client;
    this.store = store;
    client.on('entry', e => this.entries.push(e));
    client.on('error', e => this.errors.push(e));
    client.on('gap', e => this.gaps.push(e));
    client.on('outcome', e => this.outcomes.push(e));
    client.on('status', e => this.statuses.push(e));
    client.on('signal', e => this.signals.push(e));
    client.on('receipts', e => this.receipts.push(e));
    client.on('reset', e => this.resets.push(e));
  }

  /** @param {string} conv */
  texts(conv) {
    return this.entries.filter(e => e.conv === conv).map(e => textOf(e));
  }

  /** @param {string} conv */
  seqs(conv) {
    return this.entries.filter(e => e.conv === conv).map(e => e.seq);
  }
}
