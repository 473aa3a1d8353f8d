// Stories of one device and a cluster that misbehaves, on a clock that stands still.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { LoginRequired } from '../../src/errors.js';
import * as limits from '../../src/limits.js';
import { MemoryStore } from '../../src/store/memory.js';
import { Scene } from '../support/scene.js';

const CONV = 'd05alice03bob';
const hellos = (/** @type {any} */ world) => world.heard.filter((/** @type {any} */ f) => f.t === 'hello');
const sends = (/** @type {any} */ world) => world.heard.filter((/** @type {any} */ f) => f.t === 'send');

/** @param {string} name @param {(scene: Scene) => Promise<void>} story */
const story = (name, story) =>
  test(name, async () => {
    const scene = new Scene();
    await story(scene);
    await scene.end();
  });

story('a message reaches both sides once, the own one with its body from the outbox', async scene => {
  const [alice, bob] = [await scene.client('alice'), await scene.client('bob')];
  await scene.online(alice, bob);
  const ticket = await alice.client.send({ to: 'bob', text: 'hello' });
  await scene.clock.until(() => bob.entries.length === 1 && alice.entries.length === 1, 'both have it');
  const outcome = await ticket.outcome;
  assert.equal(outcome.state, 'accepted');
  assert.deepEqual([alice.texts(CONV), bob.texts(CONV)], [['hello'], ['hello']]);
  assert.equal(alice.entries[0].echo, undefined);
  assert.equal((await alice.client.entries(CONV)).length, 1);
  assert.deepEqual(await alice.client.outbox(), []);
  await scene.clock.advance(1_000);
  const { cursors } = [...scene.world.devices.values()].find(d => d.user === 'bob') ?? {};
  assert.equal(cursors?.get(CONV), 1, 'acked after it was stored');
});

story('a command written while nothing can be reached goes out later, with its age, after what it follows', async scene => {
  scene.world.mischief.unreachable = () => true;
  const alice = await scene.client('alice');
  const tickets = [];
  for (const text of ['one', 'two', 'three']) tickets.push(await alice.client.send({ to: 'bob', text }));
  await scene.clock.advance(30_000);
  assert.equal(alice.client.status.state === 'online', false);
  scene.world.mischief.unreachable = () => false;
  await scene.online(alice);
  await scene.clock.until(() => alice.outcomes.length === 3, 'all answered');
  assert.deepEqual(alice.texts(CONV), ['one', 'two', 'three']);
  const [one, two, three] = sends(scene.world).map((/** @type {any} */ f) => f.d);
  assert.deepEqual([one.after, two.after, three.after], [undefined, tickets[0].cid, tickets[1].cid]);
  assert.equal(one.age_s, undefined, 'this is the first attempt');
});

story('an answer that was lost is asked for again under the same cid, and counted once', async scene => {
  const [alice, bob] = [await scene.client('alice'), await scene.client('bob')];
  await scene.online(alice, bob);
  let losses = 2;
  scene.world.mischief.loseAnswer = () => losses-- > 0;
  const ticket = await alice.client.send({ to: 'bob', text: 'once' });
  await scene.clock.until(() => alice.outcomes.length === 1 && bob.entries.length === 1, 'answered');
  const outcome = await ticket.outcome;
  assert.ok(outcome.state === 'accepted' && outcome.accepted.dup);
  assert.deepEqual([alice.seqs(CONV), bob.seqs(CONV)], [[1], [1]]);
  const tries = sends(scene.world);
  assert.deepEqual(new Set(tries.map((/** @type {any} */ f) => f.d.cid)), new Set([ticket.cid]));
  assert.ok(tries.length === 3 && tries.slice(1).every((/** @type {any} */ f) => f.d.age_s >= 1));
});

story('of a row of commands the rejected one goes alone, and those behind it keep their order', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  scene.world.intercept = (session, frame) => {
    if (frame.t !== 'send' || Buffer.from(frame.d.body, 'base64url').toString() !== 'bad') return false;
    session.put('error', { code: 'blocked', message: 'no', retryable: false }, frame.id);
    return true;
  };
  const tickets = await Promise.all(['a', 'bad', 'b', 'c'].map(text => alice.client.send({ to: 'bob', text })));
  await scene.clock.until(() => alice.outcomes.length === 4, 'all answered');
  assert.deepEqual(alice.texts(CONV), ['a', 'b', 'c']);
  const outcome = await tickets[1].outcome;
  assert.ok(outcome.state === 'rejected' && outcome.error.code === 'blocked');
  const kept = (await alice.client.outcomes()).find(a => a.cid === tickets[1].cid);
  assert.equal(new TextDecoder().decode(kept?.command.content.body), 'bad', 'the person can have the text back');
});

