import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Turn, follow } from '../../../docs/follow.js';

const bytes = (/** @type {string} */ text) => new TextEncoder().encode(text);

test('an answer that does not end is shown as it comes, and its newest part is kept', async () => {
  /** @type {any} */ let feed;
  const answer = new Response(new ReadableStream({ start: (controller) => { feed = controller; } }));
  /** @type {string[]} */ const shown = [];
  /** @type {() => void} */ let seen = () => {};
  const more = () => new Promise((resolve) => { seen = () => resolve(undefined); });
  const end = follow(answer, (/** @type {string} */ text) => { shown.push(text); seen(); }, 8);
  // A letter of two bytes comes in two parts.
  const letter = bytes('é');
  for (const part of [bytes('data: '), letter.slice(0, 1), letter.slice(1), bytes('rest')]) {
    const next = more();
    feed.enqueue(part);
    await next;
  }
  assert.deepEqual(shown, ['data: ', 'data: ', 'data: é', 'ta: érest'.slice(-8)]);
  feed.close();
  await end;
});

test('a new try gives the one before up, and so does stop', () => {
  const turn = new Turn();
  turn.stop();
  const first = turn.begin();
  const second = turn.begin();
  assert.deepEqual([first.aborted, second.aborted], [true, false]);
  turn.stop();
  assert.ok(second.aborted);
});
