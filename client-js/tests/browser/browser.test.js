// In Chromium, with its IndexedDB and its Web Locks, against three real nodes.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { directId, MemoryStore, open } from '../../src/node.js';
import { Browser, servePage, skip as noBrowser } from '../support/chromium.js';
import { Cluster, pause, skip as noBinary, until } from '../support/cluster.js';
import { Log } from '../support/scene.js';

const skip = noBrowser || noBinary;
/** @type {Cluster} */ let cluster;
/** @type {Browser} */ let browser;
/** @type {{ url: string, end: () => Promise<void> }} */ let server;
/** @type {Log} */ let bob;

before(async () => {
  if (skip) return;
  server = await servePage();
  cluster = await Cluster.start({ flags: ['--origins', new URL(server.url).origin] });
  browser = await Browser.start();
  bob = await node('bob');
});
after(async () => {
  await bob?.client.close();
  await browser?.end();
  await server?.end();
  await cluster?.end();
});

/** A user in this process. @param {string} user */
async function node(user) {
  const client = await open({ urls: cluster.urls, user, token: `dev:${user}`, store: new MemoryStore(), backoff_max_ms: 1_000 });
  await until(() => client.status.state === 'online', `${user} is online`);
  return new Log(client, null);
}

/** A tab with a client of this user. @param {string} user */
async function tab(user) {
  const page = await browser.page(server.url);
  await page.evaluate(([user, urls]) => /** @type {any} */ (window).start(user, urls), [user, cluster.urls]);
  await page.waitForFunction('window.client.status.state === "online"');
  return page;
}

/** @param {any} page @param {string} conv @param {string} text @returns {Promise<string>} its cid */
const send = (page, conv, text) => page.evaluate(([conv, text]) => /** @type {any} */ (window).client.send({ conv, text }).then((/** @type {any} */ t) => t.cid), [conv, text]);
/** @param {any} page @param {string} conv @returns {Promise<string[]>} */
const texts = (page, conv) => page.evaluate(conv => /** @type {any} */ (window).texts(conv), conv);
/** @param {any} page */
const leads = page => page.evaluate('window.client.isLeader');
/** @param {any} page @param {string} name */
const peek = (page, name) => page.evaluate(`window.${name}`);

test('IndexedDB keeps the contract of a store', { skip }, async () => {
  const page = await browser.page(server.url);
  await page.evaluate(async () => {
    const { contract } = await import(/** @type {any} */ ('/tests/support/contract.js'));
    const { IndexedDbStore } = /** @type {any} */ (window).flotilla;
    const reopen = async (/** @type {any} */ store) => (await store.close(), IndexedDbStore.open('contract'));
    await contract(() => IndexedDbStore.open('contract'), reopen);
  });
  await page.close();
});

test('two tabs: one leads, both hear and write, and the follower takes over when the leader is closed', { skip }, async () => {
  const one = await tab('anna');
  const two = await tab('anna');
  const conv = directId('anna', 'bob');
  assert.deepEqual([await leads(one), await leads(two)], [true, false]);
  await one.evaluate(() => /** @type {any} */ (window).client.send({ to: 'bob', text: 'from the leader' }));
  await until(() => bob.texts(conv).length === 1, 'the first');
  await send(two, conv, 'from the follower');
  await until(() => bob.texts(conv).length === 2, 'the second');
  await bob.client.send({ conv, text: 'hello tabs' });
  for (const page of [one, two]) {
    await page.waitForFunction('window.seen.length === 3');
    assert.deepEqual((await peek(page, 'seen')).map((/** @type {any} */ s) => s[1]), [1, 2, 3]);
  }
  const call = await two.evaluate(() => /** @type {any} */ (window).client.call('GET me'));
  assert.equal(call.user, 'anna');
  const page = await two.evaluate((/** @type {string} */ conv) => /** @type {any} */ (window).client.history(conv, { limit: 2 }), conv);
  assert.equal(page.entries.length, 2);

  // The leader goes in the middle of a burst of both.
  const bursts = [one, two].map((page, i) => page.evaluate(([conv, i]) => {
    const { client } = /** @type {any} */ (window);
    return Promise.all(Array.from({ length: 30 }, (_, n) => client.send({ conv, text: `${i}.${n}` }))).then(() => true);
  }, [conv, i]));
  await Promise.all(bursts);
  await one.close();
  await two.waitForFunction('window.client.isLeader');
  await two.waitForFunction('window.client.status.state === "online"');
  await until(() => bob.texts(conv).length === 63, 'all of both bursts');
  const own = bob.texts(conv).slice(3);
  for (const i of [0, 1]) assert.deepEqual(own.filter(t => t.startsWith(`${i}.`)), Array.from({ length: 30 }, (_, n) => `${i}.${n}`));
  await until(async () => (await texts(two, conv)).length === 63, 'the store has them');
  assert.deepEqual(await texts(two, conv), bob.texts(conv));
  assert.deepEqual(await peek(two, 'errors'), []);
  await two.close();
});

