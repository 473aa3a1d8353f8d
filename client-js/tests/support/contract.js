// What every store must do; run against memory and files in Node, and against IndexedDB in a browser.

/** @typedef {import('../../src/types.js').Store} Store */

const CID = '01234567-89ab-4def-8123-456789abcdef';
const bytes = new Uint8Array([0, 1, 255]);
/** @param {number} seq @param {string} [conv] */
export const entry = (seq, conv = 'd05alice03bob') => ({
  conv, seq, n: seq, msg_id: '18446744073709551614', ts: 5, from: 'alice', device: CID, cid: CID, kind: 'message', body_hash: 'x', chain: 'y', body: bytes,
});
/** @param {string} cid */
export const command = cid => ({ cid, conv: 'd05alice03bob', to: 'bob', content: { kind: 'message', body: bytes, mentions: ['bob'] }, saved_ms: 7 });

/** @param {unknown} a @param {unknown} b @param {string} [why] */
function same(a, b, why = '') {
  const text = (/** @type {unknown} */ v) => JSON.stringify(v, (_, x) => (x instanceof Uint8Array ? [...x] : x instanceof Map ? [...x] : x));
  if (text(a) !== text(b)) throw new Error(`${why}: ${text(a)} is not ${text(b)}`);
}

/**
 * @param {() => Promise<Store>} open a new, empty store
 * @param {(store: Store) => Promise<Store>} reopen the same one in a later life
 */
export async function contract(open, reopen) {
  let store = await open();
  const empty = await store.load();
  same([empty.install, empty.device, empty.rev, empty.commands, empty.tokens], ['', null, null, [], null], 'an empty store');

  await store.commit([
    { t: 'install', install: 'secret' }, { t: 'device', user: 'alice', device: CID }, { t: 'rev', rev: '1.2' }, { t: 'tokens', tokens: { a: 1 } },
    { t: 'read', conv: 'x', seq: 5 }, { t: 'read', conv: 'x', seq: 3 },
    { t: 'conv', conv: /** @type {any} */ ({ conv: 'x', read: 1, head: 9 }) },
    { t: 'entry', entry: entry(1) }, { t: 'position', conv: 'd05alice03bob', seq: 1, chain: 'y' },
  ]);
  const cids = ['a', 'b', 'c'].map(c => CID.replace('f', c).slice(0, -1) + c);
  for (const cid of cids) await store.commit([{ t: 'command', command: command(cid) }]);
  for (let seq = 2; seq <= 9; seq++) if (seq !== 6) await store.commit([{ t: 'entry', entry: entry(seq) }, { t: 'gap', gap: { conv: 'x', from: seq, to: seq, reason: 'retention' } }]);
  await store.commit([{ t: 'entry', entry: entry(2, 'd05alice03bobx') }, { t: 'entry', entry: entry(5) }]);

  for (let life = 0; life < 2; life++) {
    const saved = await store.load();
    same([saved.install, saved.device, saved.rev, saved.tokens], ['secret', { user: 'alice', device: CID }, '1.2', { a: 1 }], 'who it is');
    same(saved.commands.map(c => c.cid), cids, 'commands in order');
    same(saved.commands[0].content, command('').content, 'a command whole');
    same([saved.reads.get('x'), saved.convs.get('x')?.head, saved.positions.get('d05alice03bob')?.chain], [5, 9, 'y'], 'marks');
    same(await store.commandsAbove(saved.commands[0].n ?? 0), saved.commands.slice(1), 'later commands');
    same((await store.command(cids[1]))?.cid, cids[1], 'one command');
    const seqs = async (/** @type {any} */ range) => (await store.entries('d05alice03bob', range)).map(e => e.seq);
    same(await seqs({}), [1, 2, 3, 4, 5, 7, 8, 9], 'all');
    same(await seqs({ limit: 3 }), [7, 8, 9], 'newest');
    same(await seqs({ before: 7, limit: 2 }), [4, 5], 'before');
    same(await seqs({ after: 4, limit: 2 }), [5, 7], 'after');
    same(await seqs({ after: 4, before: 8 }), [5, 7], 'between');
    same(await seqs({ before: 1 }), [], 'nothing before the first');
    same(await seqs({ after: 9 }), [], 'nothing after the last');
    same((await store.entries('d05alice03bob', { after: 0, limit: 1 }))[0], entry(1), 'an entry whole');
    same((await store.position('d05alice03bob'))?.seq, 1, 'position');
    store = await reopen(store);
  }

  const accepted = /** @type {any} */ ({ state: 'accepted', accepted: { seq: 1 } });
  await store.commit([{ t: 'answered', cid: cids[0], outcome: accepted, at_ms: 1 }]);
  await store.commit([{ t: 'answered', cid: cids[1], outcome: { state: 'unknown', why: 'stale' }, at_ms: 2 }]);
  await store.commit([{ t: 'answered', cid: 'never heard of', outcome: accepted, at_ms: 2 }]);
  store = await reopen(store);
  same((await store.commands()).map(c => c.cid), [cids[2]], 'answered commands are gone');
  same((await store.answers()).map(a => [a.cid, a.outcome.state]), [[cids[0], 'accepted'], [cids[1], 'unknown']], 'answers');
  const answer = await store.answer(cids[1]);
  same(answer?.command.content, command('').content, 'what is unknown keeps its content');
  const { n: _, ...row } = /** @type {any} */ (answer).command;
  await store.commit([{ t: 'command', command: { ...row, asked_ms: 9 } }]);
  same([(await store.commands()).map(c => c.cid), await store.answer(cids[1])], [[cids[2], cids[1]], undefined], 'sent again, last');

  await store.commit([{ t: 'set_aside', conv: 'd05alice03bob', from: 7, to: 100 }, { t: 'entry', entry: entry(101) }, { t: 'positions_dropped' }]);
  store = await reopen(store);
  same((await store.entries('d05alice03bob', {})).map(e => e.seq), [1, 2, 3, 4, 5, 101], 'set aside');
  same((await store.load()).positions.size, 0, 'positions dropped');
  await Promise.all(Array.from({ length: 20 }, (_, i) => store.commit([{ t: 'entry', entry: entry(i + 1, 'many') }, { t: 'position', conv: 'many', seq: i + 1, chain: null }])));
  same((await store.entries('many', {})).length, 20, 'commits at the same time');
  await store.close();
}
