// Tabs of one device: one leads, the others follow, and nothing depends on which.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryStore } from '../../src/store/memory.js';
import { FakeBus, FakeLocks } from '../support/browser.js';
import { never } from '../support/life.js';
import { Log, Scene } from '../support/scene.js';
import { Life } from '../support/life.js';
import { FlotillaClient } from '../../src/client.js';

const CONV = 'd05alice03bob';

class Browser {
  scene = new Scene();
  locks = new FakeLocks();
  bus = new FakeBus();
  store = new MemoryStore({ shared: true });

  async tab() {
    const { world } = this.scene;
    const life = new Life(world);
    const channel = this.bus.port();
    const own = { broken: false };
    const store = new Proxy(this.store, {
      set: (_, name, value) => Reflect.set(own, name, value),
      get: (target, name) => {
        if (name === 'commit' && own.broken) return async () => Promise.reject(new Error('broken'));
        const value = /** @type {any} */ (target)[name];
        return typeof value === 'function' ? (/** @type {any[]} */ ...args) => (life.alive ? value.apply(target, args) : never()) : value;
      },
    });
    const client = await FlotillaClient.open({
      urls: world.nodes, user: 'alice', token: 'dev:alice', store, WebSocket: life.WebSocket, clock: life.clock, random: world.random,
      locks: this.locks.of(life), channel,
    });
    const log = Object.assign(new Log(client, store), {
      /** As the browser closes a tab: no word to anybody. */
      die: () => {
        life.die();
        channel.isDead = true;
        channel.close();
        this.locks.died(life);
      },
    });
    await this.scene.clock.advance(1);
    return log;
  }
}

/** @param {string} name @param {(browser: Browser) => Promise<void>} story */
const story = (name, story) => test(name, () => story(new Browser()));
const online = async (/** @type {Browser} */ b, /** @type {any[]} */ ...tabs) => b.scene.online(...tabs);

story('one tab leads, all tabs hear everything once', async browser => {
  const [one, two, three] = [await browser.tab(), await browser.tab(), await browser.tab()];
  await online(browser, one, two, three);
  assert.deepEqual([one.client.isLeader, two.client.isLeader, three.client.isLeader], [true, false, false]);
  assert.deepEqual([one.client.status.leader, two.client.status.leader], [true, false]);
  assert.equal(browser.scene.world.sessions.size, 1);
  browser.scene.world.say('bob', CONV, 'hi all');
  await browser.scene.clock.until(() => [one, two, three].every(t => t.entries.length === 1), 'all have it');
  const late = await browser.tab();
  await online(browser, late);
  assert.equal((await late.client.entries(CONV)).length, 1);
});

story('a send from a follower goes through the store and the leader, and its answer comes back', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  const tickets = [];
  for (const text of ['a', 'b', 'c']) tickets.push(await two.client.send({ to: 'bob', text }));
  await browser.scene.clock.until(() => two.outcomes.length === 3 && one.outcomes.length === 3, 'answers');
  for (const { outcome } of tickets) assert.equal((await outcome).state, 'accepted');
  assert.deepEqual([one.texts(CONV), two.texts(CONV)], [['a', 'b', 'c'], ['a', 'b', 'c']]);
});

story('calls, read marks, typing and watching of a follower reach the cluster', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  browser.scene.world.say('bob', CONV, '1');
  await browser.scene.clock.until(() => two.entries.length === 1, 'an entry');
  const page = two.client.history(CONV, { limit: 10 });
  const call = two.client.call('POST groups', { name: 'crew' });
  const watch = two.client.watch(['bob']);
  await two.client.read(CONV, 1);
  two.client.typing(CONV);
  two.client.typing(CONV);
  await browser.scene.clock.advance(100);
  assert.equal((await page).entries.length, 1);
  assert.ok((await page).entries[0].body instanceof Uint8Array);
  assert.deepEqual([await call, await watch], [{}, {}]);
  const heard = (/** @type {string} */ t) => browser.scene.world.heard.filter(f => f.t === t).length;
  assert.deepEqual([heard('read'), heard('typing'), heard('presence')], [1, 1, 1]);
});

story('the leader dies: a follower takes over, with what nobody has answered', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  browser.scene.world.intercept = (_, frame) => frame.t === 'send';
  const a = await two.client.send({ to: 'bob', text: 'a' });
  const b = await one.client.send({ to: 'bob', text: 'b' });
  await browser.scene.clock.advance(50);
  one.die();
  browser.scene.world.intercept = () => false;
  const c = await two.client.send({ to: 'bob', text: 'c' });
  await browser.scene.clock.until(() => two.client.isLeader && two.outcomes.length === 3, 'all answered by the new leader');
  assert.deepEqual(two.texts(CONV), ['a', 'b', 'c']);
  assert.deepEqual([(await a.outcome).state, (await c.outcome).state, two.outcomes.some(o => o.cid === b.cid)], ['accepted', 'accepted', true]);
  assert.equal(browser.scene.world.sessions.size, 1);
});

