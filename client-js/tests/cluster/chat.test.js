// Against three real nodes: chats through different nodes, and what nodes and clients that are killed leave behind.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { cp } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { createInterface } from 'node:readline';
import { FlotillaError, FileStore, MemoryStore, OutcomeUnknown, Session, directId, fold, open, register, rest, textOf } from '../../src/node.js';
import { Cluster, pause, skip, until } from '../support/cluster.js';
import { Log } from '../support/scene.js';

/** @type {Cluster} */
let cluster;
before(async () => {
  if (!skip) cluster = await Cluster.start();
});
/** @type {import('../../src/client.js').FlotillaClient[]} */
const clients = [];
after(async () => {
  for (const client of clients) await client.close();
  await cluster?.end();
});

/** @param {string} user @param {any} [options] */
async function device(user, options = {}) {
  const where = options.store || options.dir ? {} : { store: new MemoryStore() };
  const client = await open({ urls: cluster.urls, user, token: `dev:${user}`, ...where, ...options });
  clients.push(client);
  return Object.assign(new Log(client, options.store), { user });
}

/** @param {...Log} logs */
async function online(...logs) {
  for (const { client } of logs) await until(() => client.status.state === 'online', `${client.user} is online`);
}

/** A user exists from its first session on. @param {...string} users */
async function make(...users) {
  for (const user of users) {
    const log = await device(user);
    await online(log);
    await log.client.close();
  }
}

/** The whole log of a conversation, from the server. @param {any} client @param {string} conv */
async function wholeLog(client, conv) {
  const entries = [];
  for (let more = true; more; ) {
    const page = await client.history(conv, { after: entries.at(-1)?.seq ?? 0, limit: 200 });
    entries.push(...page.entries);
    more = page.more;
  }
  return entries;
}

for (const encoding of ['json', 'msgpack']) {
  test(`chat through different nodes, in ${encoding}`, { skip }, async () => {
    const [a, b] = [`alice-${encoding}`, `bob-${encoding}`];
    await make(a, b);
    const alice = await device(a, { urls: cluster.urls[0], encoding });
    const bob = await device(b, { urls: cluster.urls[2], encoding });
    await online(alice, bob);
    const body = new Uint8Array(32 * 1024).map((_, i) => i * 7);
    const first = await (await alice.client.send({ to: b, body })).outcome;
    assert.ok(first.state === 'accepted');
    const { conv } = first.accepted;
    assert.equal(conv, directId(a, b));
    await (await bob.client.send({ conv, text: 'hi', reply_to: 1, mentions: [a], media: 'm1' })).outcome;
    await (await bob.client.edit({ conv, seq: 2, text: 'hi!' })).outcome;
    await (await alice.client.react({ conv, seq: 2, emoji: '👍' })).outcome;
    await (await alice.client.delete({ conv, seq: 1 })).outcome;
    await until(() => alice.entries.length === 5 && bob.entries.length === 5, 'both have all');
    assert.deepEqual(bob.entries[0].body, body);
    assert.deepEqual(alice.entries[0].body, body, 'the own one too');
    const messages = fold(bob.entries).map(m => [m.seq, m.text, m.edited, m.deleted, { ...m.reactions }]);
    assert.deepEqual(messages, [[1, '', false, true, {}], [2, 'hi!', true, false, { '👍': [a] }]]);
    assert.deepEqual([alice.errors, bob.errors], [[], []]);
    const denied = await (await bob.client.edit({ conv, seq: 1, text: 'mine?' })).outcome;
    assert.ok(denied.state === 'rejected', denied.state);

    await alice.client.read(conv, 5);
    await until(async () => (await alice.client.conversations()).some(c => c.conv === conv && c.read === 5), 'read');
    await until(async () => (await bob.client.conversations()).some(c => c.peer?.read === 5), 'the peer sees it');
    const page = await alice.client.history(conv, { before: 4, limit: 2 });
    assert.deepEqual([page.entries.map(e => e.seq), page.more], [[2, 3], true]);
    await alice.client.close();
    await bob.client.close();
  });
}

