import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Backoff, Urls, socketUrl } from '../../src/dial.js';
import { Inbox } from '../../src/inbox.js';
import * as limits from '../../src/limits.js';
import { Outbox } from '../../src/outbox.js';

/** @param {string} cid @param {string} conv */
const command = (cid, conv) => ({ cid, conv, to: conv, content: { kind: 'message' }, saved_ms: 10_000 });

/** @param {Outbox} outbox @param {number} now */
function sent(outbox, now) {
  const all = [];
  for (let next = outbox.next(now, 10_000 + now); next; next = outbox.next(now, 10_000 + now)) {
    all.push([next.frame.d.cid, next.frame.d.after, next.frame.d.age_s]);
  }
  return all;
}

test('pipelined commands name the nearest unanswered one', () => {
  const outbox = new Outbox();
  for (const cid of ['1', '2', '3']) outbox.add(command(cid, 'bob'), 0);
  outbox.add(command('9', 'carol'), 0);
  const first = sent(outbox, 0);
  assert.deepEqual(first.filter(f => f[0] !== '9'), [['1', undefined, undefined], ['2', '1', undefined], ['3', '2', undefined]]);
  outbox.finish('1');
  outbox.finish('2');
  outbox.add(command('4', 'bob'), 1);
  assert.deepEqual(sent(outbox, 1), [['4', '3', undefined]]);
  outbox.finish('3');
  outbox.disconnected(2_500);
  assert.deepEqual(sent(outbox, 2_500).sort(), [['4', undefined, 3], ['9', undefined, 3]], 'after drops once accepted');
});

test('nothing overtakes a command that pauses', () => {
  const outbox = new Outbox();
  outbox.add(command('1', 'bob'), 0);
  outbox.add(command('2', 'bob'), 0);
  assert.equal(sent(outbox, 0).length, 2);
  outbox.retry('2', 0, undefined, 0);
  outbox.retry('1', 0, 500, 1);
  assert.deepEqual(sent(outbox, 499), [], '2 waits for 1');
  assert.equal(outbox.wakeAt(0), 20);
  assert.deepEqual(sent(outbox, 509), [], 'the server said when');
  assert.deepEqual(sent(outbox, 510), [['1', undefined, 1]], 'one until one is accepted');
  outbox.finish('1');
  assert.deepEqual(sent(outbox, 510), [['2', undefined, 1]]);
});

test('commands behind a rejected one do not pause', () => {
  const outbox = new Outbox();
  for (const cid of ['1', '2', '3', '4']) outbox.add(command(cid, 'bob'), 0);
  assert.equal(sent(outbox, 0).length, 4);
  for (let i = 0; i < 8; i++) {
    outbox.disconnected(0);
    sent(outbox, 0);
  }
  // The refusal of 3 comes before the rejection of 2, as that of 2 after the rejection of 1.
  outbox.outOfOrder('3', 0, 1);
  outbox.finish('1');
  outbox.outOfOrder('2', 0, 1);
  outbox.outOfOrder('4', 0, 1);
  assert.deepEqual(sent(outbox, 0), [['2', undefined, 1]], 'nothing is left to wait for');
  outbox.finish('2');
  assert.deepEqual(sent(outbox, 0), [['3', undefined, 1]]);
  outbox.finish('3');
  assert.deepEqual(sent(outbox, 0), [['4', undefined, 1]]);
  assert.equal(outbox.flying, 1);
});

/**
 * Sends a row of commands until none is left; each frame is answered in its turn, as the server would. How many frames it took.
 * @param {number} count @param {(number: number) => boolean} accepts
 */
function frames(count, accepts) {
  const outbox = new Outbox();
  const applied = new Set();
  let [frames, now] = [0, 0];
  for (let cid = 1; cid <= count; cid++) outbox.add(command(`${cid}`, 'bob'), 0);
  while (outbox.size > 0) {
    const flight = sent(outbox, now);
    frames += flight.length;
    for (const [cid, after] of flight) {
      if (after !== undefined && !applied.has(after)) outbox.outOfOrder(cid, now, 0.5);
      else {
        if (accepts(Number(cid))) applied.add(cid);
        outbox.finish(cid);
      }
    }
    const wake = outbox.wakeAt(now);
    if (flight.length === 0) now = wake;
  }
  return frames;
}

