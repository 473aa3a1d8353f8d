// Debian's Chromium by playwright-core, and a page that has the client's modules as they are: nothing is built.

import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join, normalize } from 'node:path';
import { fileURLToPath } from 'node:url';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));
const EXECUTABLE = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export const skip = existsSync(EXECUTABLE) ? false : `${EXECUTABLE} is not there (apt-get install chromium, or set CHROMIUM)`;

const PAGE = `<!doctype html><meta charset="utf-8"><title>flotilla-client</title><script type="module">
import * as flotilla from '/src/index.js';
window.flotilla = flotilla;
window.start = async (user, urls) => {
  const client = (window.client = await flotilla.open({ user, urls, token: 'dev:' + user, backoff_max_ms: 1000 }));
  window.seen = [];
  window.errors = [];
  window.outcomes = [];
  client.on('entry', e => window.seen.push([e.conv, e.seq, flotilla.textOf(e)]));
  client.on('error', e => window.errors.push(e));
  client.on('outcome', e => window.outcomes.push([e.cid, e.outcome.state]));
};
window.texts = async conv => (await window.client.entries(conv, { limit: 100000 })).map(flotilla.textOf);
window.ready = true;
</script>`;

/** @returns {Promise<{ url: string, end: () => Promise<void> }>} */
export async function servePage() {
  const server = createServer(async (request, response) => {
    const path = normalize(new URL(request.url ?? '/', 'http://x').pathname);
    if (path === '/') return response.setHeader('content-type', 'text/html').end(PAGE);
    if (!/^\/(src|tests)\/[\w/.-]+\.js$/.test(path)) return response.writeHead(404).end();
    const text = await readFile(join(ROOT, path)).catch(() => null);
    if (text === null) return response.writeHead(404).end();
    response.setHeader('content-type', 'text/javascript').end(text);
  });
  await new Promise(done => server.listen(0, '127.0.0.1', () => done(undefined)));
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${port}/`,
    end: async () => {
      server.closeAllConnections();
      await new Promise(done => server.close(done));
    },
  };
}

/** A browser with a profile that outlives it. */
export class Browser {
  /** @type {any} */
  context;

  /** @param {string} dir */
  constructor(dir) {
    this.dir = dir;
  }

  static async start() {
    const browser = new Browser(await mkdtemp(join(tmpdir(), 'flotilla-js-chromium-')));
    await browser.open();
    return browser;
  }

  async open() {
    const { chromium } = await import('playwright-core');
    this.context = await chromium.launchPersistentContext(this.dir, { executablePath: EXECUTABLE, headless: true, args: FLAGS });
  }

  /** @param {string} url @returns {Promise<any>} */
  async page(url) {
    const page = await this.context.newPage();
    page.on('pageerror', (/** @type {Error} */ error) => console.log(`    page: ${error.message}`));
    await page.goto(url);
    await page.waitForFunction('window.ready');
    return page;
  }

  async end() {
    await this.context.close();
    await rm(this.dir, { recursive: true, force: true, maxRetries: 5 });
  }
}
