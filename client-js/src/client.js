// What an application holds: one client per tab or process. In the leader tab it runs the device; in the others it writes to the
// same store, follows the leader's events, and asks it over a channel.
//
// Invariant: a command is durable before `send` resolves, whichever tab it was; commands of one tab keep their order also when
// leadership changes between them.

import { convId, directId, randomUuid, timedUuid, userId, utf8 } from './bytes.js';
import { checked, contradictionIn } from './content.js';
import { Device } from './device.js';
import { Emitter } from './emitter.js';
import { FlotillaError, OutcomeUnknown } from './errors.js';
import * as limits from './limits.js';
import { Requests } from './requests.js';
import { Tabs } from './tabs.js';
import { Wanted } from './watches.js';

/** @typedef {import('./types.js').Store} Store */
/** @typedef {import('./types.js').Entry} Entry */
/** @typedef {import('./types.js').Outcome} Outcome */
/** @typedef {import('./types.js').Command} Command */
/** @typedef {import('./types.js').Content} Content */
/** @typedef {import('./types.js').Status} Status */
/** @typedef {import('./types.js').Options} Options */
/** @typedef {import('./types.js').Events} Events */
/** @typedef {import('./types.js').Ticket} Ticket */

/** @type {import('./types.js').Clock} */
const CLOCK = {
  now: () => performance.now(),
  wall: () => Date.now(),
  set: (run, ms) => setTimeout(run, ms),
  clear: timer => clearTimeout(timer),
};

export class FlotillaClient extends Requests {
  #config;
  #store;
  #ownsStore;
  #tabs;
  #emitter = new Emitter();
  #tab = randomUuid();
  /** When the last cid was drawn, and the how manieth of that millisecond it was. */
  #drawn = { wall: 0, count: 0 };
  /** @type {Device | null} */
  #device = null;
  #closed = false;
  /** @type {Status} */
  #status = { state: 'connecting', leader: false };
  /** Commits of commands on their way past the device. @type {Set<Promise<void>>} */
  #bypassing = new Set();
  /** @type {Map<string, { promise: Promise<Outcome>, resolve: (outcome: Outcome) => void }>} */
  #waiting = new Map();
  /** Requests that the leader has not answered. @type {Map<string, { request: any, done: (r: any) => void, failed: (e: Error) => void, timer: any }>} */
  #asks = new Map();
  /** Up to where this tab has reported each conversation. @type {Map<string, number>} */
  #told = new Map();
  /** Reports that wait until this tab has looked at the store. @type {{ name: string, data: any }[] | null} */
  #held = null;
  /** @type {Map<string, number>} */
  #reads = new Map();
  /** @type {Map<string, number>} */
  #typed = new Map();
  /** @type {Map<string, 'active' | 'background'>} */
  #activity = new Map();
  /** Whose receipts: of this tab, in the leader of all. */
  #wanted = new Wanted();

  /** @param {Options} options Use `FlotillaClient.open`. */
  constructor(options) {
    super(request => this.#ask(request));
    const { urls, user, token, store, client = {}, encoding = 'json', WebSocket, clock = CLOCK, random = Math.random } = options;
    this.user = userId(user);
    this.#store = store;
    this.#ownsStore = options.ownsStore ?? false;
    const list = (Array.isArray(urls) ? urls : [urls]).filter(Boolean);
    if (list.length === 0) throw new TypeError('at least one URL is needed');
    if (!WebSocket) throw new TypeError('no WebSocket here: give one as `WebSocket`, or use flotilla-client/node');
    this.#config = {
      urls: list,
      user: this.user,
      token: typeof token === 'string' ? () => token : token,
      client: { name: client.name ?? 'flotilla-client-js', version: client.version ?? '0.1.0', platform: client.platform ?? platform() },
      encoding,
      window: options.window,
      backoff_min_ms: options.backoff_min_ms ?? 100,
      backoff_max_ms: options.backoff_max_ms ?? 5_000,
      WebSocket,
      clock,
      random,
    };
    const name = `flotilla/${this.user}`;
    const locks = options.locks ?? globalThis.navigator?.locks;
    const isShared = store.shared && locks !== undefined;
    const channel = isShared ? (options.channel ?? new BroadcastChannel(name)) : undefined;
    this.#tabs = new Tabs({ name, locks: isShared ? locks : undefined, channel, onMessage: m => this.#onMessage(m) });
  }