test('a row of refused commands costs two frames each', () => {
  const window = limits.CLIENT_REQUESTS_IN_FLIGHT_MAX;
  assert.equal(frames(300, () => true), 300, 'nothing is refused: each once');
  const none = frames(300, () => false);
  assert.ok(none <= 600, `${none} frames`);
  // The first ones alone: soon the window is as wide as ever.
  const later = frames(300, cid => cid > 5);
  assert.ok(later <= 300 + window, `${later} frames`);
  const everyOther = frames(300, cid => cid % 2 === 0);
  assert.ok(everyOther <= 600, `${everyOther} frames`);
});

test('a row that is refused as a whole goes out as fast as one that is accepted', () => {
  const outbox = new Outbox();
  for (let cid = 1; cid <= 300; cid++) outbox.add(command(`${cid}`, 'bob'), 0);
  const first = sent(outbox, 0).length;
  outbox.retry('1', 0, undefined, 0);
  for (let cid = 2; cid <= first; cid++) outbox.outOfOrder(`${cid}`, 0, 0);
  let turns = 0;
  for (; outbox.size > 0; turns++) {
    // No member any more: each is told that, whatever it names.
    for (const [cid] of sent(outbox, 60_000)) assert.ok(outbox.finish(cid));
  }
  assert.ok(turns <= 10, `${turns} turns`);
});

test('what comes too fast is sent one by one until there is room', () => {
  const outbox = new Outbox();
  for (let cid = 1; cid <= 40; cid++) outbox.add(command(`${cid}`, 'bob'), 0);
  assert.equal(sent(outbox, 0).length, 40);
  outbox.retry('1', 0, 400, 0);
  for (let cid = 2; cid <= 40; cid++) outbox.outOfOrder(`${cid}`, 0, 0);
  assert.deepEqual(sent(outbox, 399), [], 'not before the server said');
  const turns = [];
  while (outbox.size > 0) {
    const flight = sent(outbox, 60_000);
    for (const [cid] of flight) assert.ok(outbox.finish(cid));
    turns.push(flight.length);
  }
  assert.deepEqual(turns, [1, 2, 8, 29], 'and then wider and wider');
});

test('an overdue answer is unknown and asked for again with its age', () => {
  const outbox = Outbox.restored([command('1', 'bob')], 0);
  assert.deepEqual(sent(outbox, 0), [['1', undefined, 1]], 'an earlier process may have sent it');
  assert.equal(outbox.expire(limits.CLIENT_ANSWER_TIMEOUT_MS), 1);
  assert.equal(outbox.flying, 0);
  assert.deepEqual(sent(outbox, 8_000), [['1', undefined, 8]]);
  assert.deepEqual(outbox.stale(8_000, 10_000 + limits.CLIENT_RESEND_MS), []);
  assert.deepEqual(outbox.stale(8_000, 10_001 + limits.CLIENT_RESEND_MS), ['1']);
  assert.deepEqual(outbox.stale(limits.CLIENT_RESEND_MS, 0), [], 'a wall clock that was set back');
  assert.deepEqual(outbox.stale(1 + limits.CLIENT_RESEND_MS, 0), ['1'], 'makes nothing younger');
});

test('a rejection after an attempt without a clear answer is unknown', () => {
  const outbox = new Outbox();
  const no = { code: 'not_found', message: 'no such conversation' };
  for (const cid of ['1', '2', '3']) outbox.add(command(cid, 'bob'), 0);
  sent(outbox, 0);
  outbox.retry('1', 0, undefined, 0);
  assert.deepEqual(outbox.refused('1', no), { state: 'rejected', error: no }, 'it was answered: nothing happened');
  outbox.doubt('1');
  assert.deepEqual(outbox.refused('1', no), { state: 'unknown', why: 'not_found: no such conversation' }, 'the answer did not tell');
  assert.equal(outbox.refused('1', { ...no, code: 'idempotency_mismatch' }).state, 'rejected', 'an entry with this cid exists');
  outbox.disconnected(0);
  assert.ok(outbox.isInDoubt('2'));
  outbox.add(command('4', 'carol'), 0);
  assert.ok(!outbox.isInDoubt('4'), 'never sent');
  sent(outbox, 10_000);
  outbox.expire(10_000 + limits.CLIENT_ANSWER_TIMEOUT_MS);
  assert.ok(outbox.isInDoubt('4'));
  assert.ok(Outbox.restored([command('1', 'bob')], 0).isInDoubt('1'), 'an earlier process may have sent it');
  outbox.add({ ...command('5', 'dave'), asked_ms: 10_000 }, 0);
  assert.ok(outbox.isInDoubt('5'), 'it was attempted before the person said again');
});

