// What arrives of conversations: entries and gaps become changes of the store and events. Pure.
//
// Invariants: an entry is delivered once, in `seq` order, with its body, and only if it fits its hashes; a hole is never
// delivered. A hole seen once makes the device come again on a new connection; the same hole seen twice is filled from the
// conversation's history, and what the history does not show either becomes a gap that says so.

import { filled } from './content.js';
import { Inbox } from './inbox.js';
import { ECHO_CONTENTS_MAX } from './limits.js';

/** @typedef {import('./types.js').Entry} Entry */
/** @typedef {import('./types.js').Gap} Gap */
/** @typedef {import('./types.js').Content} Content */

/**
 * What a batch of frames leads to once the store has it.
 * @typedef {object} Work
 * @property {import('./types.js').Change[]} changes
 * @property {{ name: string, data: any }[]} events
 * @property {{ conv: string, seq: number }[]} stored whose ack is due, once for each entry
 * @property {{ conv: string, after: number }[]} fills pages of history that are needed
 * @property {{ code: number, reason: string } | null} leave this connection is of no use any more
 */

/** @returns {Work} */
export const newWork = () => ({ changes: [], events: [], stored: [], fills: [], leave: null });

export class Receiver {
  inbox;
  /** Own commands on this connection, for the echo of their entries. @type {Map<string, Content>} */
  #contents = new Map();
  /** Where a hole was seen: the position before it. @type {Map<string, number>} */
  #holes = new Map();
  /** Where an entry contradicted the chain. @type {Map<string, number>} */
  #forks = new Map();
  /** Frames that wait for history. @type {Map<string, { entry?: Entry, gap?: Gap }[]>} */
  #filling = new Map();
  /** Conversations that contradict themselves on every connection. @type {Set<string>} */
  #quarantined = new Set();

  /** @param {Map<string, import('./types.js').Position>} positions */
  constructor(positions) {
    this.inbox = new Inbox(positions);
  }

  /** @param {string} cid @param {Content} content */
  sent(cid, content) {
    if (this.#contents.size < ECHO_CONTENTS_MAX) this.#contents.set(cid, content);
  }

  /** It will never be an entry. @param {string} cid */
  rejected(cid) {
    this.#contents.delete(cid);
  }

  /** Another connection gives own entries whole. */
  disconnected() {
    this.#contents.clear();
    this.#filling.clear();
    this.inbox.disconnected();
  }

  reset() {
    this.inbox.reset();
    for (const map of [this.#holes, this.#forks, this.#filling]) map.clear();
    this.#quarantined.clear();
  }

  /** @param {Entry} entry @param {Work} work */
  onEntry(entry, work) {
    const { conv, seq } = entry;
    const waiting = this.#filling.get(conv);
    if (waiting) return void waiting.push({ entry });
    if (work.leave || this.#quarantined.has(conv)) return;
    const sight = this.inbox.look(conv, seq, seq);
    if (sight === 'hole') return this.#onHole(conv, seq, { entry }, work);
    const content = entry.echo && sight === 'new' ? this.#contents.get(entry.cid) : undefined;
    if (entry.echo && sight === 'new' && content === undefined) {
      work.leave = { code: 1006, reason: 'an echo of a command that is not known any more' };
      return;
    }
    const whole = content === undefined ? entry : filled(entry, content);
    const why = this.inbox.contradiction(whole);
    if (why !== undefined) return this.#onContradiction(entry, why, work);
    work.stored.push({ conv, seq });
    if (sight === 'repeat') return;
    this.#contents.delete(entry.cid);
    this.#holes.delete(conv);
    this.#forks.delete(conv);
    this.inbox.move(conv, seq, entry.chain);
    work.changes.push({ t: 'entry', entry: whole }, { t: 'position', conv, seq, chain: entry.chain });
    work.events.push({ name: 'entry', data: whole });
  }

  /** @param {Gap} gap @param {Work} work */
  onGap(gap, work) {
    const { conv, from, to } = gap;
    const waiting = this.#filling.get(conv);
    if (waiting) return void waiting.push({ gap });
    if (work.leave || this.#quarantined.has(conv)) return;
    const sight = this.inbox.look(conv, from, to);
    if (sight === 'hole') return this.#onHole(conv, from, { gap }, work);
    work.stored.push({ conv, seq: to });
    if (sight === 'repeat') return;
    if (gap.reason === 'restored') this.#onRestored(gap, work);
    this.#holes.delete(conv);
    this.inbox.move(conv, to, null);
    work.changes.push({ t: 'gap', gap }, { t: 'position', conv, seq: to, chain: null });
    work.events.push({ name: 'gap', data: gap });
  }

  /**
   * What the restored cluster does not know is set aside: all from the gap on, and all if the past before it differs.
   * @param {Gap} gap @param {Work} work
   */
  #onRestored(gap, work) {
    const { conv, from, to, chain_before } = gap;
    const stored = this.inbox.position(conv);
    const differs = stored?.seq === from - 1 && stored.chain !== null && chain_before !== undefined && stored.chain !== chain_before;
    work.changes.push({ t: 'set_aside', conv, from: differs ? 1 : from, to });
    if (differs) work.events.push({ name: 'error', data: { code: 'restored_elsewhere', conv, seq: stored.seq } });
  }

  /** @param {string} conv @param {number} got @param {{ entry?: Entry, gap?: Gap }} frame @param {Work} work */
  #onHole(conv, got, frame, work) {
    const stored = this.inbox.position(conv)?.seq ?? 0;
    const again = this.#holes.get(conv) === stored;
    work.events.push({ name: 'error', data: { code: 'hole', conv, stored, got, action: again ? 'fill' : 'reconnect' } });
    if (again) {
      this.#holes.delete(conv);
      this.#filling.set(conv, [frame]);
      work.fills.push({ conv, after: stored });
    } else {
      this.#holes.set(conv, stored);
      work.leave = { code: 1006, reason: 'an entry is missing' };
    }
  }

  /** @param {Entry} entry @param {string} why @param {Work} work */
  #onContradiction(entry, why, work) {
    const { conv, seq } = entry;
    const again = this.#forks.get(conv) === seq;
    work.events.push({ name: 'error', data: { code: 'integrity', why, conv, seq, entry, action: again ? 'quarantine' : 'reconnect' } });
    if (again) {
      this.#quarantined.add(conv);
    } else {
      this.#forks.set(conv, seq);
      work.leave = { code: 1006, reason: `an entry contradicts its ${why}` };
    }
  }

  /**
   * A page of history for a hole, oldest first.
   * @param {string} conv @param {{ entries: Entry[], more?: boolean }} page @param {Work} work
   */
  onPage(conv, page, work) {
    const waiting = this.#filling.get(conv);
    if (waiting === undefined) return;
    const [first] = waiting;
    const end = first.entry?.seq ?? first.gap?.from ?? 0;
    const at = () => this.inbox.position(conv)?.seq ?? 0;
    const from = at();
    const explain = (/** @type {number} */ to) => {
      if (at() < to) this.onGap({ conv, from: at() + 1, to, reason: 'unexplained' }, work);
    };
    this.#filling.delete(conv);
    for (const entry of page.entries) {
      if (entry.seq >= end) break;
      explain(entry.seq - 1);
      this.onEntry(entry, work);
    }
    if (work.leave) return;
    if (at() < end - 1 && page.more && at() > from) {
      this.#filling.set(conv, waiting);
      work.fills.push({ conv, after: at() });
      return;
    }
    explain(end - 1);
    for (const { entry, gap } of waiting) {
      if (entry) this.onEntry(entry, work);
      else if (gap) this.onGap(gap, work);
    }
  }
}
