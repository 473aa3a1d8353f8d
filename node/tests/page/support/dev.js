// `flotilla dev` as a child process, and Chromium with people in it. Only processes that were started here are signalled.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { after, before } from 'node:test';
import { MemoryStore, open } from '../../../../client-js/src/node.js';
import { skip as noBrowser } from '../../../../client-js/tests/support/chromium.js';
import { binary, skip as noBinary, until } from '../../../../client-js/tests/support/cluster.js';

export { pause, until } from '../../../../client-js/tests/support/cluster.js';

// Where the JavaScript client's tests have theirs.
const installed = createRequire(new URL('../../../../client-js/package.json', import.meta.url));

const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];
const START_MS = 120_000;

/** @param {number} port */
function isFree(port) {
  const server = createServer();
  return new Promise(done => server.once('error', () => done(false)).listen(port, '127.0.0.1', () => server.close(() => done(true))));
}

/** The first of three ports in a row that are free. */
async function freePorts() {
  for (;;) {
    const port = 15_000 + Math.floor(Math.random() * 14_000);
    if ((await Promise.all([0, 1, 2].map(n => isFree(port + n)))).every(Boolean)) return port;
  }
}

export class Dev {
  /** @type {string[]} */
  lines = [];
  /** Of the nodes, once it is started. @type {string[]} */
  urls = [];
  /** @type {import('node:child_process').ChildProcess | null} */
  #child = null;

  async start() {
    const [client, peer] = [await freePorts(), await freePorts()];
    const child = spawn(/** @type {string} */ (binary), ['dev', '--client-port', String(client), '--peer-port', String(peer), '--shards', '4'], { stdio: ['ignore', 'pipe', 'inherit'] });
    this.#child = child;
    this.urls = [0, 1, 2].map(n => `http://127.0.0.1:${client + n}`);
    process.on('exit', () => child.kill('SIGTERM'));
    createInterface({ input: /** @type {any} */ (child.stdout) }).on('line', line => this.lines.push(line));
    await until(() => this.lines.some(line => line.includes('Ctrl-C here stops')) || child.exitCode !== null, 'flotilla dev is up', START_MS);
    if (child.exitCode !== null) throw new Error(`flotilla dev ended with ${child.exitCode}`);
  }

  /** Nodes are killed and started by a page's strip. @param {any} page @param {number} node @param {'Kill' | 'Restart'} what */
  async turn(page, node, what) {
    await page.getByRole('button', { name: `${what} node ${node}` }).click();
    await page.getByRole('button', { name: `${what === 'Kill' ? 'Restart' : 'Kill'} node ${node}` }).waitFor();
  }

