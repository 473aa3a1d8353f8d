// Both encodings against the golden files of the Rust types, and bytes from nowhere.

import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { timedUuid } from '../../src/bytes.js';
import { decode, encode, join } from '../../src/codec.js';
import { ZERO_CHAIN, bodyHash, chainAfter, contentOf, filled } from '../../src/content.js';
import * as limits from '../../src/limits.js';
import { randomFrom } from '../support/random.js';

const golden = (/** @type {string} */ name) => new URL(`../../../proto/tests/golden/${name}.json`, import.meta.url);
// The package alone, without the repository around it, has no golden files.
const skip = existsSync(golden('client')) ? false : 'the golden files are in the repository only';
const vectors = (/** @type {string} */ name) => JSON.parse(readFileSync(golden(name), 'utf8'));
const hex = (/** @type {Uint8Array} */ bytes) => Buffer.from(bytes).toString('hex');
const unhex = (/** @type {string} */ text) => new Uint8Array(Buffer.from(text, 'hex'));

for (const side of ['client', 'server']) {
  test(`every ${side} frame of the golden files comes out alike from both encodings, and goes back byte for byte`, { skip }, () => {
    const all = vectors(side);
    assert.ok(all.length > 10);
    for (const { name, json, msgpack } of all) {
      const [frame] = decode('json', json);
      assert.deepEqual(decode('msgpack', unhex(msgpack)), [frame], name);
      assert.equal(encode('json', frame), json, name);
      assert.equal(hex(/** @type {Uint8Array} */ (encode('msgpack', frame))), msgpack, name);
    }
  });

  test(`many ${side} frames travel in one message`, { skip }, () => {
    const all = vectors(side);
    const frames = all.map((/** @type {any} */ v) => decode('json', v.json)[0]);
    for (const encoding of /** @type {const} */ (['json', 'msgpack'])) {
      assert.deepEqual(decode(encoding, join(encoding, frames.map((/** @type {any} */ f) => encode(encoding, f)))), frames);
    }
  });
}

test('body hash and chain of every golden entry are those of the server', { skip }, () => {
  const entries = vectors('server').filter((/** @type {any} */ v) => v.name.startsWith('entry_'));
  let checked = 0;
  for (const { name, json } of entries) {
    const entry = decode('json', json)[0].d;
    assert.equal(chainAfter(entry, ZERO_CHAIN), entry.chain, name);
    const content = contentOf(entry);
    if (content === undefined) continue;
    assert.equal(bodyHash(entry.cid, content), entry.body_hash, name);
    assert.deepEqual(filled({ ...fixed(entry), echo: true }, content), entry, name);
    checked += 1;
  }
  assert.equal(checked, entries.length - 2, 'all but the echo and the redacted one have a content');
});

/** @param {any} entry */
function fixed({ conv, seq, n, msg_id, ts, from, device, cid, kind, body_hash, chain }) {
  return { conv, seq, n, msg_id, ts, from, device, cid, kind, body_hash, chain };
}

test('unknown frames and fields are taken, a known frame without what it must have is not', () => {
  const [unknown, read] = decode('json', '{"t":"teleport","d":{"far":true}}\n\n{"d":{"x":1,"rev":"1.2"},"extra":[],"t":"caught_up"}');
  assert.equal(unknown.t, 'teleport');
  assert.deepEqual(read, { t: 'caught_up', d: { x: 1, rev: '1.2' } });
  for (const bad of ['', '{"t":"entry","d":{"conv":"x"}}', '{"t":7}', '{', '{"t":"gap","d":{"conv":"x","from":-1,"to":2,"reason":"r"}}']) {
    assert.throws(() => decode('json', bad), bad);
  }
  assert.throws(() => decode('json', ' '.repeat(limits.MESSAGE_BYTES_MAX + 1)));
});

test('damaged bytes throw or decode, and never hang', { skip }, () => {
  const random = randomFrom(7);
  const all = vectors('server');
  for (let i = 0; i < 3_000; i++) {
    const bytes = unhex(all[Math.floor(random() * all.length)].msgpack);
    for (let k = 0; k < 1 + random() * 3; k++) bytes[Math.floor(random() * bytes.length)] = Math.floor(random() * 256);
    const cut = random() < 0.3 ? bytes.subarray(0, Math.floor(random() * bytes.length)) : bytes;
    try {
      decode('msgpack', cut);
    } catch (error) {
      assert.ok(error instanceof Error && !(error instanceof assert.AssertionError));
    }
  }
});

test('bounds that the server has too are the same there', { skip }, () => {
  const source = readFileSync(new URL('../../../proto/src/limits.rs', import.meta.url), 'utf8');
  const values = new Map([...source.matchAll(/pub const (\w+): \w+ = ([\d_* ]+);/g)].map(([, name, text]) => {
    return [name, text.replaceAll('_', '').split('*').reduce((product, factor) => product * Number(factor), 1)];
  }));
  const shared = Object.entries(limits).filter(([name]) => values.has(name));
  assert.ok(shared.length >= 18, `${shared.length} shared`);
  for (const [name, value] of shared) assert.equal(value, values.get(name), name);
});

test('a timed UUID is of version 7, and those drawn later are higher', () => {
  const uuid = /^018bcfe5-6800-7fff-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
  assert.match(timedUuid(1_700_000_000_000, 0xfff), uuid);
  assert.match(timedUuid(1_700_000_000_000.9, 0x1fff), uuid, 'whole milliseconds, and a count that has run over');
  assert.match(timedUuid(-5, 0), /^00000000-0000-7000-/, 'a clock before its time');
  const order = [timedUuid(1_000, 0), timedUuid(1_000, 1), timedUuid(1_001, 0), timedUuid(2 ** 33, 0)];
  assert.deepEqual([...order].sort(), order);
  assert.notEqual(timedUuid(1, 1), timedUuid(1, 1));
});