  /**
   * Opens the store's device and begins to connect, also while there is no network. Resolves before it is connected.
   * @param {Options} options @returns {Promise<FlotillaClient>}
   */
  static async open(options) {
    const client = new FlotillaClient({ ...options, WebSocket: options.WebSocket ?? globalThis.WebSocket });
    await client.#start();
    return client;
  }

  async #start() {
    globalThis.addEventListener?.('online', this.#onOnline);
    if (this.#store.shared) {
      for (const { conv, seq } of (await this.#store.load()).positions.values()) this.#told.set(conv, seq);
      this.#tabs.campaign(() => void this.#lead());
      this.#tabs.post({ t: 'who' });
    } else {
      await this.#lead();
    }
  }

  async #lead() {
    const device = new Device(this.#config, this.#store, (name, data) => this.#fromDevice(name, data));
    try {
      if (this.#store.shared) await this.#recall();
      await device.start();
      // What this tab stored while it followed comes before what it sends from now on.
      while (this.#bypassing.size > 0) await Promise.allSettled(this.#bypassing);
      device.scan();
    } catch (error) {
      await device.close();
      if (!this.#store.shared) throw error;
      const { message: reason } = /** @type {Error} */ (error);
      this.#fromDevice('error', { code: 'start', reason });
      this.#fromDevice('status', { state: 'stopped', leader: true, code: 0, reason });
      this.#tabs.resign();
      return;
    }
    if (this.#closed) return void device.close();
    this.#device = device;
    this.#tabs.post({ t: 'leader', tab: this.#tab });
    for (const [id, { request }] of this.#asks) this.#answerAsk(id, request);
    this.#renewWanted();
    await this.#lookForAnswers();
  }

  /** @param {string} name @param {any} data */
  #fromDevice(name, data) {
    this.#tabs.post({ t: 'event', name, data: name === 'status' ? { ...data, leader: false } : data });
    this.#hear(name, data);
    if (name === 'status' && this.#device?.isBroken && this.#store.shared) {
      // The store may be well in another tab.
      void this.#device.close();
      this.#device = null;
      this.#tabs.resign();
    }
  }

  /** Reports what the leader before has stored and did not live to tell. */
  async #recall() {
    if (this.#held) return;
    this.#held = [];
    try {
      for (const { conv, seq } of (await this.#store.load()).positions.values()) {
        for (let told = this.#told.get(conv) ?? 0; told < seq; ) {
          const page = await this.#store.entries(conv, { after: told, before: seq + 1, limit: 200 });
          for (const entry of page) this.#report('entry', entry);
          told = page.length > 0 ? /** @type {Entry} */ (page.at(-1)).seq : seq;
        }
        this.#told.set(conv, Math.max(seq, this.#told.get(conv) ?? 0));
      }
    } finally {
      const held = this.#held;
      this.#held = null;
      for (const { name, data } of held) this.#hear(name, data);
    }
  }

  /** Each entry and gap once, in order. @param {'entry' | 'gap'} name @param {any} data */
  #report(name, data) {
    const seq = name === 'entry' ? data.seq : data.to;
    if (seq <= (this.#told.get(data.conv) ?? 0)) return;
    this.#told.set(data.conv, seq);
    this.#emitter.emit(name, data);
  }

  /** @param {string} name @param {any} data */
  #hear(name, data) {
    if (this.#closed) return;
    if (name === 'entry' || name === 'gap') {
      if (this.#held) this.#held.push({ name, data });
      else this.#report(name, data);
      return;
    }
    if (name === 'reset') this.#told.clear();
    if (name === 'status') {
      this.#status = data;
      // Nobody may wait; the command stays in the store.
      if (data.state === 'stopped') for (const { resolve } of this.#waiting.values()) resolve({ state: 'unknown', why: `stopped: ${data.reason}` });
    }
    if (name === 'outcome') this.#resolve(data.cid, data.outcome);
    this.#emitter.emit(name, data);
  }

  /** @param {string} cid @param {Outcome} outcome */
  #resolve(cid, outcome) {
    this.#waiting.get(cid)?.resolve(outcome);
    this.#waiting.delete(cid);
  }

  /** The leader that answered may have died before it could say so. */
  async #lookForAnswers() {
    for (const cid of [...this.#waiting.keys()]) {
      const answer = await this.#store.answer(cid).catch(() => undefined);
      if (answer) this.#resolve(cid, answer.outcome);
    }
  }

  /** From another tab. @param {any} message */
  #onMessage(message) {
    if (this.#closed) return;
    const device = this.#device;
    switch (message.t) {
      case 'event': if (!device) this.#hear(message.name, message.data); break;
      case 'stored': this.#emitter.emit('outbox', message.command); device?.scan(); break;
      case 'leader': {
        for (const [id, { request }] of this.#asks) this.#tabs.post({ t: 'ask', id, request });
        this.#renewWanted();
        void this.#lookForAnswers();
        void this.#recall().catch(() => {});
        break;
      }
      case 'who': if (device) this.#tabs.post({ t: 'event', name: 'status', data: { ...device.status, leader: false } }); break;
      case 'ask': if (device) this.#answerAsk(message.id, message.request); break;
      case 'answer': this.#settle(message.id, message.reply, message.error); break;
      case 'read': device?.read(message.conv, message.seq); break;
      case 'say': device?.say(message.frame); break;
      case 'activity': this.#onActivity(message.tab, message.state); break;
      case 'reconnect': device?.reconnect(); break;
      default: // Of a later version.
    }
  }

  // Events and state.

  /**
   * @template {keyof Events} K
   * @param {K} name @param {(data: Events[K]) => void} listener @returns {() => void} takes the listener off
   */
  on(name, listener) {
    return this.#emitter.add(name, listener);
  }

  /** Resolves with the next event of this name that fits. @template {keyof Events} K @param {K} name @param {(data: Events[K]) => boolean} [fits] @returns {Promise<Events[K]>} */
  next(name, fits = () => true) {
    return new Promise(resolve => {
      const off = this.on(name, data => {
        if (!fits(data)) return;
        off();
        resolve(data);
      });
    });
  }

  get status() {
    return this.#status;
  }

  get isLeader() {
    return this.#device !== null;
  }

  // Commands.

  /**
   * Stores a message and returns; the outcome comes with the ticket. Rejects, with nothing stored, if it could never be accepted.
   * @param {{ to?: string, conv?: string, text?: string, body?: Uint8Array, kind?: string, reply_to?: number, mentions?: string[],
   *   media?: string, cid?: string }} message exactly one of `to` (a user) and `conv`; `text` or `body`
   * @returns {Promise<Ticket>}
   */
  async send({ to, conv, text, body, kind = 'message', reply_to, mentions, media, cid }) {
    if ((to === undefined) === (conv === undefined)) throw new TypeError('exactly one of `to` and `conv`');
    const content = { kind, body: body ?? (text === undefined ? undefined : utf8(text)), reply_to, mentions, media };
    const target = to === undefined ? { conv: convId(/** @type {string} */ (conv)) } : { conv: directId(this.user, to), to: userId(to) };
    return this.#submit(target, content, cid);
  }

  /** @param {{ conv: string, seq: number, text?: string, body?: Uint8Array, cid?: string }} edit @returns {Promise<Ticket>} */
  async edit({ conv, seq, text, body, cid }) {
    return this.#submit({ conv: convId(conv) }, { kind: 'edit', target: seq, body: body ?? utf8(text ?? '') }, cid);
  }

  /** @param {{ conv: string, seq: number, cid?: string }} entry @returns {Promise<Ticket>} */
  async delete({ conv, seq, cid }) {
    return this.#submit({ conv: convId(conv) }, { kind: 'delete', target: seq }, cid);
  }

  /** @param {{ conv: string, seq: number, emoji: string, on?: boolean, cid?: string }} reaction @returns {Promise<Ticket>} */
  async react({ conv, seq, emoji, on = true, cid }) {
    return this.#submit({ conv: convId(conv) }, { kind: 'react', target: seq, emoji, on }, cid);
  }

  /**
   * Sends a command again whose outcome stayed unknown, under the same cid, because the person said so.
   * @param {string} cid @returns {Promise<Ticket>}
   */
  async resend(cid) {
    const answer = await this.#store.answer(cid);
    if (answer?.outcome.state !== 'unknown') throw new FlotillaError('not_found', 'no command with this cid has an unknown outcome');
    const { n: _, ...command } = answer.command;
    return this.#keep({ ...command, asked_ms: this.#config.clock.wall() });
  }

  /** @param {{ conv: string, to?: string }} target @param {Content} content @param {string} [cid] */
  #submit(target, content, cid) {
    const wall = this.#config.clock.wall();
    const command = { cid: cid ?? this.#draw(wall), ...target, content: checked(content), saved_ms: wall };
    return cid === undefined ? this.#keep(command) : this.#keepOnce(command);
  }

  /** @param {number} wall */
  #draw(wall) {
    this.#drawn = { wall, count: wall === this.#drawn.wall ? this.#drawn.count + 1 : 0 };
    return timedUuid(wall, this.#drawn.count);
  }

  /** With a cid of the application's own: what is stored already is not stored again. @param {Command} command @returns {Promise<Ticket>} */
  async #keepOnce(command) {
    const [row, answer] = [await this.#store.command(command.cid), await this.#store.answer(command.cid)];
    const ticket = { cid: command.cid, conv: command.conv, outcome: this.#outcome(command.cid) };
    if (answer) this.#resolve(command.cid, answer.outcome);
    return row || answer ? ticket : this.#keep(command);
  }

  /** Nothing may be awaited before the command is on its way to the store: that keeps the order. @param {Command} command @returns {Promise<Ticket>} */
  async #keep(command) {
    if (this.#closed || this.#status.state === 'stopped') throw new FlotillaError('stopped', this.#status.reason ?? 'the client is closed');
    const ticket = { cid: command.cid, conv: command.conv, outcome: this.#outcome(command.cid) };
    try {
      if (this.#device) {
        if (this.#device.outboxSize >= limits.CLIENT_OUTBOX_MAX) throw new FlotillaError('outbox_full', `${limits.CLIENT_OUTBOX_MAX} commands wait`);
        await this.#device.submit(command);
      } else {
        await this.#bypass(command);
      }
    } catch (error) {
      this.#waiting.delete(command.cid);
      throw error;
    }
    return ticket;
  }

  /** A tab that does not lead writes to the store itself and tells the leader. @param {Command} command */
  async #bypass(command) {
    const stored = this.#store.commit([{ t: 'command', command }]);
    this.#bypassing.add(stored);
    try {
      await stored;
    } finally {
      this.#bypassing.delete(stored);
    }
    this.#emitter.emit('outbox', command);
    this.#tabs.post({ t: 'stored', command });
    this.#device?.scan();
  }

  /** @param {string} cid @returns {Promise<Outcome>} */
  #outcome(cid) {
    const known = this.#waiting.get(cid);
    if (known) return known.promise;
    let resolve = (/** @type {Outcome} */ _) => {};
    /** @type {Promise<Outcome>} */
    const promise = new Promise(done => (resolve = done));
    this.#waiting.set(cid, { promise, resolve });
    return promise;
  }

  /** Everything up to `seq` was read by the person. Durable; told again until the server knows. @param {string} conv @param {number} seq */
  async read(conv, seq) {
    if ((this.#reads.get(conv) ?? 0) >= seq) return;
    this.#reads.set(conv, seq);
    await this.#store.commit([{ t: 'read', conv, seq }]);
    if (this.#device) this.#device.read(conv, seq);
    else this.#tabs.post({ t: 'read', conv, seq });
  }

  /** May be lost; at most one per 3 s and conversation goes out. @param {string} conv */
  typing(conv) {
    const now = this.#config.clock.now();
    if (now - (this.#typed.get(conv) ?? -Infinity) < limits.TYPING_EVERY_MS) return;
    if (this.#typed.size >= limits.CLIENT_CALLS_MAX) this.#typed.clear();
    this.#typed.set(conv, now);
    const frame = { t: 'typing', d: { conv } };
    if (this.#device) this.#device.say(frame);
    else this.#tabs.post({ t: 'say', frame });
  }

  /** Is the person looking? In the background the server holds back signals. One active tab is enough. @param {'active' | 'background'} state */
  setActivity(state) {
    this.#onActivity(this.#tab, state);
    this.#tabs.post({ t: 'activity', tab: this.#tab, state });
  }

  /** @param {string} tab @param {'active' | 'background'} state */
  #onActivity(tab, state) {
    this.#activity.set(tab, state);
    this.#device?.setActivity([...this.#activity.values()].includes('active') ? 'active' : 'background');
  }

  // Requests.

  /**
   * How far messages have come in these groups: the answer has the marks of all their members, `receipts` events what moves from
   * then on, in all tabs. A new list takes the place of this tab's old one, an empty one ends it. Kept over reconnects, whose
   * answers come as events. Rejects where the server does not know it (`unsupported`) or cannot do it now.
   * @param {string[]} convs at most 8; of all tabs together 8, the newest lists first
   * @returns {Promise<{ receipts: import('./types.js').Receipts[] }>}
   */
  async watchReceipts(convs) {
    const watch = convs.map(convId);
    if (watch.length > limits.RECEIPT_WATCHES_MAX) throw new TypeError(`at most ${limits.RECEIPT_WATCHES_MAX} groups`);
    this.#wanted.set(this.#tab, watch);
    const { receipts } = await this.#ask(this.#receiptsOf(watch));
    return { receipts: receipts.filter((/** @type {any} */ one) => watch.includes(one.conv)) };
  }

  /** @param {string[]} watch */
  #receiptsOf(watch) {
    return { t: 'receipts', tab: this.#tab, d: { watch } };
  }

  /** Another tab leads from now on, or this one. */
  #renewWanted() {
    const own = this.#wanted.of(this.#tab);
    if (own.length > 0) this.#ask(this.#receiptsOf(own)).catch(() => {});
  }

  /** @param {any} request @returns {Promise<any>} */
  #ask(request) {
    if (this.#closed) return Promise.reject(new FlotillaError('stopped', 'the client is closed'));
    if (this.#device) return this.#run(request);
    if (this.#asks.size >= limits.CLIENT_CALLS_MAX) return Promise.reject(new FlotillaError('overloaded', 'too many calls wait'));
    return new Promise((done, failed) => {
      const id = randomUuid();
      const { clock } = this.#config;
      const late = () => this.#settle(id, undefined, { code: 'outcome_unknown', message: 'no tab answered in time', key: request.d?.key });
      const timer = clock.set(late, limits.CALL_LIMIT_MS + 1_000);
      this.#asks.set(id, { request, done, failed, timer });
      this.#tabs.post({ t: 'ask', id, request });
    });
  }

  /** @param {any} request */
  #run(request) {
    const device = /** @type {Device} */ (this.#device);
    if (request.t === 'presence') return device.watches.presence(request.d.watch);
    if (request.t !== 'receipts') return device.call(request);
    this.#wanted.set(request.tab, request.d.watch);
    return device.watches.receipts(this.#wanted.all(limits.RECEIPT_WATCHES_MAX));
  }

  /** @param {string} id @param {any} request */
  #answerAsk(id, request) {
    const answer = (/** @type {any} */ message) => {
      // Another tab takes over, and is asked again under the same key.
      if (this.#closed && message.error) return;
      if (this.#asks.has(id)) this.#settle(id, message.reply, message.error);
      else this.#tabs.post({ t: 'answer', id, ...message });
    };
    this.#run(request).then(
      reply => answer({ reply }),
      error => answer({ error: { ...(error.toJSON?.() ?? { code: 'internal', message: String(error) }), key: error.key } }),
    );
  }

  /** @param {string} id @param {any} reply @param {any} error */
  #settle(id, reply, error) {
    const ask = this.#asks.get(id);
    if (!ask) return;
    this.#asks.delete(id);
    this.#config.clock.clear(ask.timer);
    if (!error) ask.done(reply);
    else ask.failed(error.code === 'outcome_unknown' ? new OutcomeUnknown(error.message, error.key) : FlotillaError.of(error));
  }

  // What the store holds; works without network.

  /** @returns {Promise<import('./types.js').Conv[]>} */
  conversations() {
    return this.#store.convs();
  }

  /** @param {string} conv @param {{ before?: number, after?: number, limit?: number }} [range] @returns {Promise<Entry[]>} ascending */
  entries(conv, range) {
    return this.#store.entries(conv, range);
  }

  /**
   * A page of a conversation, ascending: from the store as far as it reaches without a hole, else from the server, whose answer
   * is stored. Without network: what there is.
   * @param {string} conv @param {{ before?: number, limit?: number }} [range] @returns {Promise<{ entries: Entry[], more: boolean }>}
   */
  async page(conv, { before, limit = 50 } = {}) {
    const local = await this.#store.entries(conv, { before, limit });
    let from = local.length;
    let expected = before === undefined ? local.at(-1)?.seq : before - 1;
    while (from > 0 && local[from - 1].seq === expected) [from, expected] = [from - 1, local[from - 1].seq - 1];
    const held = local.slice(from);
    const first = held[0]?.seq ?? before;
    if (held.length >= limit || first === 1) return { entries: held, more: first !== 1 };
    if (this.#status.state !== 'online') return { entries: held, more: true };
    const page = await this.history(conv, { before: first, limit: limit - held.length });
    if (contradictionIn([...page.entries.slice(-1), ...held.slice(0, 1)])) {
      throw new FlotillaError('integrity', `what the server says of ${conv} below ${first} does not lead to what is stored`);
    }
    if (page.entries.length > 0) await this.#store.commit(page.entries.map(entry => ({ t: 'entry', entry })));
    return { entries: [...page.entries, ...held], more: page.more };
  }

  /**
   * Every entry that this user may read, oldest first, as the server has it (bodies in base64url): over HTTP, and not stored.
   * Throws `unavailable` where it is cut off, or silent for too long: then it begins anew.
   * @param {string} conv
   * @param {{ silence_ms?: number }} [options] silence_ms: how long nothing may come while a line is waited for; 30,000 by default
   * @returns {AsyncGenerator<any, void, void>}
   */
  async *export(conv, { silence_ms } = {}) {
    const { urls, token } = this.#config;
    const near = this.#status.url;
    const from = near === undefined ? urls : [near, ...urls.filter(url => url !== near)];
    const { exportLines } = await import('./export.js');
    yield* exportLines({ urls: from, token, conv: convId(conv), silence_ms });
  }

  /** Commands without an answer, in order. @param {string} [conv] @returns {Promise<Command[]>} */
  async outbox(conv) {
    return (await this.#store.commands()).filter(c => conv === undefined || c.conv === conv);
  }

  /** Final outcomes, the last 1,000: what was rejected or stayed unknown, with its content. @returns {Promise<import('./types.js').Answer[]>} */
  outcomes() {
    return this.#store.answers();
  }

  /** Connects now, without waiting for the back-off; also after a stop. */
  reconnect() {
    if (this.#device) this.#device.reconnect();
    else this.#tabs.post({ t: 'reconnect' });
  }

  /** Not after a stop: what stopped it is not the network. */
  #onOnline = () => {
    if (this.#status.state !== 'stopped') this.#device?.reconnect();
  };

  /** Sends the acks that are due and ends this client; another tab takes over. */
  async close() {
    if (this.#closed) return;
    this.setActivity('background');
    if (this.#wanted.of(this.#tab).length > 0) this.#tabs.post({ t: 'ask', id: randomUuid(), request: this.#receiptsOf([]) });
    this.#closed = true;
    globalThis.removeEventListener?.('online', this.#onOnline);
    await this.#device?.close();
    this.#device = null;
    for (const [id] of this.#asks) this.#settle(id, undefined, { code: 'outcome_unknown', message: 'the client was closed' });
    for (const { resolve } of this.#waiting.values()) resolve({ state: 'unknown', why: 'the client was closed' });
    this.#waiting.clear();
    this.#tabs.close();
    if (this.#ownsStore) await this.#store.close();
    this.#status = { state: 'stopped', leader: false, reason: 'the client is closed' };
    this.#emitter.emit('status', this.#status);
  }
}

/** @returns {string} */
const platform = () => (typeof process === 'object' && process.versions?.node ? `node ${process.versions.node}` : 'browser');
