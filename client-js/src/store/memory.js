// A store that ends with its process: for tests and for tools that need no memory.

import { StateStore } from './base.js';
import { insert, slice } from './state.js';

/** @typedef {import('../types.js').Store} Store */
/** @typedef {import('../types.js').Change} Change */
/** @typedef {import('../types.js').Entry} Entry */

const seqOf = (/** @type {Entry} */ e) => e.seq;

/** @implements {Store} */
export class MemoryStore extends StateStore {
  /** @type {Map<string, Entry[]>} */
  #entries = new Map();
  /** @type {import('../types.js').Gap[]} */
  gaps = [];

  /** @param {{ shared?: boolean }} [options] shared: several clients of one process play tabs of a browser */
  constructor({ shared = false } = {}) {
    super();
    this.shared = shared;
  }

  /** @param {Change[]} changes */
  async commit(changes) {
    for (const change of structuredClone(changes)) {
      this.state.apply(change);
      if (change.t === 'entry') {
        const list = this.#entries.get(change.entry.conv) ?? [];
        insert(list, seqOf, change.entry);
        this.#entries.set(change.entry.conv, list);
      } else if (change.t === 'gap') {
        this.gaps.push(change.gap);
      } else if (change.t === 'set_aside') {
        const list = this.#entries.get(change.conv) ?? [];
        this.#entries.set(change.conv, list.filter(e => e.seq < change.from || e.seq > change.to));
      }
    }
  }

  /** @param {string} conv @param {{ before?: number, after?: number, limit?: number }} [range] */
  async entries(conv, range = {}) {
    return structuredClone(slice(this.#entries.get(conv) ?? [], seqOf, range));
  }

  async close() {}
}