story('a leader that dies after it stored an answer and before it told: the follower finds it in the store', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  browser.scene.world.intercept = (_, frame) => frame.t === 'send';
  const ticket = await two.client.send({ to: 'bob', text: 'a' });
  await browser.scene.clock.advance(50);
  one.die();
  const accepted = browser.scene.world.append('alice', ticket.cid, CONV, ticket.cid, { kind: 'message', body: new TextEncoder().encode('a') });
  await browser.store.commit([{ t: 'answered', cid: ticket.cid, outcome: { state: 'accepted', accepted }, at_ms: 1 }]);
  await browser.scene.clock.until(() => two.client.isLeader, 'leads');
  assert.equal((await ticket.outcome).state, 'accepted');
});

story('a leader that dies after it stored entries and before it told: the followers report them, in order and once', async browser => {
  const [one, two, three] = [await browser.tab(), await browser.tab(), await browser.tab()];
  await online(browser, one, two, three);
  browser.scene.world.say('bob', CONV, '1');
  await browser.scene.clock.until(() => [one, two, three].every(t => t.entries.length === 1), 'all have it');
  const world = browser.scene.world;
  for (const session of world.sessions) session.open = false;
  for (const text of ['2', '3']) {
    world.say('bob', CONV, text);
    const entry = world.convs.get(CONV)?.entries.at(-1);
    await browser.store.commit([{ t: 'entry', entry }, { t: 'position', conv: CONV, seq: entry.seq, chain: entry.chain }]);
  }
  one.die();
  world.say('bob', CONV, '4');
  await browser.scene.clock.until(() => [two, three].every(t => t.entries.length === 4), 'both followers have all');
  for (const tab of [two, three]) assert.deepEqual(tab.texts(CONV), ['1', '2', '3', '4']);
});

story('a leader whose store fails lets another tab lead', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  one.store.broken = true;
  await assert.rejects(one.client.send({ to: 'bob', text: 'x' }), /broken/);
  await browser.scene.clock.until(() => two.client.isLeader && two.client.status.state === 'online', 'the other leads');
  assert.equal((await Promise.race([two.client.send({ to: 'bob', text: 'y' }).then(t => t.cid), browser.scene.clock.advance(100).then(() => '')])).length, 36);
  await assert.rejects(one.client.send({ to: 'bob', text: 'x' }), /broken/);
});

story('a follower that dies right after it stored leaves its command to the leader', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  const command = { cid: '01234567-89ab-4def-8123-456789abcdef', conv: CONV, to: 'bob', content: { kind: 'message', body: new Uint8Array([65]) }, saved_ms: browser.scene.clock.wall() };
  await browser.store.commit([{ t: 'command', command }]);
  two.die();
  await browser.scene.clock.until(() => one.outcomes.length === 1, 'found in the store', 6_000);
  assert.deepEqual(one.texts(CONV), ['A']);
});

story('a leader that closes in order hands over; calls under way are asked again under their key', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  browser.scene.world.intercept = (_, frame) => frame.t === 'call';
  const call = two.client.call('POST groups', { name: 'crew' });
  await browser.scene.clock.advance(50);
  browser.scene.world.intercept = () => false;
  await one.client.close();
  await browser.scene.clock.until(() => two.client.isLeader && two.client.status.state === 'online', 'leads');
  await browser.scene.clock.advance(50);
  assert.deepEqual(await call, {});
  const keys = browser.scene.world.heard.filter(f => f.t === 'call').map(f => f.d.key);
  assert.ok(keys.length === 2 && keys[0] === keys[1]);
});

story('leadership moves many times while both tabs write: each message once, each tab in its order', async browser => {
  let tabs = [await browser.tab(), await browser.tab()];
  const sent = /** @type {string[][]} */ ([]);
  for (let round = 0; round < 12; round++) {
    for (const [i, tab] of tabs.entries()) {
      (sent[round * 2 + i] = []).push(`${round}.${i}.0`, `${round}.${i}.1`, `${round}.${i}.2`);
      await Promise.all(sent[round * 2 + i].map(text => tab.client.send({ to: 'bob', text })));
    }
    await browser.scene.clock.advance(round * 3);
    const [dead, rest] = tabs;
    dead.die();
    tabs = [rest, await browser.tab()];
    await browser.scene.clock.advance(round);
  }
  await online(browser, ...tabs);
  const log = () => browser.scene.world.convs.get(CONV)?.entries.map(e => new TextDecoder().decode(e.body)) ?? [];
  await browser.scene.clock.until(() => log().length >= 72, 'all in the log');
  await browser.scene.clock.advance(1_000);
  assert.equal(new Set(log()).size, 72);
  assert.equal(log().length, 72);
  for (const texts of sent) assert.deepEqual(log().filter(t => texts.includes(t)), texts);
  const held = await browser.store.entries(CONV, { limit: 1_000 });
  assert.deepEqual(held.map(e => e.seq), Array.from({ length: 72 }, (_, i) => i + 1));
});
