import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Rooms } from '../../../web/js/rooms.js';
import { Thread } from '../../../web/js/thread.js';

const bytes = (/** @type {string} */ text) => new TextEncoder().encode(text);
/** @param {number} seq @param {any} [more] */
const entry = (seq, more = {}) => ({ conv: 'g', seq, n: seq, cid: `c${seq}`, from: 'bob', kind: 'message', ts: 1_000_000 + seq * 1_000, body: bytes(`m${seq}`), ...more });

/** A client whose store and server hold one log. @param {any[]} log @param {{ local?: number }} [options] local: from this seq on in the store */
function client(log, { local = 1 } = {}) {
  const slice = (/** @type {any[]} */ all, /** @type {any} */ { before = Infinity, limit = 50 }) => all.filter(e => e.seq < before).slice(-limit);
  return {
    user: 'alice',
    status: { state: 'online' },
    outcomes: async () => /** @type {any[]} */ ([]),
    outbox: async () => /** @type {any[]} */ ([]),
    conversations: async () => /** @type {any[]} */ ([]),
    entries: async (/** @type {string} */ _conv, /** @type {any} */ range) => slice(log.filter(e => e.seq >= local), range),
    page: async (/** @type {string} */ _conv, /** @type {any} */ range) => {
      const entries = slice(log, range);
      return { entries, more: (entries[0]?.seq ?? 1) > 1 };
    },
  };
}
/** @param {Thread} thread */
const rows = thread => thread.rows().slice(1).map(r => `${r.type} ${r.seq ?? r.key}`);

test('pages lead back to the beginning, and what comes is added once', async () => {
  const log = Array.from({ length: 500 }, (_, i) => entry(i + 1));
  const thread = new Thread(client(log), 'g', new Set());
  await thread.open(500, 0);
  assert.equal(thread.rows().length, 61);
  while (thread.more) await thread.older();
  assert.deepEqual(rows(thread), log.map(e => `message ${e.seq}`));
  for (const seq of [501, 502, 501]) thread.onEntry(entry(seq));
  assert.equal(thread.last, 502);
  assert.equal(thread.rows().length, 503);
});

test('what is delivered while the first page is on its way is not lost', async () => {
  const log = [1, 2, 3].map(seq => entry(seq));
  const server = client(log);
  let answer = () => {};
  const { page } = server;
  // As it was when it was asked for.
  server.page = async (conv, range) => {
    const then = await page(conv, range);
    await new Promise(done => (answer = () => done(undefined)));
    return then;
  };
  const thread = new Thread(server, 'g', new Set());
  thread.onEntry(entry(3));
  const opened = thread.open(3, 0);
  await new Promise(done => setImmediate(done));
  for (const seq of [3, 4, 5]) thread.onEntry(entry(seq));
  answer();
  await opened;
  thread.onEntry(entry(6));
  assert.deepEqual(rows(thread), [1, 2, 3, 4, 5, 6].map(seq => `message ${seq}`));
});

test('a far hit is reached through the store in a few steps', async () => {
  const log = Array.from({ length: 5_000 }, (_, i) => entry(i + 1));
  const thread = new Thread(client(log), 'g', new Set());
  await thread.open(5_000, 0);
  assert.ok(await thread.reach(3));
  assert.ok(/** @type {number} */ (thread.first) <= 3);
  assert.ok(!(await thread.reach(99_999)));
});

test('what was written stands at the end until the log has it, and only once', async () => {
  const thread = new Thread(client([entry(1)]), 'g', new Set());
  await thread.open(1, 0);
  const command = { cid: 'x', conv: 'g', saved_ms: 2_000_000, content: { kind: 'message', body: bytes('mine') } };
  thread.onOutbox(command);
  assert.deepEqual(rows(thread), ['message 1', 'pending x']);
  thread.onOutcome('x', { state: 'accepted', accepted: {} });
  assert.equal(thread.rows().at(-1)?.pending?.state, 'accepted');
  thread.onEntry(entry(2, { cid: 'x', from: 'alice', body: bytes('mine') }));
  assert.deepEqual(rows(thread), ['message 1', 'message 2']);
  assert.equal(thread.rows().at(-1)?.key, 'x', 'the row stays the same one');
  thread.onOutbox(command);
  assert.equal(thread.rows().length, 3, 'another tab was late to tell');
});

test('edits, deletions and reactions are shown before they are answered, and gone when they are refused', async () => {
  const thread = new Thread(client([entry(1, { from: 'alice' }), entry(2)]), 'g', new Set());
  await thread.open(2, 0);
  const about = (/** @type {string} */ cid, /** @type {any} */ content) => thread.onOutbox({ cid, conv: 'g', saved_ms: 0, content });
  about('e', { kind: 'edit', target: 1, body: bytes('better') });
  about('r', { kind: 'react', target: 2, emoji: '👍', on: true });
  assert.deepEqual([thread.message(1)?.text, thread.message(2)?.reactions['👍']], ['better', ['alice']]);
  about('d', { kind: 'delete', target: 1 });
  assert.equal(thread.message(1)?.deleted, true);
  thread.onOutcome('d', { state: 'rejected', error: { code: 'conflict', message: '' } });
  assert.equal(thread.message(1)?.deleted, false);
  assert.equal(rows(thread).length, 2, 'they are no rows');
});

