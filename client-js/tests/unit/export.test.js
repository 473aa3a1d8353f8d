import assert from 'node:assert/strict';
import { test } from 'node:test';
import { exportLines } from '../../src/export.js';

const conv = 'g0123456789abcdef0123456789abcdef';
const whole = ['{"seq":1}', '{"seq":2}', '{"end":true,"entries":2,"head":2}'];

/** A node that answers with these pieces of bytes, or with [status, code]. @param {(url: string, token: string) => string[] | [number, string] | Error} say */
function node(say) {
  return /** @type {any} */ (async (/** @type {string} */ url, /** @type {any} */ { headers }) => {
    const said = say(url, headers.authorization.replace('Bearer ', ''));
    if (said instanceof Error) throw said;
    if (typeof said[0] === 'number') return Response.json({ code: said[1], message: 'no', retryable: said[0] >= 500 }, { status: said[0] });
    const pieces = /** @type {string[]} */ (said).map(text => new TextEncoder().encode(text));
    return new Response(new ReadableStream({ pull: body => (pieces.length > 0 ? body.enqueue(pieces.shift()) : body.close()) }));
  });
}
/** @param {any} fetch @param {string[]} [urls] @param {any} [token] */
async function all(fetch, urls = ['http://a', 'http://b'], token = () => 't') {
  const seqs = [];
  for await (const { seq } of exportLines({ urls, token, conv, fetch })) seqs.push(seq);
  return seqs;
}

test('lines arrive whole, however the bytes are cut, also within a letter', async () => {
  const text = `${whole.join('\n').replace('{"seq":1}', '{"seq":1,"name":"Ödegård"}')}\n`;
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 3, 1000]) {
    const pieces = Array.from({ length: Math.ceil(bytes.length / size) }, (_, at) => bytes.slice(at * size, (at + 1) * size));
    const fetch = /** @type {any} */ (async () => new Response(new ReadableStream({ pull: body => (pieces.length > 0 ? body.enqueue(pieces.shift()) : body.close()) })));
    const seqs = [];
    for await (const line of exportLines({ urls: ['http://a/'], token: () => 't', conv, fetch })) seqs.push(line.name ?? line.seq);
    assert.deepEqual(seqs, ['Ödegård', 2]);
  }
});

test('an export without its last line, or with fewer lines than it says, is not whole', async () => {
  for (const lines of [whole.slice(0, 2), whole.slice(1), []]) {
    await assert.rejects(all(node(() => [`${lines.join('\n')}\n`])), { code: 'unavailable', retryable: true });
  }
  await assert.rejects(all(node(() => ['{"seq":1}\n{"error":{"code":"not_member","message":"gone"}}\n'])), { code: 'not_member' });
});

test('a node that does not answer is passed over, a refusal is not, and a token that has ended is renewed once', async () => {
  /** @type {string[]} */
  const asked = [];
  const second = node(url => (asked.push(url), url.startsWith('http://a') ? new TypeError('network') : [`${whole.join('\n')}\n`]));
  assert.deepEqual(await all(second), [1, 2]);
  assert.deepEqual(asked, ['a', 'b'].map(host => `http://${host}/v1/conversations/${conv}/export`));
  await assert.rejects(all(node(() => [403, 'not_member'])), { code: 'not_member', status: 403 });
  await assert.rejects(all(node(() => [503, 'unavailable'])), { code: 'unavailable', retryable: true });
  const token = (/** @type {{ fresh: boolean }} */ { fresh }) => (fresh ? 'new' : 'old');
  assert.deepEqual(await all(node((_, t) => (t === 'new' ? [`${whole.join('\n')}\n`] : [401, 'unauthenticated'])), ['http://a'], token), [1, 2]);
  await assert.rejects(all(node(() => [401, 'unauthenticated']), ['http://a'], token), { code: 'unauthenticated' });
});

test('a node that falls silent in the middle is given up, one that is slow is not, and a slow reader is waited for', async () => {
  const [first, second, end] = whole.map(line => `${line}\n`);
  const pause = (/** @type {number} */ ms) => new Promise(done => setTimeout(done, ms));
  let cancelled = false;
  /** @param {(string | number)[]} says text, or how long it says nothing; in the end it hangs */
  const slow = says => /** @type {any} */ (async () => new Response(new ReadableStream({
    async pull(body) {
      for (let next = says.shift(); ; next = says.shift()) {
        if (next === undefined) return new Promise(() => {});
        if (typeof next === 'string') return body.enqueue(new TextEncoder().encode(next));
        await pause(next);
      }
    },
    cancel: () => void (cancelled = true),
  })));
  /** @type {number[]} */
  const seqs = [];
  const run = async (/** @type {any} */ fetch, /** @type {number} */ silence_ms, reading = 0) => {
    seqs.length = 0;
    for await (const { seq } of exportLines({ urls: ['http://a'], token: () => 't', conv, fetch, silence_ms })) {
      seqs.push(seq);
      await pause(reading);
    }
    return seqs;
  };
  await assert.rejects(run(slow([first]), 50), { code: 'unavailable', retryable: true, message: /nothing of the export came for 50 ms/ });
  assert.deepEqual([seqs, cancelled], [[1], true]);
  assert.deepEqual(await run(slow([100, first, 100, second, 100, end]), 5_000), [1, 2]);
  assert.deepEqual(await run(slow([first, second, end]), 200, 300), [1, 2], 'the time of the reader does not count');
});