test('groups: made, joined, renamed, left; a newcomer pages', { skip }, async () => {
  await make('gina', 'hans', 'ines');
  const [gina, hans, ines] = [await device('gina'), await device('hans'), await device('ines')];
  await online(gina, hans, ines);
  const key = '01234567-89ab-4def-8123-456789abcdef';
  const { conv } = await gina.client.createGroup({ name: 'crew', members: ['hans'], history: 'full', key });
  assert.equal((await gina.client.createGroup({ name: 'crew', members: ['hans'], history: 'full', key })).dup, true);
  for (const text of ['one', 'two', 'three']) await (await gina.client.send({ conv, text })).outcome;
  await gina.client.addMembers(conv, ['ines']);
  await gina.client.rename(conv, 'the crew');
  await gina.client.setRole(conv, 'hans', 'admin');
  await until(() => ines.entries.some(e => e.kind === 'role'), 'ines follows');
  await until(() => hans.entries.some(e => e.kind === 'role'), 'hans follows');
  assert.deepEqual((await hans.client.members(conv)).members.map(m => [m.user, m.role]), [['gina', 'owner'], ['hans', 'admin'], ['ines', 'member']]);
  const page = await ines.client.page(conv, { before: ines.entries[0].seq });
  assert.deepEqual(page.entries.filter(e => e.kind === 'message').map(textOf), ['one', 'two', 'three']);
  assert.deepEqual((await ines.client.entries(conv)).map(e => e.seq), [1, 2, 3, 4, 5, 6, 7], 'and the page is kept');
  await ines.client.leave(conv);
  await assert.rejects(ines.client.rename(conv, 'mine'), { code: 'not_member' });
  const outcome = await (await ines.client.send({ conv, text: 'still there?' })).outcome;
  assert.ok(outcome.state === 'rejected' && outcome.error.code === 'not_member');
  assert.deepEqual([gina.errors, hans.errors, ines.errors], [[], [], []]);
  for (const { client } of [gina, hans, ines]) await client.close();
});

test('an account: registered, logged in, renewed, logged out', { skip }, async () => {
  const { urls } = cluster;
  const account = { urls, user: 'Karla', password: 'correct horse' };
  assert.deepEqual(await register(account), { user: 'karla' });
  await assert.rejects(register(account), { code: 'conflict', status: 409 });
  const store = await FileStore.open(cluster.store('karla'));
  await assert.rejects(Session.logIn({ ...account, password: 'wrong horse', store }), { code: 'unauthenticated' });
  const session = await Session.logIn({ ...account, store, name: 'test' });
  const karla = await device('karla', { token: session.token, store });
  await online(karla);
  const { devices } = await karla.client.call('GET devices');
  assert.deepEqual(devices.map((/** @type {any} */ d) => [d.name, d.current]), [['test', true]]);
  assert.equal(karla.client.status.device, devices[0].device, 'the login and the socket are one device');
  const { refresh_token } = await store.tokens();
  const fresh = await session.token({ fresh: true });
  assert.notEqual((await store.tokens()).refresh_token, refresh_token);
  assert.equal((await rest({ urls, method: 'GET', path: 'me', token: fresh })).user, 'karla');
  assert.equal(await /** @type {Session} */ (await Session.restore({ urls, store })).token({ fresh: false }), fresh);
  await session.logOut();
  await until(() => karla.client.status.state === 'stopped', 'the socket is closed and nobody can log in');
  await assert.rejects(session.token({ fresh: false }), { name: 'LoginRequired' });
  await karla.client.close();
  await store.close();
  await assert.rejects(rest({ urls: ['http://127.0.0.1:1'], method: 'GET', path: 'me' }), OutcomeUnknown);
  await assert.rejects(rest({ urls, method: 'GET', path: 'me' }), FlotillaError);
});

test('two copies of one store: one of them yields, the other goes on', { skip }, async () => {
  const dir = cluster.store('paula');
  const first = await device('paula', { dir });
  await online(first);
  await (await first.client.send({ to: 'paula', text: '1' })).outcome;
  await first.client.close();
  await cp(dir, `${dir}-copy`, { recursive: true });
  const copies = [await device('paula', { dir }), await device('paula', { dir: `${dir}-copy` })];
  const isStopped = (/** @type {any} */ copy) => copy.client.status.state === 'stopped';
  await until(() => copies.some(isStopped), 'one yields', 30_000);
  const [yielded] = copies.filter(isStopped);
  const [left] = copies.filter(copy => copy !== yielded);
  assert.equal(yielded.client.status.code, 4504);
  await online(left);
  const outcome = await (await left.client.send({ to: 'paula', text: '2' })).outcome;
  assert.equal(outcome.state, 'accepted');
  await pause(2_000);
  assert.deepEqual(copies.map(isStopped), copies.map(copy => copy === yielded), 'and it stays so');
});

