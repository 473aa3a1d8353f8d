// The page's weight on a first load, and where time goes while 10,000 messages scroll:
// `FLOTILLA_BIN=… node node/tests/page/measure.js [MESSAGES [TRACE.json]]`.

import { readFile } from 'node:fs/promises';
import { Stage, bubble, firstLoad, pause, until } from './support/dev.js';
import { fill } from './support/long.js';

const [count = '10000', trace = '/tmp/flotilla-page-trace.json'] = process.argv.slice(2);
const COUNT = Number(count);
const set = new Stage();
const { dev, people } = set;
await set.start();

async function weight() {
  const { files, paint, bytes } = await firstLoad(people, dev.urls[0]);
  for (const type of new Set(files.map(f => f.type))) {
    const of = files.filter(f => f.type === type);
    console.log(`${type}: ${of.length} requests, ${of.reduce((sum, f) => sum + f.bytes, 0)} bytes`);
  }
  console.log(`first load: ${files.length} requests, ${bytes} bytes over the wire with headers; first contentful paint after ${paint} ms`);
}

async function scroll() {
  const page = await people.demo('olga', dev.urls[0]);
  await page.locator('.room', { hasText: 'paul' }).click();
  await bubble(page, `${COUNT - 5}. `).waitFor({ state: 'attached' }).catch(() => {});
  await page.locator('.messages').hover();
  await until(async () => {
    await page.mouse.wheel(0, -4_000);
    return page.evaluate(() => {
      const { app } = /** @type {any} */ (window).flotilla;
      return !app.thread(app.current).more && document.querySelector('.messages')?.scrollTop === 0;
    });
  }, 'the beginning', 300_000);
  await pause(1_000);
  await people.browser.startTracing(page, { path: trace, categories: ['devtools.timeline', 'disabled-by-default-devtools.timeline', 'blink.user_timing'] });
  const cdp = await page.context().newCDPSession(page);
  await cdp.send('Profiler.enable');
  await cdp.send('Profiler.start');
  const began = Date.now();
  for (let i = 0; i < 240; i++) {
    await page.mouse.wheel(0, 240);
    await pause(16);
  }
  const took = Date.now() - began;
  await people.browser.stopTracing();
  hottest((await cdp.send('Profiler.stop')).profile);
  const rows = await page.locator('.virtual-window > .row').count();
  summary(JSON.parse(await readFile(trace, 'utf8')).traceEvents, took, rows);
}

/** Functions by the time they took themselves. @param {any} profile */
function hottest({ nodes, samples, timeDeltas }) {
  const byId = new Map(nodes.map((/** @type {any} */ n) => [n.id, n]));
  const times = new Map();
  samples.forEach((/** @type {number} */ id, /** @type {number} */ at) => {
    const { callFrame: { functionName, url, lineNumber } } = byId.get(id);
    const name = `${functionName || '(anonymous)'} ${url.split('/').at(-1)}:${lineNumber + 1}`;
    times.set(name, (times.get(name) ?? 0) + timeDeltas[at] / 1_000);
  });
  const top = [...times].filter(([name]) => !/^\((idle|program|root)\)/.test(name)).sort((a, b) => b[1] - a[1]).slice(0, 12);
  console.log(`  hottest: ${top.map(([name, ms]) => `${name} ${ms.toFixed(0)} ms`).join(', ')}`);
}

/** @param {any[]} events @param {number} took @param {number} rows */
function summary(events, took, rows) {
  const main = events.find(e => e.name === 'thread_name' && e.args.name === 'CrRendererMain' && events.some(f => f.tid === e.tid && f.pid === e.pid && f.name === 'Layout'));
  const sum = (/** @type {string[]} */ names) => events.filter(e => e.ph === 'X' && e.tid === main.tid && e.pid === main.pid && names.includes(e.name)).reduce((ms, e) => ms + e.dur / 1_000, 0);
  const tasks = events.filter(e => e.ph === 'X' && e.tid === main.tid && e.pid === main.pid && e.name === 'RunTask').map(e => e.dur / 1_000).sort((a, b) => a - b);
  const frames = events.filter(e => e.name === 'FireAnimationFrame' && e.tid === main.tid && e.pid === main.pid).length;
  const say = (/** @type {string} */ name, /** @type {number} */ ms) => console.log(`  ${name}: ${ms.toFixed(0)} ms (${(100 * ms / took).toFixed(1)} %)`);
  console.log(`${COUNT} messages loaded, scrolled 57,600 px in ${took} ms by wheel; ${rows} rows exist; ${frames} times something was drawn anew`);
  say('script', sum(['FireAnimationFrame', 'EventDispatch']));
  say('style', sum(['UpdateLayoutTree', 'RecalculateStyles']));
  say('layout', sum(['Layout']));
  say('paint', sum(['Paint', 'PrePaint', 'Layerize', 'Commit']));
  console.log(`  tasks: ${tasks.length}, p99 ${tasks[Math.floor(tasks.length * 0.99)]?.toFixed(1)} ms, longest ${tasks.at(-1)?.toFixed(1)} ms, over 50 ms: ${tasks.filter(t => t > 50).length}`);
  console.log(`  trace: ${trace} (chrome://tracing, or DevTools, Performance, Load)`);
}

await weight();
await fill(set.client, COUNT);
await scroll();
await set.end();
process.exit(0);
