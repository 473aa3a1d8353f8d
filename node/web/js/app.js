// One person's chat, without a screen: the client's events go to the list, to the open threads, to the counters.

import { Audit } from './audit.js';
import { drawer } from './account.js';
import { complain } from './dom.js';
import { People } from './people.js';
import { Rooms } from './rooms.js';
import { Thread } from './thread.js';

const THREADS_MAX = 6;
const DISMISSED_MAX = 500;
/** A wink of the network is not worth a word. */
const PATIENCE_MS = 1_200;

export class App {
  audit = new Audit();
  /** Threads by conversation, the last one used at the end. @type {Map<string, Thread>} */
  #threads = new Map();
  /** @type {Set<() => void>} */
  #listeners = new Set();
  #frame = 0;
  #offlineSince = 0;
  #dismissed;
  #drafts;
  /** The conversation on the screen. @type {string | null} */
  current = null;
  /** The device is new to the server. */
  wasReset = false;

  /** @param {any} client @param {any} page what the node says of itself */
  constructor(client, page) {
    this.client = client;
    this.page = page;
    this.user = client.user;
    const names = drawer(client.user, 'names', {});
    this.rooms = new Rooms(client, { names: names.value, save: names.save });
    const contacts = drawer(client.user, 'contacts', {});
    const blocks = drawer(client.user, 'blocks', []);
    const profiles = drawer(client.user, 'profiles', {});
    this.people = new People(client, { names: profiles.value, save: profiles.save }, { names: contacts.value, save: contacts.save }, { users: blocks.value, save: blocks.save });
    this.#dismissed = drawer(client.user, 'dismissed', []);
    this.#drafts = drawer(client.user, 'drafts', {});
    this.rooms.onChange = this.people.onChange = () => this.changed();
    this.rooms.onPeople = users => this.people.meet(users);
  }

  async start() {
    const { client } = this;
    client.on('entry', (/** @type {any} */ entry) => this.#onEntry(entry));
    client.on('conv', (/** @type {any} */ conv) => this.rooms.onConv(conv));
    client.on('outbox', (/** @type {any} */ command) => {
      this.rooms.onOutbox(command);
      this.#threads.get(command.conv)?.onOutbox(command);
    });
    client.on('outcome', (/** @type {any} */ answer) => {
      if (answer.outcome.state === 'accepted') this.audit.onAccepted(answer.cid, answer.outcome.accepted);
      this.rooms.onOutcome(answer);
      this.#threads.get(answer.conv)?.onOutcome(answer.cid, answer.outcome);
    });
    client.on('gap', (/** @type {any} */ gap) => this.audit.onGap(gap));
    client.on('signal', (/** @type {any} */ signal) => this.people.onSignal(signal));
    client.on('receipts', (/** @type {any} */ told) => this.rooms.onReceipts(told));
    client.on('status', () => this.#onStatus());
    client.on('caught_up', () => this.#onCaughtUp());
    client.on('error', (/** @type {any} */ error) => {
      if (error.code === 'integrity' || error.code === 'hole') console.warn('flotilla:', error);
    });
    await this.rooms.load();
    this.#onStatus();
    if (client.status.state === 'online') this.#onCaughtUp();
  }

  /** @param {any} entry */
  #onEntry(entry) {
    this.audit.onEntry(entry);
    this.people.wrote(entry.conv, entry.from);
    this.people.meet([entry.from]);
    this.rooms.onEntry(entry);
    this.#threads.get(entry.conv)?.onEntry(entry);
  }

  #onStatus() {
    const { state } = this.client.status;
    if (state === 'online') this.#offlineSince = 0;
    else if (this.#offlineSince === 0) {
      this.#offlineSince = Date.now();
      this.people.forget();
      this.rooms.forget();
      setTimeout(() => this.changed(), PATIENCE_MS + 20);
    }
    this.changed();
  }

  #onCaughtUp() {
    this.people.watch(this.rooms.list().map(room => room.peer).filter(peer => peer !== undefined));
    void this.people.renew();
    void this.people.loadBlocks();
    void this.people.loadContacts();
    this.people.meet([this.user, ...this.rooms.list().flatMap(room => room.peer ?? [])]);
    for (const room of this.rooms.list()) if (room.kind !== 'direct' && room.name === '') void this.rooms.learnName(room.conv);
    const thread = this.current === null ? undefined : this.#threads.get(this.current);
    if (thread?.trouble) void thread.older();
    void this.rooms.prefetch();
    this.rooms.countMentions().catch(() => {});
  }