test('nodes are killed while messages flow in both directions: nothing lost, doubled or reordered', { skip }, async () => {
  await make('nina', 'otto');
  const options = (/** @type {string} */ user) => ({ dir: cluster.store(user), backoff_max_ms: 1_000 });
  const nina = await device('nina', options('nina'));
  const otto = await device('otto', { ...options('otto'), encoding: 'msgpack' });
  await online(nina, otto);
  const conv = directId('nina', 'otto');
  const tickets = /** @type {any[]} */ ([]);
  let writing = true;
  const write = async (/** @type {any} */ log) => {
    for (let n = 0; writing; n++) {
      tickets.push({ text: `${log.user} ${n}`, ...(await log.client.send({ conv, to: undefined, text: `${log.user} ${n}` })) });
      await pause(5);
    }
  };
  await (await nina.client.send({ to: 'otto', text: 'go' })).outcome;
  const writers = [write(nina), write(otto)];
  for (const signal of /** @type {const} */ (['SIGKILL', 'SIGKILL', 'SIGKILL', 'SIGTERM', 'SIGTERM', 'SIGTERM'])) {
    await pause(1_500);
    // The node that one of them is connected to, in turn.
    const side = tickets.length % 2 === 0 ? nina : otto;
    await online(side);
    const node = cluster.nodes.find(n => n.url === side.client.status.url) ?? cluster.nodes[0];
    await node.stop(signal);
    await pause(1_500);
    await node.start();
    await node.ready();
  }
  writing = false;
  await Promise.all(writers);
  const outcomes = await Promise.all(tickets.map(t => t.outcome));
  assert.deepEqual(new Set(outcomes.map(o => o.state)), new Set(['accepted']));
  const log = await wholeLog(nina.client, conv);
  const total = tickets.length + 1;
  await until(() => nina.entries.length === total && otto.entries.length === total, 'both have all', 30_000);
  for (const side of [nina, otto]) {
    assert.deepEqual(side.entries.map(e => [e.seq, textOf(e), e.chain]), log.map(e => [e.seq, textOf(e), e.chain]));
    assert.deepEqual(side.errors, []);
    assert.deepEqual((await side.client.entries(conv, { limit: 100_000 })).map(e => e.chain), log.map(e => e.chain), 'the store is the log');
  }
  for (const { user } of [nina, otto]) {
    const own = log.filter(e => e.from === user).map(textOf).filter(text => text !== 'go');
    assert.deepEqual(own, own.map((_, n) => `${user} ${n}`), 'in the order in which they were written');
  }
  const reconnects = nina.statuses.filter(s => s.state === 'catching_up').length + otto.statuses.filter(s => s.state === 'catching_up').length;
  console.log(`    ${total} messages, 3 SIGKILL and 3 SIGTERM, ${reconnects} connections`);
  assert.ok(tickets.length > 100, `${tickets.length} messages`);
  await nina.client.close();
  await otto.client.close();
});

test('a client process is killed again and again, a node too: its messages arrive once and in order', { skip }, async () => {
  await make('rosa', 'sven');
  const sven = await device('sven', { dir: cluster.store('sven') });
  await online(sven);
  const count = 400;
  const config = { urls: cluster.urls, user: 'rosa', dir: cluster.store('rosa'), to: 'sven', count };
  let [stored, kills] = [-1, 0];
  let done = false;
  const errors = [];
  while (!done) {
    const argument = JSON.stringify({ ...config, from: stored + 1 });
    const child = spawn(process.execPath, [new URL('writer.js', import.meta.url).pathname, argument], { stdio: ['ignore', 'pipe', 'inherit'] });
    const limit = kills < 8 ? stored + 20 + Math.floor(Math.random() * 40) : Infinity;
    for await (const line of createInterface({ input: child.stdout })) {
      const [word, number] = line.split(' ');
      if (word === 'stored') stored = Math.max(stored, Number(number));
      if (word === 'error' || word === 'rejected' || word === 'unknown') errors.push(line);
      if (word === 'done') done = true;
      if (stored >= limit && child.exitCode === null) child.kill('SIGKILL');
    }
    if (done) break;
    kills += 1;
    if (kills === 4) {
      await cluster.nodes[1].kill();
      await cluster.nodes[1].start();
    }
  }
  await until(() => sven.entries.length >= count, 'all arrived', 30_000);
  await pause(500);
  assert.deepEqual(sven.entries.map(textOf), Array.from({ length: count }, (_, n) => `w${n}`));
  assert.deepEqual(errors, []);
  const store = await FileStore.open(cluster.store('rosa'));
  const own = await store.entries(directId('rosa', 'sven'), { limit: 100_000 });
  assert.deepEqual(own.map(textOf), Array.from({ length: count }, (_, n) => `w${n}`), 'its own store has them all');
  await store.close();
  console.log(`    ${count} messages, ${kills} SIGKILL of the client, 1 of a node`);
  assert.ok(kills >= 8);
  await sven.client.close();
});

test('offline with something to say: all three nodes are dead, then back', { skip }, async () => {
  await make('theo', 'ute');
  const dir = cluster.store('theo');
  const theo = await device('theo', { dir });
  await online(theo);
  await (await theo.client.send({ to: 'ute', text: '0' })).outcome;
  await until(() => theo.entries.length === 1, 'its entry');
  for (const node of cluster.nodes) await node.kill();
  for (const text of ['1', '2', '3']) await theo.client.send({ to: 'ute', text });
  await until(() => theo.client.status.state !== 'online', 'it notices');
  assert.equal((await theo.client.outbox()).length, 3);
  await theo.client.close();
  const again = await device('theo', { dir, backoff_max_ms: 500 });
  await again.client.send({ to: 'ute', text: '4' });
  assert.equal((await again.client.entries(directId('theo', 'ute'))).length, 1, 'reads from its store');
  for (const node of cluster.nodes) await node.start();
  for (const node of cluster.nodes) await node.ready();
  await until(() => again.outcomes.length === 4, 'all answered', 30_000);
  await until(() => again.entries.length === 4, 'all delivered');
  assert.deepEqual((await again.client.entries(directId('theo', 'ute'))).map(textOf), ['0', '1', '2', '3', '4']);
  await again.client.close();
});