story('too old is no rejection: it stays unknown until the person says again', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  let old = true;
  scene.world.intercept = (session, frame) => {
    if (frame.t !== 'send' || !old) return false;
    session.put('error', { code: 'too_old', message: '', retryable: false }, frame.id);
    return true;
  };
  const ticket = await alice.client.send({ to: 'bob', text: 'late' });
  await scene.clock.until(() => alice.outcomes.length === 1, 'answered');
  assert.deepEqual(await ticket.outcome, { state: 'unknown', why: 'too_old' });
  old = false;
  const again = await alice.client.resend(ticket.cid);
  assert.equal(again.cid, ticket.cid);
  await scene.clock.until(() => alice.outcomes.length === 2, 'answered again');
  assert.equal((await again.outcome).state, 'accepted');
});

story('a rejection is not final while an earlier attempt may still arrive', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  const attempts = new Map();
  scene.world.intercept = (session, frame) => {
    const key = frame.d.cid ?? frame.d.key;
    if (key === undefined) return false;
    attempts.set(key, (attempts.get(key) ?? 0) + 1);
    // The first attempt stands still somewhere; the second one is refused.
    if (attempts.get(key) === 1) session.close(1006, 'the node stood still');
    else session.put('error', { code: 'not_found', message: 'no such conversation', retryable: false }, frame.id);
    return true;
  };
  const ticket = await alice.client.send({ to: 'bob', text: 'perhaps' });
  assert.deepEqual([await scene.clock.until(() => alice.outcomes.length === 1, 'answered'), await ticket.outcome].at(-1), { state: 'unknown', why: 'not_found: no such conversation' });
  let failure = /** @type {any} */ (null);
  alice.client.rename('g1', 'crew').catch(error => (failure = error));
  await scene.clock.until(() => failure !== null, 'the call ends');
  assert.equal(failure.code, 'outcome_unknown');
  assert.ok(attempts.get(failure.key) >= 2, 'its key repeats it');
});

story('a command of last week waits for the person', async scene => {
  scene.world.mischief.unreachable = () => true;
  const alice = await scene.client('alice');
  const ticket = await alice.client.send({ to: 'bob', text: 'stale' });
  scene.clock.wallOffset += limits.CLIENT_RESEND_MS + 1_000;
  scene.world.mischief.unreachable = () => false;
  await scene.clock.until(() => alice.outcomes.length === 1, 'given up');
  assert.deepEqual(await ticket.outcome, { state: 'unknown', why: 'stale' });
  assert.equal(sends(scene.world).length, 0);
  await alice.client.resend(ticket.cid);
  await scene.clock.until(() => alice.outcomes.length === 2, 'sent');
  assert.ok(sends(scene.world)[0].d.age_s > limits.CLIENT_RESEND_MS / 1_000, 'its true age is said');
});

story('a node that answers unavailable twice in a row is left for another one', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  const first = [...scene.world.sessions][0].url;
  scene.world.intercept = (session, frame) => {
    if (frame.t !== 'send' || session.url !== first) return false;
    session.put('error', { code: 'unavailable', message: '', retryable: true, retry_after_ms: 100 }, frame.id);
    return true;
  };
  await alice.client.send({ to: 'bob', text: 'x' });
  await scene.clock.until(() => alice.outcomes.length === 1, 'accepted elsewhere');
  assert.notEqual([...scene.world.sessions][0].url, first);
});

story('a silent node is left after 35 s, one that does not answer after 8 s', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  await scene.clock.advance(limits.RECEIVE_TIMEOUT_MS - 100);
  assert.equal(hellos(scene.world).length, 1);
  await scene.clock.advance(2_000);
  assert.equal(hellos(scene.world).length, 2);
  scene.world.intercept = (_, frame) => frame.t === 'send' && hellos(scene.world).length === 2;
  await alice.client.send({ to: 'bob', text: 'x' });
  await scene.clock.advance(limits.CLIENT_ANSWER_TIMEOUT_MS - 100);
  assert.equal(hellos(scene.world).length, 2);
  await scene.clock.until(() => alice.outcomes.length === 1, 'answered by another', 5_000);
  assert.equal(hellos(scene.world).length, 3);
});

