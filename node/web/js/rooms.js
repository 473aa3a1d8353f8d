// The list of conversations: names, last lines, unread counts, who has read what. Fed by the client's events; knows no screen.
//
// Unread is counted as the protocol does: n of the newest countable message less n of what was read or written by this person
// last. The server says both with each `conv`; between two of those, entries move them. Mentions likewise: the list says how many
// there are, by the same marks on every device, and entries add to it.

import { fold, peerOf, textOf } from '../../../client-js/src/index.js';
import { eventText } from './format.js';

/** Entries that are looked at for the last line. */
const PREVIEW_ENTRIES = 12;
const PREFETCH = 12;
const RECOUNT_MS = 600;
const RECOUNTS_MAX = 5;
/** Groups of more members have no marks for each message. One page of members. */
const MARKED_MAX = 100;
/** What a group's id begins with. @type {Record<string, string>} */
const KINDS = { d: 'direct', c: 'channel' };

/**
 * @typedef {object} Room
 * @property {string} conv
 * @property {'direct' | 'group' | 'channel' | string} kind
 * @property {string} name
 * @property {string | undefined} peer
 * @property {any} state the last `conv`
 * @property {number} n of the newest countable message
 * @property {number} readN
 * @property {{ text: string, from: string, ts: number, seq: number, isEvent?: boolean, waiting?: boolean } | null} last
 * @property {number} ts of the last activity
 * @property {any[] | null} members all of them; null: not known, or too many
 * @property {Map<string, { delivered: number, read: number }>} marks of members, as they were told since this page was opened
 * @property {number | null} size how many members there are; null: not known
 * @property {{ count: number, first: number, past: number, to: number }} told mentions with an n in (past, to], as the server counted
 *   them, and the seq of the first
 * @property {{ n: number, seq: number }[]} named later messages that name this person
 */

/** @param {Room} room @returns {{ pinned?: number, muted_until?: number, archived?: boolean, unread?: boolean, hide_read?: boolean }} */
export const settings = room => room.state?.settings ?? {};
/** @param {Room} room */
export const isMuted = room => (settings(room).muted_until ?? 0) > Date.now();
/** @param {Room} room */
export const isAdmin = room => room.state?.member !== false && ['admin', 'owner'].includes(room.state?.role);
/** In a channel only its owner and admins write. One that was made just now is this person's. @param {Room} room */
export const mayWrite = room => room.state === null || (room.state.member !== false && (room.kind !== 'channel' || isAdmin(room)));
/** Nobody is told there who has got and read what. @param {Room} room */
export const isBig = room => room.kind === 'channel' || (room.size ?? 0) > MARKED_MAX;

export class Rooms {
  /** @type {Map<string, Room>} */
  #rooms = new Map();
  #client;
  #memory;
  /** @type {any} */
  #recount = 0;
  /** Asked for. @type {Set<string>} */
  #named = new Set();
  /** The group on the screen: its marks are to come by themselves. @type {string | null} */
  #followed = null;
  /** Do they? Not as long as nothing has come on this connection. */
  #isLive = false;
  /** This connection's node does not tell them. */
  #isRefused = false;
  /** How often they were asked for; an answer to an earlier question is none. */
  #asked = 0;
  #isAsking = false;
  onChange = () => {};
  /** Members of a group were told. @type {(users: string[]) => void} */
  onPeople = () => {};

  /** @param {any} client @param {{ names: Record<string, string>, save: () => void }} memory names of groups, from earlier visits */
  constructor(client, memory) {
    this.#client = client;
    this.#memory = memory;
  }

