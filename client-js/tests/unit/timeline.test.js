import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fold } from '../../src/timeline.js';
import { randomFrom } from '../support/random.js';

const bytes = (/** @type {string} */ text) => new TextEncoder().encode(text);
/** @param {number} seq @param {any} fields */
const entry = (seq, fields) => ({ conv: 'd', seq, n: 0, msg_id: '1', ts: 5, from: 'alice', device: '', cid: `c${seq}`, kind: 'message', body_hash: '', chain: '', ...fields });

const ENTRIES = [
  entry(1, { body: bytes('one') }),
  entry(2, { body: bytes('two'), from: 'bob' }),
  entry(3, { kind: 'edit', target: 1, body: bytes('ONE') }),
  entry(4, { kind: 'react', target: 2, emoji: '👍', on: true }),
  entry(5, { kind: 'react', target: 2, emoji: '👍', on: true, from: 'bob' }),
  entry(6, { kind: 'edit', target: 1, body: bytes('one!') }),
  entry(7, { kind: 'react', target: 2, emoji: '👍', on: false }),
  entry(8, { body: bytes('gone') }),
  entry(9, { kind: 'react', target: 8, emoji: '🎉', on: true }),
  entry(10, { kind: 'delete', target: 8 }),
  entry(11, { kind: 'rename', name: 'crew' }),
  entry(12, { redacted: true }),
];

test('the last edit, the last word of each reaction, and a deletion win, whatever order the entries come in', () => {
  const random = randomFrom(3);
  for (let i = 0; i < 50; i++) {
    const shuffled = ENTRIES.map(e => [random(), e]).sort((a, b) => Number(a[0]) - Number(b[0])).map(([, e]) => /** @type {any} */ (e));
    const seen = fold(shuffled).map(m => [m.seq, m.kind, m.text, m.edited, m.deleted, { ...m.reactions }]);
    assert.deepEqual(seen, [
      [1, 'message', 'one!', true, false, {}],
      [2, 'message', 'two', false, false, { '👍': ['bob'] }],
      [8, 'message', '', false, true, {}],
      [11, 'rename', '', false, false, {}],
      [12, 'message', '', false, true, {}],
    ]);
  }
});

test('a reaction may be any text', () => {
  const [message] = fold([entry(1, {}), ...['__proto__', 'constructor', 'toString'].map((emoji, i) => entry(2 + i, { kind: 'react', target: 1, emoji, on: true }))]);
  assert.deepEqual(Object.entries(message.reactions), [['__proto__', ['alice']], ['constructor', ['alice']], ['toString', ['alice']]]);
});
