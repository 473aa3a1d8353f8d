// Three real nodes as child processes; everything that knows the binary's flags is here. Only processes that were started here
// are signalled, and all of them are gone in the end.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const READY_MS = 90_000;

export const binary = process.env.FLOTILLA_BIN;
/** For `test(…, { skip })`. */
export const skip = binary ? false : 'FLOTILLA_BIN is not set';

/** @param {number} ms */
export const pause = ms => new Promise(done => setTimeout(done, ms));

/** @param {() => boolean | Promise<boolean>} holds @param {string} what @param {number} [ms] */
export async function until(holds, what, ms = 60_000) {
  const end = Date.now() + ms;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`not within ${ms} ms: ${what}`);
    await pause(20);
  }
}

/** Below what systems hand out for outgoing connections, so that a restarted node finds its port free. */
async function freePort() {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 15_000);
    const server = createServer();
    const isFree = await new Promise(done => server.once('error', () => done(false)).listen(port, '127.0.0.1', () => done(true)));
    if (isFree) {
      server.close();
      await once(server, 'close');
      return port;
    }
  }
}

/** Whatever ends this process, its nodes end with it. @type {Set<import('node:child_process').ChildProcess>} */
const children = new Set();
process.on('exit', () => children.forEach(child => child.kill('SIGKILL')));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

class Node {
  /** @type {import('node:child_process').ChildProcess | null} */
  child = null;

  /** @param {number} number @param {string} dir @param {number} client @param {number} peer @param {string[]} flags */
  constructor(number, dir, client, peer, flags) {
    this.flags = flags;
    this.number = number;
    this.dir = dir;
    this.client = `127.0.0.1:${client}`;
    this.peer = `127.0.0.1:${peer}`;
    this.url = `http://${this.client}`;
  }

  async start() {
    const log = await open(join(this.dir, `log-${this.number}`), 'a');
    const args = ['start', '--node', String(this.number), '--data-dir', join(this.dir, `node-${this.number}`), '--client-addr', this.client, '--peer-addr', this.peer, '--auth', 'dev', ...this.flags];
    this.child = spawn(/** @type {string} */ (binary), args, { stdio: ['ignore', log.fd, log.fd] });
    const { child } = this;
    children.add(child);
    child.once('exit', () => children.delete(child));
    await once(child, 'spawn');
    await log.close();
  }

  ready() {
    const isReady = () => fetch(`${this.url}/readyz`).then(r => r.ok, () => false);
    return until(isReady, `node ${this.number} is ready`, READY_MS);
  }

  /** @param {NodeJS.Signals} signal */
  async stop(signal) {
    const { child } = this;
    this.child = null;
    if (child === null || child.exitCode !== null) return;
    const gone = once(child, 'exit');
    child.kill(signal);
    await gone;
  }

  kill() {
    return this.stop('SIGKILL');
  }
}

export class Cluster {
  /** @type {Node[]} */
  nodes = [];

  /** @param {string} dir */
  constructor(dir) {
    this.dir = dir;
  }

  /** @param {{ size?: number, flags?: string[] }} [options] flags: beside the usual ones */
  static async start({ size = 3, flags = [] } = {}) {
    const cluster = new Cluster(await mkdtemp(join(tmpdir(), 'flotilla-js-cluster-')));
    for (let number = 1; number <= size; number++) cluster.nodes.push(new Node(number, cluster.dir, await freePort(), await freePort(), flags));
    try {
      for (const node of cluster.nodes) await node.start();
      const peers = cluster.nodes.map(n => `${n.number}=${n.peer}`).join(',');
      const init = () => spawnSync(/** @type {string} */ (binary), ['init', '--nodes', peers, '--shards', '4'], { encoding: 'utf8' });
      await until(() => init().status === 0, 'init', READY_MS);
      for (const node of cluster.nodes) await node.ready();
      return cluster;
    } catch (error) {
      await cluster.end();
      throw error;
    }
  }

  get urls() {
    return this.nodes.map(n => n.url);
  }

  /** A new directory for a store. @param {string} name */
  store(name) {
    return join(this.dir, 'stores', name);
  }

  async end() {
    for (const node of this.nodes) await node.kill();
    if (!process.env.FLOTILLA_KEEP) await rm(this.dir, { recursive: true });
  }
}
