import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CodeLogin, addressOf, codeOf, inWords } from '../../../web/js/code.js';

/** @param {any[]} answers errors are thrown */
function world(answers) {
  /** @type {any[]} */
  const asked = [];
  const next = (/** @type {any[]} */ ...what) => {
    asked.push(what);
    const answer = answers.shift();
    return answer instanceof Error ? Promise.reject(answer) : Promise.resolve(answer);
  };
  const clock = { now: 1_000 };
  return { asked, clock, login: new CodeLogin({ ask: next, enter: next, now: () => clock.now }) };
}
/** @param {string} code @param {any} [more] */
const refusal = (code, more = {}) => Object.assign(new Error(code), { code, ...more });

test('an address is one however it is written', () => {
  assert.equal(addressOf(' Ann.B@Example.ORG '), 'ann.b@example.org');
  assert.equal(addressOf('+49 (30) 123-456'), '+4930123456');
  for (const bad of ['', 'ann', 'ann@home', 'a b@c.org', '030 123456', '+0123456789', '+12345']) assert.equal(addressOf(bad), null, bad);
  assert.equal(codeOf(' 012 345'), '012345');
  for (const bad of ['', '12345', '1234567', '12345a']) assert.equal(codeOf(bad), null, bad);
});

test('a code is asked for, a wrong one is told, the right one enters', async () => {
  const { login, asked } = world([{ again_in_ms: 30_000 }, refusal('unauthenticated'), 'client']);
  assert.match((await login.ask('nobody')) ?? '', /e-mail/);
  assert.deepEqual(await login.enter('123456'), { wrong: 'Ask for a code first.' });
  assert.equal(await login.ask('Ann@example.org'), null);
  assert.match(/** @type {any} */ (await login.enter('12345')).wrong, /six digits/);
  assert.match(/** @type {any} */ (await login.enter('123456')).wrong, /wrong or has expired/);
  assert.deepEqual(await login.enter('123 457'), { client: 'client' });
  assert.deepEqual(asked, [['ann@example.org'], ['ann@example.org', '123456'], ['ann@example.org', '123457']]);
});

test('another code has to wait, and the one that was sent stays good', async () => {
  const { login, clock } = world([{ again_in_ms: 30_000 }, refusal('too_many_requests', { retry_after_ms: 20_000 }), refusal('too_many_requests', { retry_after_ms: 3_600_000 })]);
  assert.equal(await login.ask('a@b.org'), null);
  assert.equal(login.waitMs, 30_000);
  clock.now += 10_000;
  assert.match((await login.ask('a@b.org')) ?? '', /Enter it.*in 20 s/);
  assert.equal(login.address, 'a@b.org');
  login.back();
  assert.match((await login.ask('c@d.org')) ?? '', /in 60 minutes/);
  assert.equal(login.address, 'c@d.org', 'a code from before this page was loaded may be entered');
  clock.now += 3_600_000;
  assert.deepEqual([login.waitMs, inWords(login.waitMs)], [0, 'now']);
});

test('what is nobody\u2019s fault is thrown', async () => {
  const { login } = world([refusal('unavailable'), { again_in_ms: 0 }, refusal('outcome_unknown')]);
  await assert.rejects(login.ask('a@b.org'), { code: 'unavailable' });
  assert.equal(await login.ask('a@b.org'), null);
  await assert.rejects(login.enter('123456'), { code: 'outcome_unknown' });
});