story('pings are answered at once and hold the connection', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  for (let i = 0; i < 8; i++) {
    await scene.clock.advance(25_000);
    [...scene.world.sessions][0].put('ping', {});
    await scene.clock.advance(10);
  }
  assert.equal(scene.world.heard.filter(f => f.t === 'pong').length, 8);
  assert.equal(hellos(scene.world).length, 1);
});

story('close codes are obeyed by range', async scene => {
  const fresh = /** @type {boolean[]} */ ([]);
  const alice = await scene.client('alice', { token: (/** @type {any} */ why) => (fresh.push(why.fresh), 'dev:alice') });
  await scene.online(alice);
  for (const code of [1001, 4000, 4006, 4099]) {
    scene.world.closeAll(code);
    await scene.clock.advance(5);
    await scene.online(alice);
  }
  assert.deepEqual(fresh, [false, false, false, false, false]);
  assert.ok(hellos(scene.world).at(-1).d.rev, 'resumed');
  scene.world.closeAll(4101);
  await scene.clock.advance(5);
  await scene.online(alice);
  assert.equal(fresh.at(-1), true, 'a new token first');
  scene.world.closeAll(4200);
  await scene.clock.advance(5);
  await scene.online(alice);
  assert.equal(hellos(scene.world).at(-1).d.rev, undefined, 'rev dropped');
  const count = hellos(scene.world).length;
  scene.world.closeAll(4505, 'device_revoked');
  await scene.clock.advance(600_000);
  assert.deepEqual([alice.client.status.state, alice.client.status.code, hellos(scene.world).length], ['stopped', 4505, count]);
  await assert.rejects(alice.client.send({ to: 'bob', text: 'x' }), { code: 'stopped' });
  alice.client.reconnect();
  await scene.online(alice);
});

story('replaced by another instance once it comes back, twice it yields', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  scene.world.closeAll(4504);
  await scene.clock.advance(5);
  await scene.online(alice);
  const [first, second] = hellos(scene.world).map((/** @type {any} */ f) => f.d.instance);
  assert.notEqual(first, second, 'the one that was replaced may not come back');
  scene.world.closeAll(4504);
  await scene.clock.advance(60_000);
  assert.equal(alice.client.status.state, 'stopped');
  alice.client.reconnect();
  await scene.online(alice);
  assert.notEqual(hellos(scene.world).at(-1).d.instance, second, 'taken back by the person');
});

story('attempts rise, the instance stays, and reconnects back off with jitter', async scene => {
  scene.world.mischief.unreachable = () => true;
  const alice = await scene.client('alice', { random: () => 0.999 });
  await scene.clock.advance(60_000);
  const waits = alice.statuses.filter(s => s.state === 'offline').map(s => s.retry_in_ms);
  assert.deepEqual(waits.slice(0, 6), [100, 200, 400, 799, 1598, 3197]);
  assert.ok(waits.slice(6).every(w => w === 4995));
  scene.world.mischief.unreachable = () => false;
  await scene.online(alice);
  scene.world.closeAll(4001);
  await scene.clock.advance(5);
  await scene.online(alice);
  const [first, second] = hellos(scene.world).map((/** @type {any} */ f) => f.d);
  assert.equal(first.instance, second.instance);
  assert.ok(second.attempt > first.attempt);
  assert.equal(first.install, second.install);
});

story('goaway: connected elsewhere first, nothing is missed', async scene => {
  const [alice, bob] = [await scene.client('alice'), await scene.client('bob')];
  await scene.online(alice, bob);
  const old = [...scene.world.sessions].find(s => s.user === 'alice');
  assert.ok(old);
  old.put('goaway', { reason: 'shutdown', reconnect_in_ms: 200, urls: scene.world.nodes });
  await scene.clock.advance(100);
  scene.world.say('bob', CONV, 'meanwhile');
  await scene.clock.advance(500);
  const now = [...scene.world.sessions].find(s => s.user === 'alice');
  assert.ok(now && now !== old && now.url !== old.url && !old.open);
  assert.ok(!alice.statuses.some(s => s.state === 'offline'), 'never offline');
  scene.world.say('bob', CONV, 'after');
  await scene.clock.until(() => alice.entries.length === 2, 'both');
  assert.deepEqual(alice.texts(CONV), ['meanwhile', 'after']);
});

