import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Audit } from '../../../web/js/audit.js';

/** @param {number} seq @param {string} [cid] @param {string} [from] */
const entry = (seq, cid = `c${seq}`, from = 'alice') => ({ conv: 'g', seq, cid, from });
/** @param {Audit} audit */
const told = ({ accepted, delivered, lost, doubled, waiting }) => ({ accepted, delivered, lost, doubled, waiting });

test('what is accepted and comes once, in order, is neither lost nor doubled', () => {
  const audit = new Audit();
  audit.onAccepted('c7', { conv: 'g', seq: 7 });
  assert.equal(audit.waiting, 1);
  for (const seq of [5, 6, 7]) audit.onEntry(entry(seq));
  audit.onAccepted('c6', { conv: 'g', seq: 6 });
  audit.onEntry({ ...entry(1), conv: 'another' });
  audit.onSeen(entry(6));
  assert.deepEqual(told(audit), { accepted: 2, delivered: 4, lost: 0, doubled: 0, waiting: 0 });
});

test('a hole is lost, unless it was said', () => {
  const audit = new Audit();
  for (const seq of [1, 4]) audit.onEntry(entry(seq));
  assert.equal(audit.lost, 2);
  audit.onGap({ conv: 'g', to: 9 });
  audit.onEntry(entry(10));
  assert.equal(audit.lost, 2);
});

test('one that comes twice is doubled, as the same entry and as another one', () => {
  const audit = new Audit();
  for (const one of [entry(1), entry(1), entry(2, 'c1')]) audit.onEntry(one);
  assert.equal(audit.doubled, 2);
  audit.onEntry(entry(3, 'c1', 'bob'));
  assert.equal(audit.doubled, 2, 'cids of two senders may be equal');
});

test('an accepted one in whose place another one stands is lost', () => {
  const audit = new Audit();
  audit.onAccepted('mine', { conv: 'g', seq: 2 });
  for (const seq of [1, 2]) audit.onEntry(entry(seq));
  assert.equal(audit.lost, 1);
  audit.onAccepted('late', { conv: 'g', seq: 1 });
  assert.equal(audit.lost, 2, 'its seq was there before the answer');
  audit.onGap({ conv: 'g', to: 5 });
  audit.onAccepted('in a gap', { conv: 'g', seq: 4 });
  assert.equal(audit.lost, 3);
});