test('a wall clock that was set back makes no command younger than it is', () => {
  const outbox = new Outbox();
  outbox.add(command('1', 'bob'), 1_000);
  assert.equal(outbox.next(1_000, 10_000)?.frame.d.age_s, undefined);
  outbox.disconnected(61_000);
  assert.equal(outbox.next(61_000, 5_000)?.frame.d.age_s, 60);
});

test('the wire holds a bounded number, and conversations take turns', () => {
  const outbox = new Outbox();
  for (let i = 0; i < 200; i++) outbox.add(command(`a${i}`, 'a'), 0);
  for (let i = 0; i < 3; i++) outbox.add(command(`b${i}`, 'b'), 0);
  const order = [];
  for (let i = 0; i < 6; i++) order.push(outbox.next(0, 0)?.command.cid);
  assert.deepEqual(order, ['a0', 'b0', 'a1', 'b1', 'a2', 'b2']);
});

test('acks are cumulative, due by count or by time, and die with their connection', () => {
  const inbox = new Inbox(new Map());
  const take = (/** @type {number} */ seq, /** @type {number} */ now) => (inbox.move('c', seq, null), inbox.stored('c', seq, now));
  for (const seq of [1, 2, 3]) take(seq, 1_000);
  assert.ok(!inbox.acksDue(1_199) && inbox.acksDue(1_200));
  assert.deepEqual(inbox.takeAcks(), [{ conv: 'c', seq: 3 }]);
  assert.ok(!inbox.acksDue(99_999));
  for (let seq = 4; seq < 4 + limits.CLIENT_ACK_ENTRIES; seq++) take(seq, 2_000);
  assert.ok(inbox.acksDue(2_000));
  inbox.disconnected();
  assert.ok(!inbox.acksDue(99_999));
  assert.deepEqual([inbox.look('c', 68, 68), inbox.look('c', 67, 67), inbox.look('c', 69, 69), inbox.look('c', 60, 80)], ['new', 'repeat', 'hole', 'new']);
  assert.equal(inbox.look('new', 5, 5), 'new', 'where a new device starts is the word of the server');
});

test('what comes again is acked as far as it has come', () => {
  const inbox = new Inbox(new Map([['c', { conv: 'c', seq: 200, chain: null }]]));
  for (let seq = 1; seq <= 128; seq++) inbox.stored('c', seq, 1_000);
  assert.deepEqual(inbox.takeAcks(), [{ conv: 'c', seq: 128 }], 'the server has sent no more');
});

test('every URL gets its turn, and the one to avoid is avoided', () => {
  const urls = new Urls(['http://a/', 'http://b'], () => 0);
  for (let i = 0; i < 4; i++) assert.equal(urls.next('http://a'), 'http://b');
  urls.learn(['http://c', 'javascript:alert(1)', 7]);
  assert.deepEqual(new Set([urls.next(), urls.next(), urls.next()]), new Set(['http://a', 'http://b', 'http://c']));
  assert.equal(new Urls(['http://a'], () => 0).next('http://a'), 'http://a');
  assert.equal(socketUrl('https://chat.example'), 'wss://chat.example/v1/ws');
});

test('pauses grow to their bound with full jitter', () => {
  const backoff = new Backoff(100, 2_000, () => 0.5);
  assert.deepEqual(Array.from({ length: 7 }, () => backoff.pause()), [50, 100, 200, 400, 800, 1_000, 1_000]);
  backoff.reset();
  assert.equal(backoff.pause(), 50);
});