  /** From the store. */
  async load() {
    const convs = await this.#client.conversations();
    for (const state of convs) this.#state(state);
    await Promise.all(convs.map((/** @type {any} */ { conv }) => this.#preview(conv)));
    for (const command of await this.#client.outbox()) this.onOutbox(command);
    this.onChange();
  }

  /** @param {string} conv @returns {Room} */
  #room(conv) {
    const known = this.#rooms.get(conv);
    if (known) return known;
    const peer = peerOf(conv, this.#client.user);
    const { user } = this.#client;
    const name = peer === undefined ? (this.#memory.names[conv] ?? '') : peer === user ? 'Notes to self' : peer;
    /** @type {Room} */
    const room = { conv, kind: KINDS[conv[0]] ?? 'group', name, peer, state: null, n: 0, readN: 0, last: null, ts: 0, members: null, marks: new Map(), size: null, told: { count: 0, first: 0, past: 0, to: 0 }, named: [] };
    this.#rooms.set(conv, room);
    return room;
  }

  /** One that nobody has written in yet. @param {string} conv */
  make(conv) {
    const room = this.#room(conv);
    room.ts ||= Date.now();
    this.onChange();
    return room;
  }

  /** @param {string} conv @returns {Room | undefined} */
  get(conv) {
    return this.#rooms.get(conv);
  }

  /** Pinned ones first, then by latest activity. @returns {Room[]} */
  list() {
    const listed = [...this.#rooms.values()].filter(room => room.state?.member !== false || room.last);
    return listed.sort((a, b) => (settings(b).pinned ?? 0) - (settings(a).pinned ?? 0) || b.ts - a.ts || (a.conv < b.conv ? -1 : 1));
  }

  /** @param {Room} room */
  unread(room) {
    return Math.max(0, room.n - room.readN);
  }

  /** Unread messages that name this person. What was counted is right until it is read; then, once it is all read. @param {Room} room */
  mentions(room) {
    const { count, to } = room.told;
    return (room.readN < to ? count : 0) + room.named.filter(({ n }) => n > room.readN && n > to).length;
  }

  /** Seq of the first unread one. @param {Room} room @returns {number | undefined} */
  nextMention(room) {
    const { count, first, to } = room.told;
    return count > 0 && room.readN < to ? first : room.named.find(({ n }) => n > room.readN && n > to)?.seq;
  }

  /**
   * Has them counted by the server: what came before this device, or was read in part. Again, where it did not know yet what
   * was read here.
   */
  async countMentions(tries = RECOUNTS_MAX) {
    let isBehind = false;
    const { convs } = await this.#client.call('GET conversations', { order: 'activity', previews: true });
    for (const { conv, n_head, unread, mentions, members } of convs) {
      const room = this.#room(conv);
      room.size = members ?? room.size;
      room.told = { count: mentions?.count ?? 0, first: mentions?.first ?? 0, past: n_head - unread, to: n_head };
      room.named = room.named.filter(({ n }) => n > n_head);
      isBehind ||= room.told.count > 0 && room.told.past < room.readN;
    }
    clearTimeout(this.#recount);
    if (isBehind && tries > 0) this.#recount = setTimeout(() => this.countMentions(tries - 1).catch(() => {}), RECOUNT_MS);
    this.onChange();
  }

  /** Muted and archived ones aside. */
  get unreadInAll() {
    let sum = 0;
    for (const room of this.#rooms.values()) if (!isMuted(room) && !settings(room).archived) sum += this.unread(room);
    return sum;
  }

  /**
   * What this person wants of a conversation, on all devices. The server's `conv` confirms it.
   * @param {Room} room @param {{ pinned?: boolean, muted_until?: number, archived?: boolean, unread?: boolean, hide_read?: boolean }} change
   */
  async settle(room, change) {
    await this.#client.call(`PATCH conversations/${room.conv}/settings`, change);
  }

  /** @param {any} state a `conv` */
  #state(state) {
    const room = this.#room(state.conv);
    room.state = state;
    room.kind = state.kind ?? room.kind;
    if (state.name) this.#name(room, state.name);
    room.n = Math.max(room.n, state.n_head ?? 0);
    this.#read(room, (state.n_head ?? 0) - state.unread);
    room.ts = Math.max(room.ts, state.last_ts ?? 0);
    return room;
  }

  /** @param {Room} room @param {string} name */
  #name(room, name) {
    room.name = name;
    if (this.#memory.names[room.conv] === name) return;
    this.#memory.names[room.conv] = name;
    this.#memory.save();
  }

  /** @param {any} state */
  onConv(state) {
    const room = this.#state(state);
    if (room.kind !== 'direct' && room.name === '') void this.learnName(room.conv);
    this.onChange();
  }

  /** @param {any} entry */
  onEntry(entry) {
    const room = this.#room(entry.conv);
    room.n = Math.max(room.n, entry.n ?? 0);
    if (entry.from === this.#client.user && entry.kind === 'message') this.#read(room, entry.n);
    else if (entry.kind === 'message' && entry.mentions?.includes(this.#client.user)) room.named.push({ n: entry.n, seq: entry.seq });
    if ((entry.kind === 'create' || entry.kind === 'rename') && entry.name) this.#name(room, entry.name);
    if (['add', 'remove', 'leave', 'role', 'create'].includes(entry.kind)) room.members = room.size = null;
    if (entry.kind === 'remove' || entry.kind === 'leave') room.marks.delete(entry.user ?? entry.from);
    room.ts = Math.max(room.ts, entry.ts);
    if (entry.target !== undefined) {
      if (entry.target === room.last?.seq) void this.#preview(entry.conv).then(() => this.onChange());
    } else if (!room.last || room.last.waiting || entry.seq > room.last.seq) {
      room.last = this.#line(entry, textOf(entry));
    }
    if (room.kind !== 'direct' && room.name === '') void this.learnName(room.conv);
    this.onChange();
  }

  /** @param {any} command */
  onOutbox({ conv, content, saved_ms }) {
    if (content.kind !== 'message') return;
    const room = this.#room(conv);
    room.ts = Math.max(room.ts, saved_ms);
    room.last = { text: textOf({ body: content.body }), from: this.#client.user, ts: saved_ms, seq: room.last?.seq ?? 0, waiting: true };
    this.onChange();
  }

  /** Nothing waits there any more; what stands there is what the log says. @param {{ conv: string, outcome: any }} answer */
  onOutcome({ conv, outcome }) {
    if (outcome.state !== 'accepted') void this.#preview(conv).then(() => this.onChange());
  }

  /** @param {string} conv @param {number} seq @param {number} n of the message that was read */
  onRead(conv, seq, n) {
    const room = this.#room(conv);
    if (n <= room.readN) return;
    this.#read(room, n);
    this.onChange();
  }

  /** @param {Room} room @param {number} n */
  #read(room, n) {
    if (n <= room.readN) return;
    room.readN = n;
    room.named = room.named.filter(named => named.n > n);
    // Read in part: how many are left only the server knows.
    const { count, past, to } = room.told;
    if (count > 0 && n > past && n < to) this.countMentions().catch(() => {});
  }

  /** @param {any} entry @param {string} text */
  #line(entry, text) {
    const isEvent = entry.kind !== 'message' && entry.body === undefined;
    return { text: isEvent ? eventText(entry, this.#client.user) : text, from: entry.from, ts: entry.ts, seq: entry.seq, isEvent };
  }

  /** @param {string} conv */
  async #preview(conv) {
    const entries = await this.#client.entries(conv, { limit: PREVIEW_ENTRIES });
    const room = this.#room(conv);
    for (const entry of entries) {
      if (entry.from === this.#client.user && entry.kind === 'message') room.readN = Math.max(room.readN, entry.n);
      room.n = Math.max(room.n, entry.n ?? 0);
    }
    const message = fold(entries).at(-1);
    if (!message) return;
    room.last = message.deleted ? { ...this.#line(message.entry, ''), text: 'Message deleted', isEvent: true } : this.#line(message.entry, message.text);
    room.ts = Math.max(room.ts, message.ts);
  }

  /** On a device that is new here, the last lines of the first few. */
  async prefetch() {
    for (const room of this.list().slice(0, PREFETCH)) {
      if (room.last) continue;
      try {
        await this.#client.page(room.conv, { limit: 30 });
        await this.#preview(room.conv);
        this.onChange();
      } catch {
        return;
      }
    }
  }

  /** The name of a group, which the log need not show to a late joiner. @param {string} conv */
  async learnName(conv) {
    if (this.#named.has(conv)) return;
    this.#named.add(conv);
    await this.learn(conv).catch(() => this.#named.delete(conv));
  }

  /** What its log does not say: the name, and how many members there are. @param {string} conv */
  async learn(conv) {
    const { name, members } = await this.#client.call(`GET conversations/${conv}`);
    const room = this.#room(conv);
    if (name) this.#name(room, name);
    room.size = members;
    this.onChange();
  }

  /**
   * Members by name, with what was delivered to and read by each; at most 100 at a time.
   * @param {string} conv @param {string} [after] @returns {Promise<{ members: any[], more: boolean }>}
   */
  async members(conv, after) {
    const page = await this.#client.members(conv, after === undefined ? {} : { after });
    if (after === undefined && !page.more) {
      const room = this.#room(conv);
      room.members = page.members;
      room.size = page.members.length;
      // The page may be older than what was told meanwhile.
      for (const member of page.members) raise(member, room.marks.get(member.user));
    }
    this.onPeople(page.members.map((/** @type {any} */ m) => m.user));
    this.onChange();
    return page;
  }

  /**
   * Has the marks of this group told as they move; null: of none. A server may not do that: as long as `isLive` says no, whoever
   * wants to know asks for the members. Asked again by whoever still looks.
   * @param {string | null} conv
   */
  async follow(conv) {
    const isSame = conv === this.#followed;
    if (isSame && (conv === null || this.#isLive || this.#isRefused || this.#isAsking)) return;
    if (!isSame) this.#isLive = this.#isRefused = false;
    this.#followed = conv;
    this.#isAsking = true;
    const asked = ++this.#asked;
    const error = await this.#client.watchReceipts(conv === null ? [] : [conv]).then(() => null, (/** @type {any} */ e) => e);
    if (asked !== this.#asked) return;
    this.#isAsking = false;
    this.#isRefused = error !== null && !error.retryable;
  }

  /** @param {string} conv */
  isLive(conv) {
    return this.#isLive && conv === this.#followed;
  }

  /** Without a connection, or with nobody who looks, nothing comes. The next node may know what this one did not. */
  forget() {
    this.#isLive = this.#isRefused = false;
  }

  /** Marks that have moved; they only rise. @param {{ conv: string, members: { user: string, delivered: number, read?: number }[] }} told */
  onReceipts({ conv, members }) {
    const room = this.#rooms.get(conv);
    if (!room) return;
    if (conv === this.#followed) this.#isLive = true;
    for (const told of members) {
      const mark = room.marks.get(told.user) ?? { delivered: 0, read: 0 };
      room.marks.set(told.user, mark);
      raise(mark, told);
      const member = room.members?.find(m => m.user === told.user);
      if (member) raise(member, mark);
    }
    this.onChange();
  }

  /** Whose marks an own message of a group has. @param {Room} room @returns {any[]} */
  others(room) {
    return room.kind === 'direct' || isBig(room) ? [] : (room.members ?? []).filter(m => m.user !== this.#client.user);
  }

  /** How far an own message has come. @param {Room} room @param {number} seq @returns {'sent' | 'delivered' | 'read'} */
  progress(room, seq) {
    const peer = room.peer === this.#client.user ? undefined : room.state?.peer;
    const marks = room.kind === 'direct' ? (peer ? [peer] : []) : this.others(room);
    if (marks.length === 0) return 'sent';
    if (marks.every((/** @type {any} */ m) => m.read >= seq)) return 'read';
    return marks.every((/** @type {any} */ m) => Math.max(m.delivered, m.read) >= seq) ? 'delivered' : 'sent';
  }

  /** What is known of an own message in a group, in words; nothing where nobody has read it. @param {Room} room @param {number} seq */
  readBy(room, seq) {
    const others = this.others(room);
    const read = others.filter(m => m.read >= seq).length;
    return read === 0 ? '' : `read by ${read} of ${others.length}`;
  }
}

/** @param {{ delivered: number, read: number }} mark @param {{ delivered?: number, read?: number } | undefined} told */
function raise(mark, told) {
  mark.read = Math.max(mark.read ?? 0, told?.read ?? 0);
  mark.delivered = Math.max(mark.delivered ?? 0, told?.delivered ?? 0, mark.read);
}
