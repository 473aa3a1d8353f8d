// What a conversation's screen shows: the entries that were loaded, in order, with what this person has written and not got an
// answer for yet. Knows the client, and nothing of the screen.
//
// Invariant: what is loaded reaches without a hole to the newest entry, except where a gap is shown.

import { Timeline, textOf } from '../../../client-js/src/index.js';
import { dayOf } from './format.js';

const FIRST_PAGE = 60;
const PAGE = 100;
/** From the store. */
const BIG_PAGE = 2_000;
/** Messages of one sender within this time stand together. */
const TOGETHER_MS = 5 * 60_000;
const ABOUT = new Set(['edit', 'delete', 'react']);

/** @typedef {import('../../../client-js/src/types.js').Entry} Entry */
/** @typedef {import('../../../client-js/src/types.js').Command} Command */

/**
 * Written here, and not in the log as far as this device knows.
 * @typedef {{ command: Command, state: 'waiting' | 'accepted' | 'rejected' | 'unknown', why?: string, code?: string }} Pending
 */

/**
 * A row. `lead`: the first of its sender's; `day`: a new day begins.
 * @typedef {{ key: string, type: 'top' | 'gap' | 'message' | 'event' | 'pending', ts: number, seq?: number, from?: string, lead?: boolean,
 *   day?: boolean, isNew?: boolean, tail?: boolean, gap?: [number, number], pending?: Pending }} Row
 */

export class Thread {
  #client;
  #timeline = new Timeline();
  /** All seqs that are loaded, ascending; also those that show nothing of their own. @type {number[]} */
  #seqs = [];
  /** @type {Map<number, Entry>} */
  #entries = new Map();
  /** As they stand, until something is said about them. @type {Map<number, any>} */
  #messages = new Map();
  /** Own commands by cid, in order. @type {Map<string, Pending>} */
  #pending = new Map();
  /** Of own entries that are loaded. @type {Set<string>} */
  #cids = new Set();
  /** Rows of what is loaded; grows at its end, and is made anew when something comes before it. @type {Row[] | null} */
  #base = null;
  /** Those with own ones that wait. @type {Row[] | null} */
  #rows = null;
  /** @type {Promise<void> | null} */
  #loading = null;
  /** Delivered while the first page was on its way, which may be older. @type {Entry[]} */
  #early = [];
  /** Older ones may exist. */
  more = true;
  isLoaded = false;
  /** Seqs of people whom this person has blocked, and wants to see all the same. @type {Set<number>} */
  unhidden = new Set();
  /** Why older ones could not be had. @type {string | null} */
  trouble = null;
  /** n of what was read when the screen was opened; none: no divider. */
  #readN = Infinity;
  #isDivided = false;
  onChange = () => {};
  /** For the counters. @type {(entry: Entry) => void} */
  onSeen = () => {};

  /** @param {any} client @param {string} conv @param {Set<string>} dismissed cids that the person does not want to see any more */
  constructor(client, conv, dismissed) {
    this.#client = client;
    this.conv = conv;
    this.dismissed = dismissed;
  }

  /** @param {number} readN n of what was read before, for the divider @param {number} unread */
  async open(readN, unread) {
    this.markNew(unread > 0 ? readN : Infinity);
    await this.#own();
    await this.older(Math.min(FIRST_PAGE + unread, 400));
  }

