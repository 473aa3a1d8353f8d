// The page that draws the API's documents, in Chromium against real nodes: reads, tries calls, by pointer and by keyboard.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { stage } from './support/dev.js';

const { skip, dev, people } = stage();

/** A page on the documents that fails the test by anything that goes wrong in it. */
async function docs(options = {}) {
  const context = await people.browserOf(options);
  const page = await context.newPage();
  /** @type {string[]} */
  const wrong = [];
  page.on('pageerror', (/** @type {Error} */ error) => wrong.push(String(error)));
  // A call that is refused is a line in the console too.
  page.on('console', (/** @type {any} */ line) => line.type() === 'error' && !line.text().includes('Failed to load resource') && wrong.push(line.text()));
  page.on('request', (/** @type {any} */ request) => !request.url().startsWith(dev.urls[0]) && wrong.push(`asked ${request.url()}`));
  await page.goto(`${dev.urls[0]}/docs`);
  await page.getByRole('heading', { name: 'Accounts' }).first().waitFor();
  return { page, wrong };
}

test('a reader becomes a demo user, tries a call and sees the answer', { skip }, async () => {
  const { page, wrong } = await docs();
  const operation = page.locator('#getMe');
  await operation.locator('summary').click();
  await operation.getByRole('button', { name: 'Send GET' }).click();
  await operation.locator('.answer', { hasText: '401' }).waitFor();
  assert.match(await operation.getByLabel('Answer', { exact: true }).innerText(), /"unauthenticated"/);

  await page.getByRole('button', { name: 'Be a demo user' }).click();
  await operation.getByRole('button', { name: 'Send GET' }).click();
  await operation.locator('.answer', { hasText: '200' }).waitFor();
  assert.match(await operation.getByLabel('Answer', { exact: true }).innerText(), /"user": "guest-/);
  const curl = await operation.getByLabel('The same with curl').innerText();
  assert.ok(curl.includes('$TOKEN') && !curl.includes('dev:guest'), 'what is copied holds no token');

  // A body, made from the schema, with a key of its own.
  const create = page.locator('#postGroups');
  await create.locator('summary').click();
  await create.getByLabel('Body').fill('{ "name": "readers" }');
  await create.getByRole('button', { name: 'Send POST' }).click();
  await create.locator('.answer', { hasText: '200' }).waitFor();
  const { conv } = JSON.parse(await create.getByLabel('Answer', { exact: true }).innerText());

  const show = page.locator('#getConversationsByConv');
  await show.locator('summary').click();
  await show.getByLabel('conv').fill(conv);
  await show.getByLabel('conv').press('Enter');
  await show.locator('.answer', { hasText: '"readers"' }).waitFor();

  // A stream shows what comes while it goes on, and ends when it is told to.
  const stream = page.locator('#getInboxStream');
  await stream.locator('summary').click();
  await stream.getByRole('button', { name: 'Send GET' }).click();
  await stream.locator('.answer', { hasText: 'caught_up' }).waitFor();
  await stream.getByRole('button', { name: 'Send GET' }).click();
  await stream.locator('.answer', { hasText: 'caught_up' }).waitFor();
  await stream.getByRole('button', { name: 'Stop' }).click();
  await stream.locator('.answer', { hasText: 'Stopped.' }).waitFor();
  assert.equal(await stream.getByRole('button', { name: 'Stop' }).count(), 0, 'nothing is left to stop');

  // Nothing of it outlives the page.
  assert.deepEqual(await page.evaluate(() => [localStorage.length, sessionStorage.length, document.cookie]), [0, 0, '']);
  assert.deepEqual(wrong, []);
  await page.context().close();
});

test('everything is there by keyboard, narrow and dark, and every operation opens', { skip }, async () => {
  const { page, wrong } = await docs({ viewport: { width: 400, height: 800 }, colorScheme: 'dark' });
  await page.keyboard.press('Tab');
  assert.equal(await page.evaluate(() => document.activeElement?.textContent), 'Skip to the operations');
  await page.getByLabel('Find an operation').fill('export');
  assert.equal(await page.locator('main details:visible').count(), 1);
  await page.getByLabel('Find an operation').fill('');
  const all = page.locator('main details');
  const count = await all.count();
  assert.ok(count > 60, `${count} operations and frames`);
  for (const details of await all.all()) await details.locator('summary').press('Enter');
  for (const details of await all.all()) await details.locator('> div').waitFor();
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'nothing sticks out');
  assert.equal(await page.evaluate(() => getComputedStyle(document.body).backgroundColor), 'rgb(18, 22, 29)');
  await page.getByText('outcome_unknown').first().waitFor();
  assert.deepEqual(wrong, []);
  await page.context().close();
});
