// Positions and acks: what of each conversation is stored here, what is a repeat, what is a hole, what does not fit the hash
// chain. Pure.
//
// Invariant: a position moves by one, or over a named gap; it is acked only after the store has it.

import { ZERO_CHAIN, bodyHash, chainAfter, contentOf } from './content.js';
import * as limits from './limits.js';

/** @typedef {import('./types.js').Entry} Entry */
/** @typedef {import('./types.js').Position} Position */

export class Inbox {
  /** @type {Map<string, Position>} */
  #positions;
  /** Stored, not yet acked on this connection. @type {Map<string, number>} */
  #due = new Map();
  #entries = 0;
  #since = Infinity;

  /** @param {Map<string, Position>} positions */
  constructor(positions) {
    this.#positions = positions;
  }

  /** @param {string} conv @returns {Position | undefined} */
  position(conv) {
    return this.#positions.get(conv);
  }

  /** Another device id: the server's cursors are other ones. */
  reset() {
    this.#positions = new Map();
    this.disconnected();
  }

  /**
   * What a range of seqs is to this device. Where a new device starts is the server's word.
   * @param {string} conv @param {number} from @param {number} to @returns {'new' | 'repeat' | 'hole'}
   */
  look(conv, from, to) {
    const stored = this.#positions.get(conv)?.seq;
    if (stored === undefined) return 'new';
    if (to <= stored) return 'repeat';
    return from > stored + 1 ? 'hole' : 'new';
  }

  /** Why an entry contradicts what is known; undefined: it does not. @param {Entry} entry @returns {string | undefined} */
  contradiction(entry) {
    try {
      const content = contentOf(entry);
      if (content !== undefined && bodyHash(entry.cid, content) !== entry.body_hash) return 'body_hash';
      return this.#breaksChain(entry) ? 'chain' : undefined;
    } catch {
      return 'malformed';
    }
  }

  /** @param {Entry} entry */
  #breaksChain(entry) {
    const stored = this.#positions.get(entry.conv);
    if (stored?.seq === entry.seq) return stored.chain !== null && stored.chain !== entry.chain;
    const before = entry.seq === 1 ? ZERO_CHAIN : stored?.seq === entry.seq - 1 ? stored.chain : null;
    return before !== null && chainAfter(entry, before) !== entry.chain;
  }

  /** @param {string} conv @param {number} seq @param {string | null} chain */
  move(conv, seq, chain) {
    this.#positions.set(conv, { conv, seq, chain });
  }

  /**
   * What came on this connection up to `seq` is stored: its ack is due. Not more, also where more is stored from before: a server
   * takes no ack of what it has not sent on this connection, and a window full of such would stay full for ever.
   * @param {string} conv @param {number} seq @param {number} now
   */
  stored(conv, seq, now) {
    this.#due.set(conv, Math.max(seq, this.#due.get(conv) ?? 0));
    this.#entries += 1;
    this.#since = Math.min(this.#since, now);
  }

  /** Enough entries or enough time. @param {number} now */
  acksDue(now) {
    return this.#entries > 0 && (this.#entries >= limits.CLIENT_ACK_ENTRIES || this.wakeAt() <= now);
  }

  wakeAt() {
    return this.#since + limits.CLIENT_ACK_DELAY_MS;
  }

  /** The acks that are due, at most one frame of them. */
  takeAcks() {
    const items = [];
    for (const [conv, seq] of this.#due) {
      if (items.length === limits.CLIENT_ACKS_PER_FRAME_MAX) break;
      items.push({ conv, seq });
      this.#due.delete(conv);
    }
    if (this.#due.size === 0) [this.#entries, this.#since] = [0, Infinity];
    return items;
  }

  /** Acks die with their connection: what was not acked comes again. */
  disconnected() {
    this.#due.clear();
    [this.#entries, this.#since] = [0, Infinity];
  }
}