test('the leader tab crashes while both write: the other goes on, and hears everything', { skip }, async () => {
  const conv = directId('emma', 'bob');
  const one = await tab('emma');
  const two = await tab('emma');
  await one.evaluate(() => /** @type {any} */ (window).client.send({ to: 'bob', text: 'start' }));
  await until(() => bob.texts(conv).length === 1, 'the first');
  await two.waitForFunction('window.seen.length === 1');
  const write = (/** @type {any} */ page, /** @type {string} */ name) => page.evaluate(([conv, name]) => {
    (async () => {
      for (let n = 0; n < 50; n++) {
        await /** @type {any} */ (window).client.send({ conv, text: `${name} ${n}` });
        await new Promise(done => setTimeout(done, 10));
      }
      /** @type {any} */ (window).written = true;
    })();
  }, [conv, name]);
  await write(one, 'one');
  await write(two, 'two');
  const talk = (async () => {
    for (let n = 0; n < 50; n++) {
      await bob.client.send({ conv, text: `bob ${n}` });
      await pause(10);
    }
  })();
  await pause(250);
  const crashed = new Promise(done => one.once('crash', done));
  one.goto('chrome://crash').catch(() => {});
  await crashed;
  await two.waitForFunction('window.client.isLeader && window.written');
  await talk;
  await until(async () => (await two.evaluate('window.client.outbox().then(o => o.length)')) === 0, 'the outbox is empty');
  const count = (await two.evaluate((/** @type {string} */ conv) => /** @type {any} */ (window).client.history(conv, { limit: 1 }), conv)).entries[0].seq;
  await until(() => bob.seqs(conv).length === count, 'bob has all');
  await until(async () => (await texts(two, conv)).length === count, 'the store has all');
  assert.deepEqual(await texts(two, conv), bob.texts(conv));
  for (const name of ['one', 'two', 'bob']) {
    const own = bob.texts(conv).filter(t => t.startsWith(`${name} `));
    assert.deepEqual(own, own.map((_, n) => `${name} ${n}`));
  }
  const heard = (await peek(two, 'seen')).map((/** @type {any} */ s) => s[1]);
  assert.deepEqual(heard, heard.map((/** @type {number} */ _, /** @type {number} */ i) => i + 1), 'what the crashed tab did not tell was told by the other');
  assert.equal(heard.length, count);
  console.log(`    ${count} messages, ${bob.texts(conv).filter(t => t.startsWith('one')).length} of 50 stored before the crash`);
  await one.close();
  await two.close();
});

test('a reload in the middle: what was written goes out, what came is there, nothing twice', { skip }, async () => {
  const page = await tab('berta');
  const conv = directId('berta', 'bob');
  await page.evaluate(() => /** @type {any} */ (window).client.send({ to: 'bob', text: '0' }));
  await until(() => bob.texts(conv).length === 1, 'the first');
  for (let round = 1; round <= 5; round++) {
    await bob.client.send({ conv, text: `bob ${round}` });
    await send(page, conv, `berta ${round}`);
    await page.reload();
    await page.waitForFunction('window.ready');
    await page.evaluate(([user, urls]) => /** @type {any} */ (window).start(user, urls), ['berta', cluster.urls]);
  }
  await until(() => bob.texts(conv).length === 11, 'all');
  await until(async () => (await texts(page, conv)).length === 11, 'the store has all');
  assert.deepEqual(await texts(page, conv), bob.texts(conv));
  assert.deepEqual(bob.texts(conv).filter(t => t.startsWith('berta')), [1, 2, 3, 4, 5].map(n => `berta ${n}`));
  assert.deepEqual(await peek(page, 'errors'), []);
  await page.close();
});

