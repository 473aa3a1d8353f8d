// Logging in without a password, against a node that is a function.

import assert from 'node:assert/strict';
import { afterEach, test } from 'node:test';
import { MemoryStore, Session, loginMethods, requestCode } from '../../src/index.js';

const { fetch } = globalThis;
afterEach(() => (globalThis.fetch = fetch));

const urls = ['http://node'];
const tokens = { user: 'e.0123456789abcdef0123456789abcdef', device: 'd', access_token: 'a', expires_at: Date.now() + 900_000, refresh_token: 'r' };

/** @param {(path: string, body: any, headers: any) => any} answer an object, or an error's [status, code] */
function node(answer) {
  /** @type {{ path: string, body: any, key: string | undefined }[]} */
  const asked = [];
  globalThis.fetch = /** @type {any} */ (async (/** @type {string} */ url, /** @type {any} */ { body, headers }) => {
    const path = url.replace('http://node/v1/', '');
    const params = body === undefined ? undefined : JSON.parse(body);
    asked.push({ path, body: params, key: headers['idempotency-key'] });
    const said = answer(path, params, headers);
    return Array.isArray(said)
      ? { ok: false, status: said[0], json: async () => ({ code: said[1], message: said[1], retryable: said[0] >= 500 }) }
      : { ok: true, status: 200, json: async () => said };
  });
  return asked;
}

test('a code is asked for and used; the same store is the same device', async () => {
  const asked = node(path => (path === 'auth/otp' ? { expires_in_ms: 300_000, again_in_ms: 30_000 } : tokens));
  assert.equal((await requestCode({ urls, address: 'ann@example.org' })).again_in_ms, 30_000);
  const store = new MemoryStore();
  const session = await Session.logInByCode({ urls, address: 'ann@example.org', code: '012345', store, name: 'test' });
  assert.equal(session.user, tokens.user);
  assert.equal(await session.token({ fresh: false }), 'a');
  await Session.logInByCode({ urls, address: 'ann@example.org', code: '543210', store });
  const [, first, second] = asked.map(({ body }) => body);
  assert.deepEqual({ ...first, install: '' }, { address: 'ann@example.org', code: '012345', name: 'test', install: '' });
  assert.ok(first.install.length > 20 && first.install === second.install);
  assert.notEqual(asked[1].key, asked[2].key);
});

test('a lost answer is asked for again under the same key, a wrong code is not tried again', async () => {
  let lost = true;
  const asked = node(() => {
    if (!lost) return tokens;
    lost = false;
    throw new TypeError('network');
  });
  await Session.logInByCode({ urls, address: '+4930123456', code: '012345', store: new MemoryStore() });
  assert.deepEqual([asked.length, asked[0].key], [2, asked[1].key]);
  const refused = node(() => [401, 'unauthenticated']);
  const store = new MemoryStore();
  await assert.rejects(Session.logInByCode({ urls, address: '+4930123456', code: '000000', store }), { code: 'unauthenticated', status: 401 });
  assert.deepEqual([refused.length, await store.tokens()], [1, null]);
});

test('a token of the issuer logs in, but not into a store of somebody else', async () => {
  const asked = node(path => (path === 'auth/methods' ? { methods: ['password', 'external'], issuer: 'https://id.example' } : tokens));
  assert.deepEqual((await loginMethods({ urls })).methods, ['password', 'external']);
  const store = new MemoryStore();
  assert.equal((await Session.logInByToken({ urls, jwt: 'x.y.z', store })).user, tokens.user);
  assert.equal(asked[1].body.token, 'x.y.z');
  const bobs = new MemoryStore();
  const saved = await bobs.load();
  bobs.load = async () => ({ ...saved, device: /** @type {any} */ ({ user: 'bob' }) });
  await assert.rejects(Session.logInByToken({ urls, jwt: 'x.y.z', store: bobs }), { code: 'wrong_store' });
  assert.equal(await bobs.tokens(), null);
});
