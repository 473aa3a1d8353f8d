import assert from 'node:assert/strict';
import { test } from 'node:test';
import { People } from '../../../web/js/people.js';

/** @param {string[]} kept whom this browser knows as blocked @param {any} server */
function people(kept, server) {
  const names = () => ({ names: {}, save: () => {} });
  const drawer = { users: [...kept], saves: 0, save: () => void drawer.saves++ };
  return { drawer, people: new People({ user: 'alice', ...server }, names(), names(), drawer) };
}

test('blocked people are known before the server says so, all pages of them, and kept', async () => {
  /** @type {any[]} */
  const asked = [];
  const pages = [
    { blocks: [{ user: 'bob', on: true }, { user: 'carol', on: false }], more: true },
    { blocks: [{ user: 'dan', on: true }], more: false },
  ];
  const server = { call: async (/** @type {string} */ what, /** @type {any} */ params) => (asked.push([what, params]), pages[asked.length - 1]) };
  const { people: known, drawer } = people(['erin'], server);
  assert.ok(known.isBlocked('erin') && !known.isBlocked('bob') && !known.isBlocked(undefined));
  await known.loadBlocks();
  assert.deepEqual(asked, [['GET blocks', {}], ['GET blocks', { after: 'carol' }]]);
  assert.deepEqual(['bob', 'carol', 'dan', 'erin'].filter(user => known.isBlocked(user)), ['bob', 'dan']);
  assert.deepEqual([drawer.users, drawer.saves], [['bob', 'dan'], 1]);
});

test('a block counts once the server has it; without an answer nothing changes', async () => {
  let answer = () => Promise.reject(new Error('no'));
  const { people: known, drawer } = people(['bob'], { call: () => answer() });
  await known.loadBlocks();
  await assert.rejects(known.block('dan', true));
  assert.deepEqual(drawer.users, ['bob']);
  answer = async () => /** @type {any} */ ({});
  await known.block('dan', true);
  await known.block('dan', true);
  assert.deepEqual(drawer.users, ['bob', 'dan']);
  await known.block('bob', false);
  assert.deepEqual([known.isBlocked('bob'), drawer.users], [false, ['dan']]);
});
