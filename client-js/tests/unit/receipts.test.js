// Marks of groups that are open: told as they move, asked for again at each connect, and nothing depends on them.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Wanted } from '../../src/watches.js';
import { Scene } from '../support/scene.js';

const CREW = 'g0123456789abcdef0123456789abcdef';
const GALLEY = 'gfedcba9876543210fedcba9876543210';

/** Alice, online, in two groups. */
async function stage() {
  const scene = new Scene();
  for (const conv of [CREW, GALLEY]) scene.world.group(conv, ['alice', 'bob', 'carol']);
  scene.world.mark(CREW, 'bob', { delivered: 3, read: 2 });
  scene.world.mark(CREW, 'carol', { delivered: 3 });
  const alice = await scene.client('alice');
  await scene.online(alice);
  return { scene, alice, world: scene.world, clock: scene.clock };
}
/** @param {any} world */
const asked = world => world.heard.filter((/** @type {any} */ f) => f.t === 'receipts').map((/** @type {any} */ f) => f.d.watch);

test('the answer has all marks, events what moves; a new list replaces the old one, an empty one ends it', async () => {
  const { scene, alice, world, clock } = await stage();
  const watching = alice.client.watchReceipts([CREW]);
  await clock.advance(50);
  const all = { conv: CREW, members: [{ user: 'bob', delivered: 3, read: 2 }, { user: 'carol', delivered: 3 }] };
  assert.deepEqual(await watching, { receipts: [all] });
  world.mark(CREW, 'carol', { delivered: 4, read: 4 });
  world.mark(GALLEY, 'bob', { delivered: 9 });
  await clock.advance(50);
  assert.deepEqual(alice.receipts, [all, { conv: CREW, members: [{ user: 'carol', delivered: 4, read: 4 }] }]);
  assert.deepEqual(alice.signals, [], 'they are told once');
  for (const list of [[GALLEY], []]) {
    const again = alice.client.watchReceipts(list);
    await clock.advance(50);
    assert.deepEqual((await again).receipts.map(r => r.conv), list);
    world.mark(CREW, 'bob', { delivered: 5 });
    await clock.advance(50);
  }
  assert.ok(!alice.receipts.slice(2).some(r => r.conv === CREW));
  assert.deepEqual(asked(world), [[CREW], [GALLEY], []]);
  await assert.rejects(alice.client.watchReceipts(Array(9).fill(CREW)), TypeError);
  await scene.end();
});

test('after a reconnect it is asked for again, and what moved meanwhile comes as an event', async () => {
  const { scene, alice, world, clock } = await stage();
  void alice.client.watchReceipts([CREW]);
  await clock.advance(50);
  world.closeAll(1006);
  world.mark(CREW, 'carol', { delivered: 7, read: 7 });
  await clock.advance(5);
  await scene.online(alice);
  await clock.advance(50);
  assert.deepEqual(asked(world), [[CREW], [CREW]]);
  assert.deepEqual(alice.receipts.at(-1).members[1], { user: 'carol', delivered: 7, read: 7 });
  await scene.end();
});

test('a list whose answer was lost is not told again once another one was wanted', async () => {
  const { scene, alice, world, clock } = await stage();
  let lost = 0;
  world.intercept = (_, frame) => frame.t === 'receipts' && lost++ === 0;
  const first = alice.client.watchReceipts([CREW]);
  await clock.advance(1_000);
  const second = alice.client.watchReceipts([GALLEY]);
  await clock.advance(10_000);
  await Promise.all([first, second]);
  assert.deepEqual(asked(world).at(-1), [GALLEY]);
  assert.deepEqual([...world.sessions].map(s => s.watched), [[GALLEY]]);
  await scene.end();
});

test('a server that does not know it says so, and is left alone until the next connect', async () => {
  const { scene, alice, world, clock } = await stage();
  world.knowsReceipts = false;
  const watching = assert.rejects(alice.client.watchReceipts([CREW]), { code: 'unsupported' });
  await clock.advance(5_000);
  await watching;
  assert.equal(asked(world).length, 1);
  assert.equal(alice.client.status.state, 'online');
  // The next node may know it.
  world.knowsReceipts = true;
  world.closeAll(4001);
  await clock.advance(5);
  await scene.online(alice);
  await clock.advance(50);
  assert.equal(alice.receipts.length, 1);
  await scene.end();
});

test('a group without quorum neither costs the connection nor is asked for in a circle', async () => {
  const { scene, alice, world, clock } = await stage();
  world.intercept = (session, frame) => {
    if (frame.t !== 'receipts') return false;
    session.put('error', { code: 'unavailable', message: '', retryable: true, retry_after_ms: 10 }, frame.id);
    return true;
  };
  for (let n = 0; n < 5; n++) {
    const watching = assert.rejects(alice.client.watchReceipts([CREW]), { code: 'unavailable', retryable: true });
    await clock.advance(1_000);
    await watching;
  }
  assert.equal(asked(world).length, 5);
  assert.equal(world.heard.filter(f => f.t === 'hello').length, 1);
  await scene.end();
});

test('the newest lists of all tabs come first, as far as there is place', () => {
  const wanted = new Wanted();
  wanted.set('one', ['a', 'b']);
  wanted.set('two', ['c', 'b']);
  assert.deepEqual(wanted.all(8), ['c', 'b', 'a']);
  assert.deepEqual(wanted.all(2), ['c', 'b']);
  wanted.set('one', ['d']);
  assert.deepEqual(wanted.all(8), ['d', 'c', 'b']);
  wanted.set('two', []);
  assert.deepEqual([wanted.all(8), wanted.of('one'), wanted.of('two')], [['d'], ['d'], []]);
  for (let tab = 0; tab < 1_000; tab++) wanted.set(`${tab}`, [`g${tab}`]);
  assert.equal(wanted.all(1_000).length, 64, 'tabs that died are forgotten');
});