  /** The newest one-time code for an address, out of the nodes' logs. @param {string} address @returns {Promise<string>} */
  async code(address) {
    const dir = this.lines.join('\n').match(/data in (\S+)/)?.[1];
    const found = async () => {
      const logs = await Promise.all([1, 2, 3].map(n => readFile(`${dir}/node${n}/log`, 'utf8')));
      return logs.join('\n').replace(/\u001b\[[\d;]*m/g, '').split('\n').findLast(line => line.includes('one-time code') && line.includes(address))?.match(/code="?(\d{6})/)?.[1];
    };
    await until(async () => (await found()) !== undefined, `a code for ${address} stands in a log`, 10_000);
    return /** @type {string} */ (await found());
  }

  async end() {
    const child = this.#child;
    if (child === null || child.exitCode !== null) return;
    const gone = once(child, 'exit');
    child.kill('SIGTERM');
    await gone;
  }
}

export class People {
  /** @type {string[]} */
  errors = [];
  /** Once it is started. @type {any} */
  browser = null;

  async start() {
    const { chromium } = installed('playwright-core');
    if (!existsSync(EXECUTABLE)) throw new Error(`${EXECUTABLE} is not there`);
    this.browser = await chromium.launch({ executablePath: EXECUTABLE, headless: true, args: FLAGS });
  }

  /** A browser of its own. @param {any} [options] */
  async browserOf(options = {}) {
    return this.browser.newContext({ viewport: { width: 1200, height: 780 }, ...options });
  }

  /** @param {any} context @param {string} url */
  async tab(context, url) {
    const page = await context.newPage();
    page.setDefaultTimeout(30_000);
    page.on('pageerror', (/** @type {Error} */ error) => this.errors.push(error.stack ?? error.message));
    page.on('console', (/** @type {any} */ m) => {
      // A node that is dead makes the browser itself complain.
      if (m.type() === 'error' && !/ERR_|WebSocket|Failed to load resource/.test(m.text())) this.errors.push(m.text());
    });
    await page.goto(url);
    return page;
  }

  /** A demo user in a browser of its own. @param {string} user @param {string} url @param {any} [options] */
  async demo(user, url, options) {
    const page = await this.tab(await this.browserOf(options), `${url}/?as=${user}`);
    await this.online(page);
    return page;
  }

  /** @param {any} page */
  online(page) {
    return holds(page, 'window.flotilla?.client.status.state === "online"');
  }

  async end() {
    await this.browser?.close();
  }
}

/** Nodes, a browser, and people who use the client alone; nothing is started yet. */
export class Stage {
  dev = new Dev();
  people = new People();
  /** @type {import('../../../../client-js/src/node.js').FlotillaClient[]} */
  #clients = [];

  async start() {
    globalThis.WebSocket ??= installed('ws');
    await Promise.all([this.dev.start(), this.people.start()]);
  }

  /** Somebody without a page. @param {string} user */
  client = async user => {
    const one = await open({ urls: this.dev.urls, user, token: `dev:${user}`, store: new MemoryStore() });
    this.#clients.push(one);
    return one;
  };

  async end() {
    for (const one of this.#clients) await one.close();
    await this.people.end();
    await this.dev.end();
  }
}

/**
 * For all tests of the file that calls it: from before the first to after the last. They are skipped where something is missing.
 * @param {(set: Stage) => Promise<void>} [prepare] what has to be there, once it stands
 */
export function stage(prepare = async () => {}) {
  const skip = noBinary || noBrowser;
  const set = new Stage();
  before(async () => {
    if (skip) return;
    await set.start();
    await prepare(set);
  });
  after(() => set.end());
  return { skip, dev: set.dev, people: set.people, client: set.client };
}

/**
 * Bytes over the wire, headers included, of a browser that was never here, until the entrance can be used.
 * @param {People} people @param {string} url
 */
export async function firstLoad(people, url) {
  const context = await people.browserOf({ serviceWorkers: 'block' });
  const page = await context.newPage();
  const cdp = await context.newCDPSession(page);
  await cdp.send('Network.enable');
  /** @type {Map<string, { type: string, url: string }>} */
  const known = new Map();
  const files = /** @type {{ type: string, url: string, bytes: number }[]} */ ([]);
  cdp.on('Network.responseReceived', (/** @type {any} */ e) => known.set(e.requestId, { type: e.type, url: e.response.url }));
  cdp.on('Network.loadingFinished', (/** @type {any} */ e) => files.push({ ...(known.get(e.requestId) ?? { type: 'other', url: '' }), bytes: e.encodedDataLength }));
  await page.goto(url);
  await page.getByRole('heading', { name: 'Log in' }).waitFor();
  await page.waitForLoadState('networkidle');
  const paint = await page.evaluate(() => Math.round(performance.getEntriesByName('first-contentful-paint')[0]?.startTime ?? 0));
  await context.close();
  return { files, paint, bytes: files.reduce((sum, file) => sum + file.bytes, 0) };
}

/** Waits for an expression; Playwright's own way needs `eval`, which the page's policy forbids. @param {any} page @param {string} expression */
export const holds = (page, expression) => until(() => page.evaluate(expression).catch(() => false), expression, 60_000);

/** @param {any} page @param {string} peer */
export async function openDirect(page, peer) {
  await page.getByRole('button', { name: /New conversation/ }).first().click();
  await page.getByLabel('With whom?').fill(peer);
  await page.getByRole('button', { name: 'Start' }).click();
  // Another conversation may be open until then.
  await page.locator('.bar-name', { hasText: peer }).waitFor();
}

/** @param {any} page @param {string} text */
export async function write(page, text) {
  await page.getByRole('textbox', { name: 'Message', exact: true }).fill(text);
  await page.keyboard.press('Enter');
}

/** @param {any} page @param {string} text */
export const bubble = (page, text) => page.locator('.row.message', { has: page.locator('.text', { hasText: text }) }).last();

/** Texts of the rows that exist now, oldest first. @param {any} page @returns {Promise<string[]>} */
export const shown = page => page.locator('.row.message .text').evaluateAll((/** @type {any[]} */ all) => all.map(el => [...el.childNodes].filter(n => !n.classList?.contains('meta')).map(n => n.textContent).join('')));

/** The counters of the strip. @param {any} page @returns {Promise<Record<string, number>>} */
export const counters = page => page.locator('.counter').evaluateAll((/** @type {any[]} */ all) => Object.fromEntries(all.map(el => [el.firstElementChild.textContent.trim(), Number(el.lastElementChild.textContent.replace(/\D/g, ''))])));