test('a refused message stays until the person says otherwise', async () => {
  const thread = new Thread(client([]), 'g', new Set());
  await thread.open(0, 0);
  thread.onOutbox({ cid: 'x', conv: 'g', saved_ms: 5, content: { kind: 'message', body: bytes('hi') } });
  thread.onOutcome('x', { state: 'rejected', error: { code: 'not_member', message: 'no' } });
  assert.equal(thread.rows().at(-1)?.pending?.code, 'not_member');
  thread.dismiss('x');
  assert.equal(thread.rows().length, 1);
});

test('holes are said, days are parted, and the first unread one is marked', async () => {
  const day = 86_400_000;
  const thread = new Thread(client([entry(1), entry(2, { ts: 1_000_000 + 3 * day }), entry(7, { ts: 1_000_000 + 3 * day })]), 'g', new Set());
  await thread.open(1, 2);
  assert.deepEqual(rows(thread), ['message 1', 'message 2', 'gap gap 7', 'message 7']);
  assert.deepEqual(thread.rows().slice(1).map(r => [r.day, r.isNew === true]), [[true, false], [true, true], [false, false], [false, false]]);
  assert.deepEqual(thread.rows()[3].gap, [3, 6]);
});

test('mentions are what the server counted and what came since', async () => {
  const conv = 'g1';
  /** @type {any} */
  let listed = { conv, n_head: 4, unread: 3, mentions: { count: 2, first: 2 } };
  let asked = 0;
  const server = Object.assign(client([]), { call: async () => (asked++, { convs: [listed] }) });
  const rooms = new Rooms(server, { names: { g1: 'team' }, save: () => {} });
  rooms.onConv({ conv, kind: 'group', head: 4, n_head: 4, read: 1, unread: 3, rev: '1', member: true });
  const room = /** @type {any} */ (rooms.get(conv));
  await rooms.countMentions();
  assert.equal(rooms.mentions(room), 2);
  rooms.onEntry({ ...entry(5), conv, n: 5, mentions: ['alice'] });
  rooms.onEntry({ ...entry(6), conv, n: 6, mentions: ['carol'] });
  assert.equal(rooms.mentions(room), 3);
  listed = { conv, n_head: 6, unread: 4, mentions: { count: 2, first: 3 } };
  rooms.onRead(conv, 2, 2);
  await new Promise(done => setImmediate(done));
  assert.deepEqual([rooms.mentions(room), asked], [2, 2], 'read in part: the server is asked');
  rooms.onRead(conv, 6, 6);
  assert.equal(rooms.mentions(room), 0);
  rooms.onEntry({ ...entry(7), conv, n: 7, mentions: ['alice'] });
  assert.equal(rooms.mentions(room), 1);
  rooms.onEntry({ ...entry(8), conv, from: 'alice', n: 8 });
  assert.deepEqual([rooms.mentions(room), asked], [0, 2], 'who writes has read');
  // What was read here is on its way to the server.
  rooms.onEntry({ ...entry(12), conv, n: 12 });
  listed = { conv, n_head: 12, unread: 4, mentions: { count: 2, first: 9 } };
  await rooms.countMentions();
  rooms.onRead(conv, 10, 10);
  await new Promise(done => setImmediate(done));
  assert.deepEqual([rooms.mentions(room), rooms.nextMention(room), asked], [2, 9, 4]);
  listed = { conv, n_head: 12, unread: 2, mentions: { count: 1, first: 11 } };
  for (let wait = 0; asked < 5 && wait < 200; wait++) await new Promise(done => setTimeout(done, 20));
  assert.deepEqual([rooms.mentions(room), rooms.nextMention(room), asked], [1, 11, 5], 'the server is asked until it knows');
});

test('unread counts follow the server and the entries between its words', async () => {
  const rooms = new Rooms(client([]), { names: {}, save: () => {} });
  const conv = { conv: 'd05alice03bob', kind: 'direct', head: 4, n_head: 4, read: 2, unread: 2, rev: '1', member: true, peer: { user: 'bob', delivered: 4, read: 3 } };
  rooms.onConv(conv);
  const room = /** @type {any} */ (rooms.get(conv.conv));
  assert.equal(rooms.unread(room), 2);
  rooms.onEntry({ ...entry(5), conv: conv.conv, n: 5 });
  rooms.onEntry({ ...entry(6), conv: conv.conv, kind: 'react', target: 5, emoji: '👍', on: true, n: 5 });
  assert.equal(rooms.unread(room), 3);
  rooms.onRead(conv.conv, 6, 5);
  assert.equal(rooms.unread(room), 0);
  rooms.onConv(conv);
  assert.equal(rooms.unread(room), 0, 'the server does not know yet');
  rooms.onEntry({ ...entry(7), conv: conv.conv, n: 6 });
  assert.equal(rooms.unread(room), 1);
  rooms.onEntry({ ...entry(8), conv: conv.conv, from: 'alice', n: 7 });
  assert.equal(rooms.unread(room), 0, 'who writes has read');
  assert.deepEqual([3, 4, 5].map(seq => rooms.progress(room, seq)), ['read', 'delivered', 'sent']);
});