story('a token that ends is renewed in place', async scene => {
  let n = 0;
  const alice = await scene.client('alice', { token: () => (n++, 'dev:alice') });
  await scene.online(alice);
  [...scene.world.sessions][0].put('signal', { k: 'auth_expiring', at: 1 });
  await scene.clock.advance(50);
  assert.equal(scene.world.heard.filter(f => f.t === 'auth').length, 1);
  assert.deepEqual([n, hellos(scene.world).length, alice.signals.length], [2, 1, 1]);
});

story('a token function that has none yet is asked again; one that cannot help stops the client', async scene => {
  let tries = 0;
  const alice = await scene.client('alice', {
    token: () => {
      if (++tries < 4) throw new Error('no network');
      return 'dev:alice';
    },
  });
  await scene.online(alice);
  let hung = 0;
  const carol = await scene.client('carol', { token: () => (++hung < 3 ? new Promise(() => {}) : 'dev:carol') });
  await scene.clock.advance(2 * limits.TOKEN_TIMEOUT_MS);
  await scene.online(carol);
  const bob = await scene.client('bob', {
    token: () => {
      throw new LoginRequired();
    },
  });
  await scene.clock.advance(60_000);
  assert.equal(bob.client.status.state, 'stopped');
});

story('a hole is never delivered: a new connection first, then the history', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  scene.world.say('bob', CONV, '1');
  await scene.clock.until(() => alice.entries.length === 1, 'first');
  const device = /** @type {any} */ ([...scene.world.devices.values()][0]);
  const skip = () => {
    device.cursors.set(CONV, 3);
    for (const s of scene.world.sessions) s.sent.set(CONV, 3);
  };
  for (const text of ['2', '3', '4']) {
    if (text === '2') scene.world.sessions.forEach(s => (s.open = false));
    scene.world.say('bob', CONV, text);
  }
  scene.world.sessions.forEach(s => (s.open = true));
  skip();
  scene.world.say('bob', CONV, '5');
  await scene.clock.until(() => alice.entries.length === 5, 'all five');
  assert.deepEqual(alice.texts(CONV), ['1', '2', '3', '4', '5']);
  assert.deepEqual(alice.errors.map(e => [e.code, e.stored, e.action]), [['hole', 1, 'reconnect'], ['hole', 1, 'fill']]);
  await scene.clock.advance(1_000);
  assert.equal(device.cursors.get(CONV), 5);
});

story('what the history does not show either becomes a gap that says so', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  scene.world.say('bob', CONV, '1');
  await scene.clock.until(() => alice.entries.length === 1, 'first');
  const log = /** @type {any} */ (scene.world.convs.get(CONV));
  scene.world.sessions.forEach(s => (s.open = false));
  for (const text of ['2', '3', '4', '5']) scene.world.say('bob', CONV, text);
  scene.world.sessions.forEach(s => (s.open = true));
  log.entries = log.entries.filter((/** @type {any} */ e) => e.seq !== 2 && e.seq !== 4);
  [.../** @type {any} */ (scene.world.devices.values())][0].cursors.set(CONV, 1);
  scene.world.closeAll(4000);
  await scene.clock.until(() => alice.seqs(CONV).at(-1) === 5, 'the last');
  assert.deepEqual(alice.seqs(CONV), [1, 3, 5]);
  assert.deepEqual(alice.gaps.map(g => [g.from, g.to, g.reason]), [[2, 2, 'unexplained'], [4, 4, 'unexplained']]);
});

story('a gap that is named is no hole, and is acked', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  scene.world.say('bob', CONV, '1');
  await scene.clock.until(() => alice.entries.length === 1, 'first');
  const [session] = scene.world.sessions;
  session.put('gap', { conv: CONV, from: 2, to: 8, reason: 'retention' });
  session.sent.set(CONV, 8);
  await scene.clock.advance(500);
  assert.deepEqual(alice.gaps.map(g => [g.from, g.to]), [[2, 8]]);
  assert.equal(scene.world.heard.filter(f => f.t === 'ack').at(-1).d[0].seq, 8);
  assert.equal(alice.errors.length, 0);
});