  /** The divider stands above the first message that counts more than this. @param {number} readN */
  markNew(readN) {
    if (readN === this.#readN) return;
    this.#readN = readN;
    this.#base = this.#rows = null;
  }

  /** What this person has written and the log does not show. */
  async #own() {
    const outcomes = await this.#client.outcomes();
    for (const { cid, conv, command, outcome } of outcomes) {
      if (conv === this.conv && outcome.state !== 'accepted' && !this.dismissed.has(cid) && !ABOUT.has(command.content.kind)) this.#fail(cid, command, outcome);
    }
    for (const command of await this.#client.outbox(this.conv)) this.onOutbox(command);
  }

  get first() {
    return this.#seqs[0];
  }

  get last() {
    return this.#seqs.at(-1);
  }

  get isLoading() {
    return this.#loading !== null;
  }

  /** One page further back. @param {number} [limit] @returns {Promise<void>} */
  older(limit = PAGE) {
    if (!this.more && this.isLoaded) return Promise.resolve();
    this.#loading ??= this.#older(limit).finally(() => {
      this.#loading = null;
      this.#changed();
    });
    return this.#loading;
  }

  /** @param {number} limit */
  async #older(limit) {
    this.trouble = null;
    const before = this.first;
    try {
      const { entries, more } = await this.#client.page(this.conv, { before, limit: Math.min(limit, 200) });
      this.more = more;
      this.#prepend(entries);
      if (entries.length === 0 && more) this.trouble = 'offline';
    } catch (error) {
      const { code } = /** @type {any} */ (error);
      if (code === 'not_found' || code === 'not_member') this.more = false;
      // What the store has stands there all the same.
      else this.trouble = code ?? 'internal';
      this.#prepend(await this.#client.entries(this.conv, { before, limit }));
    }
    this.isLoaded = true;
    for (const entry of this.#early.splice(0)) this.onEntry(entry);
  }

  /** Loads what the store has, back to this seq. @param {number} seq @returns {Promise<boolean>} */
  async reach(seq) {
    while (this.first !== undefined && this.first > seq) {
      const local = await this.#client.entries(this.conv, { before: this.first, limit: BIG_PAGE });
      let from = local.length;
      for (let next = this.first; from > 0 && local[from - 1].seq === next - 1; from--) next = local[from - 1].seq;
      if (from < local.length) {
        this.#prepend(local.slice(from));
      } else {
        const before = this.first;
        await this.older();
        if (this.first === before) break;
      }
    }
    this.#changed();
    return this.#entries.has(seq);
  }

  /** @param {Entry[]} entries ascending, all below what is loaded */
  #prepend(entries) {
    const fresh = entries.filter(e => !this.#entries.has(e.seq) && (this.first === undefined || e.seq < this.first));
    this.#seqs = [...fresh.map(e => e.seq), ...this.#seqs];
    this.#base = null;
    this.#take(fresh);
  }

  /** @param {Entry[]} entries */
  #take(entries) {
    for (const entry of entries) {
      this.#entries.set(entry.seq, entry);
      this.#messages.delete(entry.target ?? entry.seq);
      this.onSeen(entry);
      if (entry.from !== this.#client.user) continue;
      this.#cids.add(entry.cid);
      this.#pending.delete(entry.cid);
    }
    this.#timeline.add(entries);
    this.#rows = null;
  }

  /** Delivered just now. @param {Entry} entry */
  onEntry(entry) {
    if (this.#entries.has(entry.seq)) return;
    const last = this.last;
    if (last === undefined && !this.isLoaded) {
      // Before that it is in the store, which the page begins with.
      if (this.isLoading) this.#early.push(entry);
      return;
    }
    const isNext = last === undefined || entry.seq > last;
    if (isNext) this.#seqs.push(entry.seq);
    else this.#seqs.splice(this.#seqs.findIndex(seq => seq > entry.seq), 0, entry.seq);
    this.#take([entry]);
    if (!isNext) this.#base = null;
    else if (this.#base) this.#extend(this.#base, entry, last ?? 0);
    this.#changed();
  }

  /** @param {Command} command */
  onOutbox(command) {
    if (this.#cids.has(command.cid)) return;
    this.#pending.delete(command.cid);
    this.#pending.set(command.cid, { command, state: 'waiting' });
    this.#said(command);
    this.#changed();
  }

  /** @param {string} cid @param {any} outcome */
  onOutcome(cid, outcome) {
    const pending = this.#pending.get(cid);
    if (!pending) return;
    if (outcome.state === 'accepted') pending.state = 'accepted';
    else if (ABOUT.has(pending.command.content.kind)) this.#pending.delete(cid);
    else this.#fail(cid, pending.command, outcome);
    this.#said(pending.command);
    this.#changed();
  }

  /** @param {string} cid @param {Command} command @param {any} outcome */
  #fail(cid, command, outcome) {
    const why = outcome.state === 'rejected' ? outcome.error.message || outcome.error.code : outcome.why;
    this.#pending.set(cid, { command, state: outcome.state, why, code: outcome.error?.code });
  }

  /** @param {string} cid */
  dismiss(cid) {
    this.#pending.delete(cid);
    this.#changed();
  }

  /** @param {Command} command */
  #said({ content }) {
    if (content.target !== undefined) this.#messages.delete(content.target);
  }

  #changed() {
    this.#rows = null;
    this.onChange();
  }

  /** The message at this seq as it stands, with own changes that are under way. @param {number} seq */
  message(seq) {
    const known = this.#messages.get(seq);
    if (known) return known;
    const message = this.#timeline.get(seq);
    if (!message) return undefined;
    for (const { command: { content }, state } of this.#pending.values()) {
      if (content.target !== seq || state === 'rejected' || state === 'unknown') continue;
      if (content.kind === 'delete') Object.assign(message, { deleted: true, text: '', reactions: {} });
      else if (content.kind === 'edit') Object.assign(message, { edited: true, text: textOf({ body: content.body }) });
      else if (content.kind === 'react') react(message, this.#client.user, content);
    }
    this.#messages.set(seq, message);
    return message;
  }

  /** @param {number} seq */
  entry(seq) {
    return this.#entries.get(seq);
  }

  /** The newest of this person's that can still be edited. @returns {number | undefined} */
  lastOwn() {
    for (let at = this.#seqs.length - 1; at >= 0; at--) {
      const entry = this.#entries.get(this.#seqs[at]);
      if (entry?.kind === 'message' && entry.from === this.#client.user && !this.message(entry.seq)?.deleted) return entry.seq;
    }
    return undefined;
  }

  /** Everything that is loaded, oldest first; the same list until something changes. @returns {Row[]} */
  rows() {
    if (this.#rows) return this.#rows;
    this.#base ??= this.#build();
    const last = /** @type {Row} */ (this.#base.at(-1));
    last.tail = true;
    const rows = [...this.#base];
    for (const [key, pending] of this.#pending) {
      if (ABOUT.has(pending.command.content.kind)) continue;
      const ts = Math.max(pending.command.saved_ms, /** @type {Row} */ (rows.at(-1)).ts);
      push(rows, { key, type: 'pending', ts, from: this.#client.user, pending });
    }
    return (this.#rows = rows);
  }

  #build() {
    /** @type {Row[]} */
    const rows = [{ key: 'top', type: 'top', ts: 0 }];
    let before = 0;
    this.#isDivided = false;
    for (const seq of this.#seqs) {
      this.#extend(rows, /** @type {Entry} */ (this.#entries.get(seq)), before);
      before = seq;
    }
    return rows;
  }

  /** @param {Row[]} rows @param {Entry} entry @param {number} before the seq that is loaded before it; 0: none */
  #extend(rows, entry, before) {
    const { seq, ts, cid } = entry;
    if (before > 0 && seq > before + 1) push(rows, { key: `gap ${seq}`, type: 'gap', ts, gap: [before + 1, seq - 1] });
    if (entry.target !== undefined || ABOUT.has(entry.kind)) return;
    const isMessage = entry.kind === 'message' || entry.body !== undefined;
    // The divider stands once.
    const isNew = !this.#isDivided && entry.kind === 'message' && entry.n > this.#readN && entry.from !== this.#client.user;
    this.#isDivided ||= isNew;
    push(rows, isMessage ? { key: cid, type: 'message', ts, seq, from: entry.from, isNew } : { key: cid, type: 'event', ts, seq, isNew });
  }
}

/** Puts a row behind those that are there, and sees what they have in common. @param {Row[]} rows @param {Row} row */
function push(rows, row) {
  const last = /** @type {Row} */ (rows.at(-1));
  row.day = last.type === 'top' || dayOf(last.ts) !== dayOf(row.ts);
  const isTogether = !row.day && !row.isNew && last.from === row.from && row.from !== undefined && row.ts - last.ts < TOGETHER_MS;
  row.lead = !isTogether;
  if (isTogether) last.tail = false;
  row.tail = true;
  rows.push(row);
}

/** @param {any} message @param {string} user @param {any} content */
function react(message, user, { emoji, on }) {
  const users = (message.reactions[emoji] ?? []).filter((/** @type {string} */ u) => u !== user);
  if (on) users.push(user);
  if (users.length > 0) message.reactions[emoji] = users;
  else delete message.reactions[emoji];
}
