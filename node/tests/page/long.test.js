// A long conversation: only what is near the view exists, the row under the eye stands still while older ones come, and frames
// are not missed. FLOTILLA_PAGE_MESSAGES=10000 for as many messages (1,500 by default).

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pause, stage, until } from './support/dev.js';
import { fill, frames, watchFrames } from './support/long.js';

const COUNT = Number(process.env.FLOTILLA_PAGE_MESSAGES ?? 1_500);
const { skip, dev, people } = stage(({ client }) => fill(client, COUNT));

test('a long conversation scrolls to its beginning and back with few rows at a time', { skip }, async () => {
  const page = await people.demo('olga', dev.urls[0]);
  await page.locator('.room', { hasText: 'paul' }).click();
  await page.locator('.row.message').last().waitFor();
  await watchFrames(page);
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
