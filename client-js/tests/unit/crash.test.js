// A client that dies at any of its writes, in a cluster where requests, answers and connections get lost: nothing that was
// durable is lost, nothing is doubled, nothing is out of order, and what the store holds is the log without a hole.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { textOf } from '../../src/content.js';
import { FileStore } from '../../src/store/file.js';
import { MemoryStore } from '../../src/store/memory.js';
import { FakeClock, settled } from '../support/clock.js';
import { Disk } from '../support/disk.js';
import { Life, never } from '../support/life.js';
import { mortal } from '../support/mortal.js';
import { randomFrom } from '../support/random.js';
import { PEACE, World } from '../support/world.js';

const CONV = 'd05alice03bob';
const MESSAGES = 10;
/** FLOTILLA_JS_SEEDS: how many times as many seeds, for a longer search. */
const TIMES = Number(process.env.FLOTILLA_JS_SEEDS ?? 1);

/** How a store is opened for a life, and what the death of that life leaves of it. */
function memory(/** @type {() => number} */ random) {
  const store = new MemoryStore();
  return {
    async open(/** @type {number} */ dieAt, /** @type {() => void} */ die) {
      return mortal(store, { dieAt, written: random() < 0.5, die });
    },
    async last() {
      return store;
    },
  };
}

function disk(/** @type {() => number} */ random) {
  let current = new Disk(random);
  let used = false;
  return {
    async open(/** @type {number} */ dieAt, /** @type {() => void} */ die) {
      if (used) current = current.crash();
      used = true;
      const store = await FileStore.open('d', { fs: current, lock: false });
      // A device's commit is two steps of the disk: a write and a sync.
      current.crashAfter = current.operations + dieAt;
      return new Proxy(store, {
        get(target, name) {
          const value = /** @type {any} */ (target)[name];
          if (name !== 'commit') return typeof value === 'function' ? value.bind(target) : value;
          return (/** @type {any} */ changes) => store.commit(changes).catch(() => (die(), never()));
        },
      });
    },
    async last() {
      return FileStore.open('d', { fs: current.crash(), lock: false });
    },
  };
}

/**
 * @param {number} seed @param {(random: () => number) => any} kind @param {(life: number) => number} dieAt
 * @returns {Promise<{ lives: number, heard: number }>}
 */
async function run(seed, kind, dieAt) {
  const random = randomFrom(seed);
  const clock = new FakeClock();
  const world = new World(clock, random);
  const storage = kind(random);
  const rate = random() * 0.15;
  const chance = () => random() < rate;
  world.mischief = { loseRequest: chance, loseAnswer: chance, refuse: chance, forget: chance, cut: chance, unreachable: () => chance() };
  const where = `seed ${seed}`;

  /** @type {{ text: string, durable: boolean }[]} */
  const sent = [];
  let lives = 0;
  let isPeace = false;
  /** @type {Life} */
  let life = new Life(world);
  life.alive = false;
  /** @type {any} */
  let log;
  /** @type {number[]} */
  let seen = [];
  for (let step = 0; step < 400; step++) {
    if (!life.alive) {
      lives += 1;
      const fresh = (life = new Life(world));
      seen = [];
      const store = await storage.open(isPeace ? Infinity : dieAt(lives), () => fresh.die());
      // Its first writes may already be its last.
      const opened = fresh.open('alice', store).then(l => {
        log = l;
        log.client.on('entry', (/** @type {any} */ e) => seen.push(e.seq));
      }, error => assert.fail(`${where}: ${error.stack}`));
      await Promise.race([opened, settled()]);
      continue;
    }
    if (!isPeace && random() < 0.15 && sent.length < MESSAGES && log) {
      const message = { text: `m${sent.length}`, durable: false };
      sent.push(message);
      void log.client.send({ to: 'bob', text: message.text }).then(() => (message.durable = true), (/** @type {Error} */ e) => assert.fail(`${where}: ${e.stack}`));
    }
    if (random() < 0.1 && world.convs.has(CONV) && !isPeace) world.say('bob', CONV, `b${step}`);
    if (random() < 0.02 && !isPeace) world.closeAll([4000, 4001, 4006, 4101, 4200, 1012][Math.floor(random() * 6)]);
    await clock.advance(Math.floor(random() * 120));
    for (let i = 1; i < seen.length; i++) assert.equal(seen[i], seen[i - 1] + 1, `${where}: delivered ${seen}`);
    if (step > 120 && sent.length === MESSAGES && !isPeace) [isPeace, world.mischief] = [true, { ...PEACE }];
    const head = world.convs.get(CONV)?.entries.length ?? 0;
    const done = isPeace && life.alive && log && (await log.client.outbox()).length === 0 && [...world.devices.values()].some(d => d.user === 'alice' && d.cursors.get(CONV) === head);
    if (done) break;
    assert.ok(step < 399, `${where}: not at rest: ${JSON.stringify(log?.client.status)}`);
  }
  life.die();

  const entries = world.convs.get(CONV)?.entries ?? [];
  const own = entries.filter(e => e.from === 'alice').map(e => textOf(e));
  assert.equal(new Set(own).size, own.length, `${where}: doubled: ${own}`);
  assert.deepEqual(own, sent.map(m => m.text).filter(text => own.includes(text)), `${where}: reordered`);
  for (const { text, durable } of sent) assert.ok(!durable || own.includes(text), `${where}: lost ${text}`);

  const store = await storage.last();
  const held = await store.entries(CONV, { limit: 10_000 });
  const from = held[0]?.seq ?? 1;
  assert.deepEqual(held.map((/** @type {any} */ e) => [e.seq, textOf(e)]), entries.slice(from - 1).map(e => [e.seq, textOf(e)]), `${where}: the store is not the log`);
  return { lives, heard: world.heard.length };
}

test('a client that dies at its n-th write, for every n, before or after the write', async () => {
  let lives = 0;
  for (let dieAt = 1; dieAt <= 40; dieAt++) {
    for (let seed = 1; seed <= 2 * TIMES; seed++) lives += (await run(seed * 1_000 + dieAt, memory, life => (life === 1 ? dieAt : Infinity))).lives;
  }
  assert.ok(lives >= 150, `${lives} lives`);
});

test('a client that dies again and again', async () => {
  let lives = 0;
  for (let seed = 1; seed <= 60 * TIMES; seed++) {
    const random = randomFrom(seed);
    lives += (await run(seed, memory, () => 1 + Math.floor(random() * 12))).lives;
  }
  assert.ok(lives >= 300, `${lives} lives`);
});

test('a client whose power fails again and again, on a disk that keeps only what was synced', async () => {
  let lives = 0;
  for (let seed = 1; seed <= 60 * TIMES; seed++) {
    const random = randomFrom(seed);
    lives += (await run(seed, disk, () => 1 + Math.floor(random() * 24))).lives;
  }
  assert.ok(lives >= 300, `${lives} lives`);
});