  /** @param {import('./rooms.js').Room} room */
  titleOf(room) {
    if (room.peer === undefined) return room.name || 'Group';
    return room.peer === this.user ? room.name : this.people.name(room.peer);
  }

  /** What is worth saying about the connection. @returns {'online' | 'connecting' | 'offline' | 'stopped'} */
  get connection() {
    const { state } = this.client.status;
    if (state === 'stopped') return 'stopped';
    if (state === 'online' || Date.now() - this.#offlineSince < PATIENCE_MS) return 'online';
    return navigator.onLine ? 'connecting' : 'offline';
  }

  /** @param {() => void} listener called once a frame at most */
  onChange(listener) {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  changed() {
    // A hidden page has no frames, and its title counts on.
    if (document.visibilityState === 'hidden') return this.#tell();
    this.#frame ||= requestAnimationFrame(() => this.#tell());
  }

  #tell() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    for (const listener of this.#listeners) listener();
  }

  /** @param {string} conv */
  thread(conv) {
    let thread = this.#threads.get(conv);
    if (!thread) {
      thread = new Thread(this.client, conv, new Set(this.#dismissed.value));
      thread.onSeen = entry => this.audit.onSeen(entry);
    }
    this.#threads.delete(conv);
    this.#threads.set(conv, thread);
    for (const old of this.#threads.keys()) {
      if (this.#threads.size <= THREADS_MAX) break;
      if (old !== this.current) this.#threads.delete(old);
    }
    return thread;
  }

  /** The person does not want to see this failed one any more. @param {string} conv @param {string} cid */
  dismiss(conv, cid) {
    this.#dismissed.value.push(cid);
    this.#dismissed.value.splice(0, this.#dismissed.value.length - DISMISSED_MAX);
    this.#dismissed.save();
    const thread = this.thread(conv);
    thread.dismissed.add(cid);
    thread.dismiss(cid);
  }

  /** @param {string} conv @returns {string} */
  draft(conv) {
    return this.#drafts.value[conv] ?? '';
  }

  /** @param {string} conv @param {string} text */
  keepDraft(conv, text) {
    if (text === (this.#drafts.value[conv] ?? '')) return;
    if (text === '') delete this.#drafts.value[conv];
    else this.#drafts.value[conv] = text;
    this.#drafts.save();
    this.changed();
  }

  /** A command of the person's; what could never be accepted is said at once. @param {() => Promise<any>} command */
  async run(command) {
    try {
      return await command();
    } catch (error) {
      complain(problem(error));
      throw error;
    }
  }
}

/** An error as a person can use it. @param {any} error @returns {string} */
export function problem(error) {
  switch (error?.code) {
    case 'unauthenticated': return 'The name or the password is wrong.';
    case 'too_many_requests': return 'Too many tries. Wait a moment, then try again.';
    case 'outcome_unknown': return 'No node answers now. Check the connection, then try again.';
    case 'not_found': return 'There is nobody of this name.';
    case 'not_member': return 'You are not a member of this conversation.';
    case 'overloaded': case 'unavailable': return 'The server cannot do this now. Try again in a moment.';
    case 'blocked': return 'This person does not take messages from you.';
    case 'validation_failed': case 'bad_request': case 'forbidden': case 'conflict': {
      const text = String(error.message).replace(/^\w+: /, '');
      return `${text[0]?.toUpperCase() ?? ''}${text.slice(1)}.`;
    }
    default: return String(error?.message ?? error);
  }
}