story('an entry that contradicts its hash or the chain is never delivered', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  scene.world.say('bob', CONV, '1');
  await scene.clock.until(() => alice.entries.length === 1, 'first');
  scene.world.sessions.forEach(s => (s.open = false));
  scene.world.say('bob', CONV, '2');
  scene.world.sessions.forEach(s => (s.open = true));
  const log = /** @type {any} */ (scene.world.convs.get(CONV));
  const good = log.entries[1];
  log.entries[1] = { ...good, body: new TextEncoder().encode('forged') };
  scene.world.closeAll(4000);
  await scene.clock.advance(5_000);
  log.entries[1] = { ...good, ts: good.ts + 1 };
  scene.world.closeAll(4000);
  await scene.clock.advance(5_000);
  assert.deepEqual(alice.seqs(CONV), [1]);
  assert.deepEqual(new Set(alice.errors.map(e => e.code)), new Set(['integrity']));
  assert.ok(alice.errors.some(e => e.why === 'body_hash' && e.action === 'reconnect'));
  assert.ok(alice.errors.some(e => e.action === 'quarantine'));
  const other = 'd05alice05carol';
  scene.world.say('carol', other, 'all is well here');
  await scene.clock.until(() => alice.texts(other).length === 1, 'other conversations go on');
  assert.deepEqual(scene.world.heard.filter(f => f.t === 'ack').flatMap(f => f.d).filter(a => a.conv === CONV && a.seq > 1), []);
});

story('an echo of a command that is not known is fetched whole over a new connection', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  for (const session of scene.world.sessions) session.own.add('01234567-89ab-4def-8123-456789abcdef');
  scene.world.append('alice', '00000000-0000-0000-0000-00000000000f', CONV, '01234567-89ab-4def-8123-456789abcdef', { kind: 'message', body: new Uint8Array([65]) });
  await scene.clock.until(() => alice.entries.length === 1, 'whole');
  assert.deepEqual(alice.texts(CONV), ['A']);
  assert.equal(hellos(scene.world).length, 2);
});

story('a restore sets aside what the cluster does not know any more', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  for (const text of ['1', '2', '3']) scene.world.say('bob', CONV, text);
  await scene.clock.until(() => alice.entries.length === 3, 'three');
  const [first, second] = alice.entries;
  const to = 2 ** 32 + 2;
  [...scene.world.sessions][0].sent.set(CONV, to);
  [...scene.world.sessions][0].put('gap', { conv: CONV, from: 3, to, reason: 'restored', chain_before: second.chain });
  await scene.clock.advance(500);
  assert.deepEqual((await alice.client.entries(CONV)).map(e => e.seq), [1, 2]);
  assert.deepEqual([alice.errors, alice.gaps.length], [[], 1]);
  const other = 'd05alice05carol';
  for (const text of ['1', '2']) scene.world.say('carol', other, text);
  await scene.clock.until(() => alice.texts(other).length === 2, 'two');
  [...scene.world.sessions][0].sent.set(other, to);
  [...scene.world.sessions][0].put('gap', { conv: other, from: 3, to, reason: 'restored', chain_before: first.chain });
  await scene.clock.advance(500);
  assert.deepEqual(await alice.client.entries(other), [], 'another past');
  assert.deepEqual(alice.errors.map(e => [e.code, e.conv]), [['restored_elsewhere', other]]);
});

story('a page of history that contradicts its hashes, or does not lead to what is stored, is refused', async scene => {
  const alice = await scene.client('alice');
  scene.world.group('g1', ['alice', 'bob']);
  for (const text of ['1', '2', '3']) scene.world.say('bob', 'g1', text);
  await scene.online(alice);
  scene.world.say('bob', 'g1', '4');
  scene.world.say('bob', 'g1', '5');
  await scene.clock.until(() => alice.entries.length >= 2, 'entries');
  const low = alice.entries[0].seq;
  const ask = async (/** @type {any} */ promise) => (await Promise.allSettled([promise, scene.clock.advance(50)]))[0];
  const log = /** @type {any} */ (scene.world.convs.get('g1'));
  const good = [...log.entries];
  const codes = [];
  for (const forged of [{ ...good[1], body: new Uint8Array([1]) }, { ...good[1], ts: 1 }, good[1]]) {
    log.entries[1] = forged;
    const result = await ask(alice.client.history('g1', { limit: 3 }));
    codes.push(result.status === 'fulfilled' ? 'fine' : result.reason.code);
    const older = await ask(alice.client.history('g1', { before: 4 }));
    codes.push(older.status === 'fulfilled' ? 'fine' : older.reason.code);
  }
  assert.deepEqual(codes, ['fine', 'integrity', 'fine', 'integrity', 'fine', 'fine']);
  assert.ok(low >= 1);
});

