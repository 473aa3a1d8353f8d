// One life of a client process: its timers and sockets end with it, as in a kill; its store stays.

import { FlotillaClient } from '../../src/client.js';
import { Log } from './scene.js';

export class Life {
  alive = true;
  /** @type {any[]} */
  #sockets = [];

  /** @param {import('./world.js').World} world */
  constructor(world) {
    const life = this;
    this.world = world;
    this.clock = {
      now: world.clock.now,
      wall: world.clock.wall,
      set: (/** @type {() => void} */ run, /** @type {number} */ ms) => world.clock.set(() => life.alive && run(), ms),
      clear: world.clock.clear,
    };
    this.WebSocket = class extends world.WebSocket {
      constructor(/** @type {string} */ url, /** @type {string[]} */ protocols) {
        super(url, protocols);
        life.#sockets.push(this);
      }
    };
  }

  /** @param {string} user @param {any} store */
  async open(user, store) {
    const { clock, WebSocket, world } = this;
    const client = await FlotillaClient.open({ urls: world.nodes, user, token: `dev:${user}`, store, WebSocket, clock, random: world.random });
    return new Log(client, store);
  }

  /** No farewell: nothing of it runs any more. */
  die() {
    this.alive = false;
    for (const socket of this.#sockets) {
      socket.onmessage = socket.onclose = socket.onopen = socket.onerror = null;
      socket.close();
    }
  }
}

/** Never comes. @returns {Promise<never>} */
export const never = () => new Promise(() => {});
