// Tabs of one device: one leads, the others follow, and nothing depends on which.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { MemoryStore } from '../../src/store/memory.js';
import { FakeBus, FakeLocks } from '../support/browser.js';
import { mortal } from '../support/mortal.js';
import { randomFrom } from '../support/random.js';
import { PEACE } from '../support/world.js';
import { Log, Scene } from '../support/scene.js';
import { Life } from '../support/life.js';
import { FlotillaClient } from '../../src/client.js';

const CONV = 'd05alice03bob';

class Browser {
  scene;
  locks = new FakeLocks();
  bus = new FakeBus();
  store = new MemoryStore({ shared: true });

  /** @param {() => number} [random] */
  constructor(random) {
    this.scene = new Scene(random);
  }

  /** @param {number} [dieAt] which of its writes is its last @param {boolean} [written] */
  async tab(dieAt = Infinity, written = false) {
    const { world } = this.scene;
    const life = new Life(world);
    const channel = this.bus.port();
    const own = { broken: false, gate: /** @type {Promise<void> | null} */ (null) };
    const kept = mortal(this.store, { dieAt, written, die: () => die(), isAlive: () => life.alive });
    const store = new Proxy(kept, {
      set: (_, name, value) => Reflect.set(own, name, value),
      get: (target, name) => {
        const value = /** @type {any} */ (target)[name];
        if (name !== 'commit') return value;
        if (own.broken) return async () => Promise.reject(new Error('broken'));
        // In order, as every store does it.
        const { gate } = own;
        return gate ? (/** @type {any} */ changes) => gate.then(() => value(changes)) : value;
      },
    });
    /** As the browser closes a tab: no word to anybody. */
    const die = () => {
      life.die();
      channel.isDead = true;
      channel.close();
      this.locks.died(life);
    };
    const client = await FlotillaClient.open({
      urls: world.nodes, user: 'alice', token: 'dev:alice', store, WebSocket: life.WebSocket, clock: life.clock, random: world.random,
      locks: this.locks.of(life), channel,
    });
    const log = Object.assign(new Log(client, store), { die, isAlive: () => life.alive });
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

story('groups of all tabs are watched, whichever tab leads, and what moves is told to all', async browser => {
  const { world, clock } = browser.scene;
  for (const conv of ['g1', 'g2', 'g3']) world.group(conv, ['alice', 'bob']);
  const [one, two, three] = [await browser.tab(), await browser.tab(), await browser.tab()];
  await online(browser, one, two, three);
  const watched = () => [...world.sessions].flatMap(s => s.watched).sort();
  world.mark('g2', 'bob', { delivered: 1 });
  const marks = two.client.watchReceipts(['g2']);
  await clock.advance(20);
  assert.deepEqual(await marks, { receipts: [{ conv: 'g2', members: [{ user: 'bob', delivered: 1 }] }] });
  void one.client.watchReceipts(['g1']);
  void three.client.watchReceipts(['g3']);
  await clock.advance(20);
  assert.deepEqual(watched(), ['g1', 'g2', 'g3']);
  world.mark('g2', 'bob', { delivered: 2, read: 2 });
  await clock.advance(20);
  for (const tab of [one, two, three]) assert.deepEqual(tab.receipts.at(-1), { conv: 'g2', members: [{ user: 'bob', delivered: 2, read: 2 }] });
  // The leader dies, and its group with it; another tab is closed in order.
  one.die();
  await clock.until(() => watched().join() === 'g2,g3', 'another tab watches what is left');
  const [left, leads] = two.client.isLeader ? [three, two] : [two, three];
  await left.client.close();
  await clock.until(() => watched().join() === (leads === two ? 'g2' : 'g3'), 'a closed tab wants nothing');
  void leads.client.watchReceipts([]);
  await clock.advance(20);
  assert.deepEqual(watched(), []);
  // The last tab has to go on by itself.
  const last = await browser.tab();
  await online(browser, last);
  void last.client.watchReceipts(['g1']);
  await clock.advance(20);
  leads.die();
  await clock.until(() => last.client.isLeader && watched().join() === 'g1', 'the last tab watches');
  world.mark('g1', 'bob', { delivered: 1 });
  await clock.advance(20);
  assert.deepEqual(last.receipts.at(-1), { conv: 'g1', members: [{ user: 'bob', delivered: 1 }] });
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

story('what a follower was storing when it came to lead goes before what it writes then', async browser => {
  const [one, two] = [await browser.tab(), await browser.tab()];
  await online(browser, one, two);
  let open = () => {};
  two.store.gate = new Promise(done => (open = () => done(undefined)));
  const a = two.client.send({ to: 'bob', text: 'a' });
  one.die();
  await browser.scene.clock.advance(500);
  const b = two.client.send({ to: 'bob', text: 'b' });
  await browser.scene.clock.advance(500);
  open();
  await browser.scene.clock.until(() => two.outcomes.length === 2, 'both answered');
  await Promise.all([a, b]);
  assert.deepEqual(two.texts(CONV), ['a', 'b']);
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

test('tabs that die at any of their writes, in a cluster that loses requests and answers', async () => {
  let deaths = 0;
  for (let seed = 1; seed <= 40 * Number(process.env.FLOTILLA_JS_SEEDS ?? 1); seed++) deaths += await chaos(seed);
  assert.ok(deaths > 200, `${deaths} deaths`);
});

/** @param {number} seed @returns {Promise<number>} how many tabs died */
async function chaos(seed) {
  const random = randomFrom(seed);
  const browser = new Browser(random);
  const { world, clock } = browser.scene;
  const rate = random() * 0.12;
  const chance = () => random() < rate;
  world.mischief = { loseRequest: chance, loseAnswer: chance, refuse: chance, forget: chance, cut: chance, unreachable: () => chance() };
  const where = `seed ${seed}`;
  /** @type {Map<string, { text: string, durable: boolean }[]>} by tab */
  const sent = new Map();
  /** @type {{ tab: any, id: string }[]} */
  let tabs = [];
  /** @type {any[]} */
  const all = [];
  let [opened, deaths] = [0, 0];
  for (let step = 0; step < 90; step++) {
    const alive = tabs.filter(t => t.tab.isAlive());
    deaths += tabs.length - alive.length;
    tabs = alive;
    if (tabs.length < 3 && random() < 0.5) {
      const id = `t${opened++}`;
      sent.set(id, []);
      const tab = await browser.tab(2 + Math.floor(random() * 15), random() < 0.5);
      tabs.push({ id, tab });
      all.push(tab);
    }
    for (const { tab, id } of tabs) {
      if (random() > 0.4) continue;
      const own = /** @type {any[]} */ (sent.get(id));
      const message = { text: `${id}.${own.length}`, durable: false };
      own.push(message);
      void tab.client.send({ to: 'bob', text: message.text }).then(() => (message.durable = true), (/** @type {Error} */ e) => assert.fail(`${where}: ${e.stack}`));
    }
    if (random() < 0.3) world.say('bob', CONV, `b${step}`);
    await clock.advance(Math.floor(random() * 80));
  }
  world.mischief = { ...PEACE };
  for (const { tab } of tabs) if (tab.isAlive()) tab.die();
  const last = await browser.tab();
  await online(browser, last);
  for (let wait = 0; (await last.client.outbox()).length > 0; wait++) {
    assert.ok(wait < 600, `${where}: the outbox does not empty`);
    await clock.advance(100);
  }
  await clock.advance(1_000);

  const log = world.convs.get(CONV)?.entries ?? [];
  const texts = log.map(e => new TextDecoder().decode(e.body));
  assert.equal(new Set(texts).size, texts.length, `${where}: doubled`);
  for (const own of sent.values()) {
    const mine = own.map(m => m.text);
    assert.deepEqual(texts.filter(t => mine.includes(t)), mine.filter(t => texts.includes(t)), `${where}: reordered`);
    for (const { text, durable } of own) assert.ok(!durable || texts.includes(text), `${where}: lost ${text}`);
  }
  for (const tab of all) {
    const seqs = tab.seqs(CONV);
    assert.deepEqual(seqs, seqs.map((/** @type {number} */ _, /** @type {number} */ i) => seqs[0] + i), `${where}: a tab heard ${seqs}`);
  }
  const held = await browser.store.entries(CONV, { limit: 10_000 });
  const from = held[0]?.seq ?? 1;
  assert.deepEqual(held.map(e => e.chain), log.slice(from - 1).map(e => e.chain), `${where}: the store is not the log`);
  last.die();
  return deaths;
}