story('scrolling back: the store, then the server, whose answer is kept', async scene => {
  const alice = await scene.client('alice');
  scene.world.group('g1', ['alice', 'bob']);
  for (let i = 1; i <= 6; i++) scene.world.say('bob', 'g1', String(i));
  // A new device starts at the head.
  scene.world.intercept = (session, frame) => (frame.t === 'hello' && scene.world.device('alice', frame.d.install), false);
  await scene.online(alice);
  for (let i = 7; i <= 9; i++) scene.world.say('bob', 'g1', String(i));
  await scene.clock.until(() => alice.entries.length === 3, 'live ones');
  const page = async (/** @type {any} */ range) => {
    const promise = alice.client.page('g1', range);
    await scene.clock.advance(20);
    const { entries, more } = await promise;
    return [entries.map((/** @type {any} */ e) => e.seq), more];
  };
  const asked = () => scene.world.heard.filter(f => f.t === 'history').length;
  assert.deepEqual(await page({ limit: 2 }), [[8, 9], true]);
  assert.equal(asked(), 0);
  assert.deepEqual(await page({ limit: 5 }), [[5, 6, 7, 8, 9], true]);
  assert.deepEqual(await page({ limit: 5 }), [[5, 6, 7, 8, 9], true]);
  assert.equal(asked(), 1, 'the second time it is in the store');
  assert.deepEqual(await page({ before: 5, limit: 5 }), [[1, 2, 3, 4], false]);
  scene.world.mischief.unreachable = () => true;
  scene.world.closeAll(4000);
  await scene.clock.advance(100);
  assert.deepEqual(await page({ limit: 20 }), [[1, 2, 3, 4, 5, 6, 7, 8, 9], false], 'also without network');
});

story('a new device id drops the positions and says so', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  for (const text of ['1', '2']) scene.world.say('bob', CONV, text);
  await scene.clock.until(() => alice.entries.length === 2, 'two');
  scene.world.devices.clear();
  scene.world.closeAll(4000);
  await scene.clock.advance(5);
  await scene.online(alice);
  scene.world.say('bob', CONV, '3');
  await scene.clock.until(() => alice.entries.length === 3, 'three');
  assert.deepEqual(alice.resets, [{ reason: 'new_device' }]);
  assert.equal(alice.errors.length, 0);
});

story('a process that died goes on from its store: same device, same cids, entries once', async scene => {
  const store = new MemoryStore();
  const first = await scene.client('alice', { store });
  await scene.online(first);
  scene.world.say('bob', CONV, '1');
  await scene.clock.until(() => first.entries.length === 1, 'first');
  scene.world.intercept = (_, frame) => frame.t === 'send';
  const ticket = await first.client.send({ to: 'bob', text: 'left over' });
  await scene.clock.advance(100);
  await first.client.close();
  scene.world.intercept = () => false;
  scene.world.say('bob', CONV, '2');
  const second = await scene.client('alice', { store });
  await scene.online(second);
  await scene.clock.until(() => second.outcomes.length === 1 && second.entries.length === 2, 'sent');
  assert.equal(second.outcomes[0].cid, ticket.cid);
  assert.deepEqual(second.texts(CONV), ['2', 'left over']);
  const [a, b] = hellos(scene.world).map((/** @type {any} */ f) => f.d);
  assert.equal(b.device, [...scene.world.devices.keys()][0]);
  assert.notEqual(a.instance, b.instance);
  assert.ok(sends(scene.world).at(-1).d.age_s >= 1);
});