/** A group of alice, bob and carol. */
function crew() {
  const members = [{ user: 'alice', delivered: 9, read: 9 }, { user: 'bob', delivered: 4, read: 2 }, { user: 'carol', delivered: 3, read: 0 }];
  /** @type {any[]} */
  const asked = [];
  const server = Object.assign(client([]), {
    members: async () => ({ members: members.map(m => ({ ...m })), more: false }),
    /** @type {(convs: string[]) => Promise<any>} */
    watchReceipts: async convs => void asked.push(convs.join()),
  });
  const rooms = new Rooms(server, { names: { g1: 'crew' }, save: () => {} });
  rooms.onConv({ conv: 'g1', kind: 'group', head: 4, n_head: 4, read: 4, unread: 0, rev: '1', member: true });
  const room = /** @type {any} */ (rooms.get('g1'));
  const seen = (/** @type {number} */ seq) => [rooms.progress(room, seq), rooms.readBy(room, seq)];
  return { rooms, room, server, members, asked, seen };
}

test('marks of a group only rise, whether they are told or asked for', async () => {
  const { rooms, seen } = crew();
  rooms.onReceipts({ conv: 'g1', members: [{ user: 'carol', delivered: 4 }] });
  assert.deepEqual(seen(2), ['sent', ''], 'members are not known yet');
  await rooms.members('g1');
  assert.deepEqual([2, 4, 5].map(seen), [['delivered', 'read by 1 of 2'], ['delivered', ''], ['sent', '']], 'the page was older than what was told');
  rooms.onReceipts({ conv: 'g1', members: [{ user: 'bob', delivered: 5, read: 5 }, { user: 'carol', delivered: 3, read: 1 }, { user: 'dan', delivered: 1 }] });
  assert.deepEqual([1, 4, 5].map(seen), [['read', 'read by 2 of 2'], ['delivered', 'read by 1 of 2'], ['sent', 'read by 1 of 2']]);
  await rooms.members('g1');
  assert.deepEqual(seen(4), ['delivered', 'read by 1 of 2']);
  // What one had who left says nothing of whoever comes back.
  rooms.onEntry({ ...entry(6), conv: 'g1', kind: 'remove', user: 'bob', body: undefined });
  await rooms.members('g1');
  assert.deepEqual(seen(4), ['delivered', '']);
  rooms.onReceipts({ conv: 'g2', members: [] });
});

test('one group is followed; a node that does not tell is asked once, one that cannot now again', async () => {
  const { rooms, server, asked } = crew();
  await rooms.follow('g1');
  assert.equal(rooms.isLive('g1'), false, 'nothing has come');
  rooms.onReceipts({ conv: 'g1', members: [] });
  for (let n = 0; n < 3; n++) await rooms.follow('g1');
  assert.deepEqual([rooms.isLive('g1'), rooms.isLive('g2'), asked], [true, false, ['g1']]);
  await rooms.follow(null);
  await rooms.follow(null);
  rooms.onReceipts({ conv: 'g1', members: [] });
  assert.deepEqual([rooms.isLive('g1'), asked.splice(0)], [false, ['g1', '']]);

  let tries = 0;
  const refuse = (/** @type {boolean} */ retryable) => {
    tries = 0;
    server.watchReceipts = () => (tries++, Promise.reject(Object.assign(new Error('no'), { retryable })));
  };
  refuse(true);
  for (let n = 0; n < 3; n++) await rooms.follow('g1');
  assert.equal(tries, 3);
  refuse(false);
  for (let n = 0; n < 3; n++) await rooms.follow('g1');
  assert.equal(tries, 1);
  rooms.forget();
  await rooms.follow('g1');
  assert.equal(tries, 2, 'the next node may tell');
  // An answer that is late decides nothing about another group.
  let late = () => {};
  server.watchReceipts = async ([conv]) => {
    asked.push(conv);
    if (conv === 'g1') await new Promise((_, failed) => (late = () => failed(Object.assign(new Error('no'), { retryable: false }))));
  };
  rooms.forget();
  const first = rooms.follow('g1');
  await rooms.follow('g2');
  late();
  await first;
  await rooms.follow('g2');
  assert.deepEqual(asked, ['g1', 'g2', 'g2']);
});