test('offline it reads and writes, online again it sends', { skip }, async () => {
  const page = await tab('clara');
  const conv = directId('clara', 'bob');
  await page.evaluate(() => /** @type {any} */ (window).client.send({ to: 'bob', text: '0' }));
  await until(() => bob.texts(conv).length === 1, 'the first');
  await page.waitForFunction('window.seen.length === 1');
  await browser.context.setOffline(true);
  for (const node of cluster.nodes) await node.kill();
  for (const n of [1, 2, 3]) await send(page, conv, String(n));
  await page.waitForFunction('window.client.status.state !== "online"');
  assert.deepEqual(await texts(page, conv), ['0']);
  assert.equal(await page.evaluate('window.client.outbox().then(o => o.length)'), 3);
  for (const node of cluster.nodes) await node.start();
  for (const node of cluster.nodes) await node.ready();
  await pause(1_500);
  assert.notEqual((await peek(page, 'client.status')).state, 'online', 'the browser has no network');
  await browser.context.setOffline(false);
  await until(() => bob.texts(conv).length === 4, 'all sent', 20_000);
  assert.deepEqual(bob.texts(conv), ['0', '1', '2', '3']);
  await until(async () => (await peek(page, 'outcomes')).length === 4, 'all answered');
  assert.deepEqual(await peek(page, 'errors'), []);
  await page.close();
});

test('a node is killed under two tabs, then the whole browser: nothing lost or doubled', { skip }, async () => {
  const conv = directId('dora', 'bob');
  let one = await tab('dora');
  let two = await tab('dora');
  await one.evaluate(() => /** @type {any} */ (window).client.send({ to: 'bob', text: 'start' }));
  const write = (/** @type {any} */ page, /** @type {string} */ name, /** @type {number} */ from) => page.evaluate(([conv, name, from]) => {
    const { client } = /** @type {any} */ (window);
    /** @type {any} */ (window).written = 0;
    (async () => {
      for (let n = from; n < from + 60; n++) {
        await client.send({ conv, text: `${name} ${n}` });
        /** @type {any} */ (window).written = n + 1 - from;
        await new Promise(done => setTimeout(done, 20));
      }
    })();
  }, [conv, name, from]);
  await write(one, 'one', 0);
  await write(two, 'two', 0);
  await pause(300);
  const { url } = await peek(one, 'client.status');
  const victim = cluster.nodes.find(n => n.url === url) ?? cluster.nodes[0];
  await victim.kill();
  for (const page of [one, two]) await page.waitForFunction('window.written === 60');
  await victim.start();
  await victim.ready();
  await until(() => bob.texts(conv).length === 121, 'all 121', 30_000);

  // A browser that is killed cannot say goodbye.
  await write(one, 'one', 60);
  await pause(300);
  const gone = new Promise(done => browser.context.once('close', () => done(true)));
  const cdp = await browser.context.newCDPSession(two);
  cdp.send('Browser.crash').catch(() => {});
  assert.ok(await Promise.race([gone, pause(10_000)]), 'the browser is dead');
  await browser.open();
  one = await tab('dora');
  await until(async () => (await one.evaluate('window.client.outbox().then(o => o.length)')) === 0, 'the outbox is empty');
  const head = async () => (await one.evaluate((/** @type {string} */ conv) => /** @type {any} */ (window).client.history(conv, { limit: 1 }), conv)).entries[0].seq;
  const last = await head();
  await until(() => bob.seqs(conv).at(-1) === last, 'bob has all');
  await until(async () => (await texts(one, conv)).length === last, 'the store has all');
  const all = bob.texts(conv);
  assert.deepEqual(await texts(one, conv), all);
  for (const name of ['one', 'two']) {
    const own = all.filter(t => t.startsWith(`${name} `));
    assert.deepEqual(own, own.map((_, n) => `${name} ${n}`));
  }
  console.log(`    ${all.length} messages, ${all.filter(t => t.startsWith('one')).length - 60} of them stored before the browser was killed`);
  assert.ok(all.length > 121);
  assert.deepEqual([bob.errors, await peek(one, 'errors')], [[], []]);
  two = null;
});