story('read marks are monotone, durable, and told again until the server knows', async scene => {
  const store = new MemoryStore();
  const alice = await scene.client('alice', { store });
  await scene.online(alice);
  for (const text of ['1', '2']) scene.world.say('bob', CONV, text);
  await scene.clock.until(() => alice.entries.length === 2, 'two');
  await alice.client.read(CONV, 2);
  await alice.client.read(CONV, 1);
  await scene.clock.advance(10);
  const reads = () => scene.world.heard.filter(f => f.t === 'read').map(f => f.d.seq);
  assert.deepEqual(reads(), [2]);
  scene.world.closeAll(4000);
  await scene.clock.advance(5);
  await scene.online(alice);
  await scene.clock.advance(10);
  assert.deepEqual(reads(), [2, 2], 'the conv of the new connection does not have it yet');
  [...scene.world.sessions][0].put('conv', { rev: '1.2', conv: CONV, kind: 'direct', head: 2, read: 2, unread: 0, member: true });
  await scene.clock.advance(10);
  scene.world.closeAll(4000);
  await alice.client.close();
  const again = await scene.client('alice', { store });
  scene.world.convs.delete(CONV);
  await scene.online(again);
  await scene.clock.advance(10);
  assert.deepEqual(reads(), [2, 2], 'the store knows that the server knows');
});

story('a mark of what a page of history showed before it was delivered is told again once it is', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  scene.world.say('bob', CONV, '1');
  await scene.clock.until(() => alice.entries.length === 1, 'one');
  await alice.client.read(CONV, 3);
  await scene.clock.advance(10);
  const reads = () => scene.world.heard.filter(f => f.t === 'read').map(f => f.d.seq);
  const steps = [];
  for (const text of ['2', '3', '4']) {
    steps.push(reads().length);
    scene.world.say('bob', CONV, text);
    await scene.clock.advance(10);
  }
  assert.deepEqual([steps, reads()], [[1, 1, 2], [3, 3]], 'once too early, once in time, and not with what comes behind it');
});

story('calls survive a reconnect under their key, and end as unknown', async scene => {
  const alice = await scene.client('alice');
  await scene.online(alice);
  let deaf = true;
  scene.world.intercept = (session, frame) => {
    if (frame.t !== 'call' || !deaf) return false;
    session.close(1006);
    return true;
  };
  const call = alice.client.call('POST groups', { name: 'crew' });
  await scene.clock.advance(3_000);
  deaf = false;
  await scene.clock.advance(8_000);
  assert.deepEqual(await call, {});
  const keys = scene.world.heard.filter(f => f.t === 'call').map(f => f.d.key);
  assert.ok(keys.length > 1 && new Set(keys).size === 1);
  scene.world.intercept = (_, frame) => frame.t === 'call';
  const lost = assert.rejects(alice.client.call('POST groups', { name: 'x' }, keys[0]), { code: 'outcome_unknown', key: keys[0] });
  await scene.clock.advance(limits.CALL_LIMIT_MS + 100);
  await lost;
});

story('nothing hopeless is stored', async scene => {
  const alice = await scene.client('alice');
  const bad = /** @type {any[]} */ ([
    [{ to: 'bob', text: '' }, 'validation_failed'],
    [{ to: 'bob', body: new Uint8Array(limits.BODY_BYTES_MAX + 1) }, 'payload_too_large'],
    [{ to: 'bob', text: 'x', kind: 'edit' }, 'validation_failed'],
    [{ to: 'bob', text: 'x', mentions: Array(51).fill('bob') }, 'validation_failed'],
  ]);
  for (const [message, code] of bad) await assert.rejects(alice.client.send(message), { code });
  await assert.rejects(alice.client.send({ to: 'no such name!', text: 'x' }), TypeError);
  await assert.rejects(alice.client.send({ text: 'x' }), TypeError);
  assert.deepEqual(await alice.client.outbox(), []);
});

story('a store that fails stops the device: nothing is acked or sent on its word', async scene => {
  class Failing extends MemoryStore {
    broken = false;
    /** @param {any} changes */
    async commit(changes) {
      if (this.broken) throw new Error('disk full');
      return super.commit(changes);
    }
  }
  const store = new Failing();
  const alice = await scene.client('alice', { store });
  await scene.online(alice);
  store.broken = true;
  await assert.rejects(alice.client.send({ to: 'bob', text: 'x' }), /disk full/);
  assert.equal(alice.client.status.state, 'stopped');
  scene.world.say('bob', CONV, '1');
  alice.client.reconnect();
  await scene.clock.advance(60_000);
  assert.equal(alice.client.status.state, 'stopped');
  assert.deepEqual(scene.world.heard.filter(f => f.t === 'send' || f.t === 'ack'), []);
});
