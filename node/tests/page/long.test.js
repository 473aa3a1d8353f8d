// A long conversation: only what is near the view exists, the row under the eye stands still while older ones come, and frames
// are not missed. FLOTILLA_PAGE_MESSAGES=10000 for as many messages (1,500 by default).

import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { after, before, test } from 'node:test';
import { MemoryStore, open } from '../../../client-js/src/node.js';
import { Dev, People, noBinary, noBrowser, pause, until } from './support/dev.js';

const skip = noBinary || noBrowser;
const COUNT = Number(process.env.FLOTILLA_PAGE_MESSAGES ?? 1_500);
const WORDS = 'the harbour is calm tonight and three boats lie at anchor while the wind turns north we should leave before the tide does bring rope bread and the long map'.split(' ');
/** @type {Dev} */ let dev;
/** @type {People} */ let people;

before(async () => {
  if (skip) return;
  globalThis.WebSocket ??= createRequire(new URL('../../../client-js/package.json', import.meta.url))('ws');
  [dev, people] = await Promise.all([Dev.start(), People.start()]);
  const [olga, paul] = await Promise.all(['olga', 'paul'].map(user => open({ urls: dev.urls, user, token: `dev:${user}`, store: new MemoryStore() })));
  await until(() => olga.status.state === 'online' && paul.status.state === 'online', 'both are online');
  for (let n = 1; n <= COUNT; n += 250) {
    await Promise.all(Array.from({ length: Math.min(250, COUNT - n + 1) }, async (_, i) => {
      const [from, to] = (n + i) % 3 === 0 ? [paul, 'olga'] : [olga, 'paul'];
      const { outcome } = await from.send({ to, text: `${n + i}. ${WORDS.slice(0, 2 + ((n + i) * 7) % 24).join(' ')}` });
      await outcome;
    }));
  }
  await olga.close();
  await paul.close();
});
after(async () => {
  await people?.end();
  await dev?.end();
});

/** Frames and long tasks since the last call. @param {any} page @param {string} what */
async function frames(page, what) {
  const seen = await page.evaluate(() => {
    const w = /** @type {any} */ (window);
    const all = w.gaps.splice(0).sort((/** @type {number} */ a, /** @type {number} */ b) => a - b);
    const at = (/** @type {number} */ share) => Math.round(all[Math.min(all.length - 1, Math.floor(all.length * share))]);
    return { frames: all.length, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1), long: w.long.splice(0).length };
  });
  console.log(`    ${what}: ${seen.frames} frames, ms between two: p50 ${seen.p50}, p95 ${seen.p95}, p99 ${seen.p99}, max ${seen.max}; tasks over 50 ms: ${seen.long}`);
  return seen;
}

test('a long conversation scrolls to its beginning and back with few rows at a time', { skip }, async () => {
  const page = await people.demo('olga', dev.urls[0]);
  await page.locator('.room', { hasText: 'paul' }).click();
  await page.locator('.row.message').last().waitFor();
  await page.evaluate(() => {
    const w = /** @type {any} */ (window);
    w.gaps = [];
    w.long = [];
    new PerformanceObserver(list => w.long.push(...list.getEntries())).observe({ entryTypes: ['longtask'] });
    let last = performance.now();
    const tick = (/** @type {number} */ now) => {
      w.gaps.push(now - last);
      last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
  const rows = () => page.locator('.virtual-window > .row').count();
  const loaded = () => page.evaluate('window.flotilla.app.thread(window.flotilla.app.current).rows().length');
  assert.ok((await loaded()) < 300, 'one page to begin with');
  await page.locator('.messages').hover();

  // A page that comes above does not move what is read.
  await page.mouse.wheel(0, -1_500);
  await pause(300);
  const before = await loaded();
  const [key, y] = await page.evaluate(() => {
    const row = /** @type {any} */ ([...document.querySelectorAll('.row.message')].find(r => r.getBoundingClientRect().top > 200));
    return [row.dataset.seq, row.querySelector('.bubble').getBoundingClientRect().top];
  });
  await page.evaluate('window.flotilla.app.thread(window.flotilla.app.current).older()');
  await until(async () => (await loaded()) > before, 'a page came');
  await pause(300);
  const now = await page.evaluate((/** @type {string} */ key) => document.querySelector(`[data-seq="${key}"] .bubble`)?.getBoundingClientRect().top, key);
  assert.ok(Math.abs(now - y) < 1, `the row moved by ${now - y}`);

  let most = 0;
  await until(async () => {
    await page.mouse.wheel(0, -2_500);
    most = Math.max(most, await rows());
    return page.evaluate(() => {
      const { app } = /** @type {any} */ (window).flotilla;
      return !app.thread(app.current).more && document.querySelector('.messages')?.scrollTop === 0;
    });
  }, 'the beginning', 180_000);
  await page.getByText('This is the beginning of your conversation').waitFor();
  assert.equal(await loaded(), COUNT + 1);
  await frames(page, `up through ${COUNT} messages, while they are loaded`);

  for (let i = 0; i < 200; i++) {
    await page.mouse.wheel(0, 600);
    await pause(10);
    if (i % 20 === 0) most = Math.max(most, await rows());
  }
  const down = await frames(page, 'down 120,000 px through what is loaded');
  assert.ok(most < 130, `${most} rows existed at once`);
  assert.ok(down.p50 < 40, 'frames keep coming');

  // A hit in the middle, and back to the end.
  await page.getByRole('button', { name: 'Search in this conversation' }).click();
  await page.getByRole('searchbox', { name: 'Search in this conversation' }).fill(`${Math.floor(COUNT / 2)}. `);
  await page.locator('.search-count', { hasText: '1 of 1' }).waitFor();
  await page.locator('.row.marked', { hasText: `${Math.floor(COUNT / 2)}. ` }).waitFor();
  await page.keyboard.press('Escape');
  await page.getByRole('button', { name: 'To the newest message' }).click();
  await page.locator(`.row[data-seq="${COUNT}"]`).waitFor();
  await frames(page, 'search, jump, back to the end');
  assert.deepEqual(people.errors, []);
});
