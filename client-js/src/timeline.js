// Entries folded into what a person sees: messages with their last edit, deletion and reactions. Pure, and independent of the
// order in which entries are given, so that pages may be added at either end.

import { textOf } from './content.js';

/** @typedef {import('./types.js').Entry} Entry */

/**
 * @typedef {object} Message
 * @property {string} conv
 * @property {number} seq
 * @property {number} n
 * @property {string} cid
 * @property {string} from
 * @property {number} ts milliseconds since 1970
 * @property {string} kind message, a client's own kind, or an event of the group (create, add, remove, leave, role, rename, history)
 * @property {Uint8Array} [body] of the last edit; none once deleted or redacted
 * @property {string} text the body as text
 * @property {number} [reply_to]
 * @property {string[]} [mentions]
 * @property {string} [media]
 * @property {boolean} edited
 * @property {boolean} deleted
 * @property {Record<string, string[]>} reactions users by emoji
 * @property {Entry} entry the raw one
 */

/** What later entries say about one. @typedef {{ edit?: Entry, gone?: Entry, reactions: Map<string, Entry> }} About */

export class Timeline {
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  /** @type {Map<number, About>} */
  #about = new Map();

  /** @param {Iterable<Entry>} entries of one conversation */
  add(entries) {
    for (const entry of entries) {
      if (entry.target === undefined) {
        this.#entries.set(entry.seq, entry);
        continue;
      }
      /** @type {About} */
      const about = this.#about.get(entry.target) ?? { reactions: new Map() };
      this.#about.set(entry.target, about);
      if (entry.kind === 'edit') about.edit = later(about.edit, entry);
      else if (entry.kind === 'delete') about.gone = later(about.gone, entry);
      else if (entry.kind === 'react') {
        const key = `${entry.from} ${entry.emoji}`;
        about.reactions.set(key, later(about.reactions.get(key), entry));
      }
    }
    return this;
  }

  /** The seqs that are held, edits and such aside. */
  get size() {
    return this.#entries.size;
  }

  /** @param {number} seq @returns {Message | undefined} */
  get(seq) {
    const entry = this.#entries.get(seq);
    return entry && view(entry, this.#about.get(seq));
  }

  /** In order of `seq`. @returns {Message[]} */
  messages() {
    return [...this.#entries.keys()].sort((a, b) => a - b).map(seq => /** @type {Message} */ (this.get(seq)));
  }
}

/** @param {Iterable<Entry>} entries of one conversation @returns {Message[]} */
export const fold = entries => new Timeline().add(entries).messages();

/** @param {Entry | undefined} a @param {Entry} b */
const later = (a, b) => (a === undefined || b.seq > a.seq ? b : a);

/** @param {Entry} entry @param {About | undefined} about @returns {Message} */
function view(entry, about) {
  const { conv, seq, n, cid, from, ts, kind, reply_to, mentions, media } = entry;
  const deleted = about?.gone !== undefined || entry.redacted === true;
  const body = deleted ? undefined : (about?.edit?.body ?? entry.body);
  // Without a prototype: an emoji is any text, also `constructor`.
  /** @type {Record<string, string[]>} */
  const reactions = Object.create(null);
  const marks = deleted ? [] : [...(about?.reactions.values() ?? [])].sort((a, b) => a.seq - b.seq);
  for (const { emoji, from: user, on } of marks) if (on && emoji !== undefined) (reactions[emoji] ??= []).push(user);
  return {
    conv, seq, n, cid, from, ts, kind, body, text: textOf({ body }), reply_to, mentions, media,
    edited: !deleted && about?.edit !== undefined, deleted, reactions, entry,
  };
}
