// A device that stays connected: it keeps unanswered commands until each has an answer, receives every entry once and in
// order, and acks only what its store holds. One of them runs per store: in a browser, in the leader tab.
//
// Invariant: one loop (`#run`) decides; the store is written before the effect that relies on it (first attempt, ack, event).

import { randomUuid } from './bytes.js';
import { Calls } from './calls.js';
import { isEntry } from './codec.js';
import { Dialer } from './dialer.js';
import { FlotillaError, SESSION_REPLACED, closeName, isUnclear, verdictOf } from './errors.js';
import * as limits from './limits.js';
import { Link } from './link.js';
import { Outbox } from './outbox.js';
import { Reads } from './reads.js';
import { Receiver, newWork } from './receiver.js';
import { Watches, eventOf } from './watches.js';

/** @typedef {import('./types.js').Command} Command */
/** @typedef {import('./types.js').Outcome} Outcome */
/** @typedef {import('./types.js').Status} Status */
/** @typedef {import('./codec.js').Frame} Frame */
/** @typedef {import('./dialer.js').Config} Config */

/** What has arrived, in order. @typedef {{ from: unknown, frame?: Frame, closed?: { code: number, reason: string }, fill?: string, page?: any }} Inbound */

/** After this long without trouble, being replaced by another instance is forgotten. */
const REPLACED_FORGOTTEN_MS = 60_000;

export class Device {
  #config;
  #store;
  #emit;
  #clock;
  #install = '';
  /** @type {string | null} */
  #device = null;
  /** @type {string | null} */
  #rev = null;
  #outbox = new Outbox();
  #receiver = new Receiver(new Map());
  #calls = new Calls();
  #reads = new Reads(new Map(), new Map());
  /** @type {Frame[]} */
  #loose = [];
  /** @type {'active' | 'background'} */
  #activity = 'active';
  #dialer;
  /** @type {Link | null} */
  #link = null;
  #refreshing = false;
  /** @type {string | null} */
  #authDue = null;
  #replacedAt = -Infinity;
  /** @type {Inbound[]} */
  #inbound = [];
  /** @type {{ command: Command, done: () => void, failed: (error: Error) => void }[]} */
  #submits = [];
  #scanDue = false;
  #scanAt = Infinity;
  #lastN = 0;
  #running = false;
  #ended = false;
  #broken = false;
  /** @type {{ code: number, reason: string } | null} */
  #stopped = null;
  /** @type {any} */
  #timer;
  /** @type {Status} */
  status = { state: 'connecting', leader: true };

  /**
   * @param {Config} config @param {import('./types.js').Store} store
   * @param {(name: string, data: any) => void} emit
   */
  constructor(config, store, emit) {
    this.#config = config;
    this.#store = store;
    this.#emit = emit;
    this.#clock = config.clock;
    this.watches = new Watches(request => this.call(request), emit);
    this.#dialer = new Dialer(config, () => this.#hello(), (...items) => this.#arrived(...items));
  }

  /** Reads the store, then connects. */
  async start() {
    const saved = await this.#store.load();
    if (saved.device !== null && saved.device.user !== this.#config.user) {
      throw new FlotillaError('wrong_store', `this store belongs to ${saved.device.user}`);
    }
    this.#install = saved.install;
    if (this.#install === '') {
      this.#install = randomUuid();
      await this.#store.commit([{ t: 'install', install: this.#install }]);
    }
    const now = this.#clock.now();
    this.#device = saved.device?.device ?? null;
    this.#rev = saved.rev;
    this.#outbox = Outbox.restored(saved.commands, now);
    this.#lastN = Math.max(0, ...saved.commands.map(c => c.n ?? 0));
    this.#receiver = new Receiver(saved.positions);
    this.#reads = new Reads(saved.reads, saved.convs);
    if (this.#ended) return;
    if (this.#store.shared) this.#scanAt = now + limits.SCAN_EVERY_MS;
    this.#dialer.at = now;
    this.#tick();
  }

  /** The store has failed: this device will do nothing any more. */
  get isBroken() {
    return this.#broken;
  }

  get outboxSize() {
    return this.#outbox.size + this.#submits.length;
  }

  // What the application asks.

  /** Resolves once the command is durable. @param {Command} command @returns {Promise<void>} */
  submit(command) {
    return new Promise((done, failed) => {
      if (this.#ended || this.#stopped) return failed(new FlotillaError('stopped', this.#stopped?.reason ?? 'closed'));
      this.#submits.push({ command, done, failed });
      this.#kick();
    });
  }

  /** Another tab has stored something. */
  scan() {
    this.#scanDue = true;
    this.#kick();
  }

  /** @param {{ t: string, d: any }} request @param {number} [limitMs] @returns {Promise<any>} */
  call(request, limitMs = limits.CALL_LIMIT_MS) {
    if (this.#ended || this.#stopped || this.#calls.isFull) {
      return Promise.reject(new FlotillaError('overloaded', 'this device takes no calls now'));
    }
    const reply = this.#calls.add(request, this.#clock.now(), limitMs);
    this.#kick();
    return reply;
  }

  /** Everything up to `seq` was read by the person; stored by the caller. @param {string} conv @param {number} seq */
  read(conv, seq) {
    if (this.#reads.mark(conv, seq)) this.#kick();
  }

  /** May be lost. @param {Frame} frame */
  say(frame) {
    if (this.#loose.length < limits.FRAMES_PER_MESSAGE_MAX) this.#loose.push(frame);
    this.#kick();
  }

  /** @param {'active' | 'background'} state */
  setActivity(state) {
    if (state === this.#activity) return;
    this.#activity = state;
    this.say({ t: 'state', d: { state } });
  }

  /** Now, without waiting for the back-off; also after a stop. */
  reconnect() {
    if (this.#ended || this.#broken) return;
    // The person wants it here: as a new instance, for the old one may have been replaced.
    if (this.#stopped?.code === SESSION_REPLACED) this.#dialer.renew();
    this.#stopped = null;
    this.#dialer.backoff.reset();
    if (this.#link === null && !this.#dialer.isBusy) this.#dialer.at = this.#clock.now();
    this.#tick();
  }

  /** Sends what acks are due, closes, ends. Unanswered commands stay in the store. */
  async close() {
    if (this.#link) {
      const items = this.#receiver.inbox.takeAcks();
      if (items.length > 0) this.#link.connection.send([{ t: 'ack', d: items }]);
    }
    this.#ended = true;
    this.#leave();
    this.#dialer.hangUp();
    this.#clock.clear(this.#timer);
    this.#calls.failAll('the client was closed');
    for (const { failed } of this.#submits.splice(0)) failed(new FlotillaError('stopped', 'the client was closed'));
  }

  // The loop.

  #kick() {
    if (!this.#running && !this.#ended) void this.#run();
  }

  async #run() {
    this.#running = true;
    try {
      while (!this.#ended) {
        if (this.#scanDue) await this.#scan();
        const submits = this.#submits.splice(0);
        const { work, closed, any } = this.#gather();
        for (const { command } of submits) work.changes.push({ t: 'command', command });
        if (!any && submits.length === 0) {
          this.#output();
          if (this.#inbound.length === 0 && this.#submits.length === 0 && !this.#scanDue) break;
          continue;
        }
        // Before anything is known to the wire or to the application.
        try {
          if (work.changes.length > 0) await this.#store.commit(work.changes);
        } catch (error) {
          for (const { failed } of submits) failed(/** @type {Error} */ (error));
          throw error;
        }
        this.#settle(work, submits);
        if (work.leave ?? closed) this.#onClosed(/** @type {any} */ (work.leave ?? closed));
        this.#output();
      }
    } catch (error) {
      // What the memory holds may be ahead of the store now: it must never be acked.
      this.#broken = true;
      if (!this.#ended) this.#stop(0, `store: ${/** @type {Error} */ (error)?.message ?? error}`);
    } finally {
      this.#running = false;
    }
    this.#arm();
  }

  /** Rows that other tabs have stored. */
  async #scan() {
    this.#scanDue = false;
    this.#scanAt = this.#clock.now() + limits.SCAN_EVERY_MS;
    const rows = await this.#store.commandsAbove(this.#lastN);
    for (const row of rows) {
      this.#outbox.add(row, this.#clock.now());
      this.#lastN = Math.max(this.#lastN, row.n ?? 0);
    }
  }

  /** Decides on what has arrived, up to the end of a connection. */
  #gather() {
    const work = newWork();
    let any = false;
    for (let count = 0; count < limits.FRAMES_PER_COMMIT_MAX && this.#inbound.length > 0 && work.leave === null; count++) {
      const item = /** @type {Inbound} */ (this.#inbound.shift());
      const current = this.#link !== null && item.from === this.#link.connection;
      const dialed = this.#dialer.isFrom(item.from);
      any = true;
      if (item.closed && current) return { work, any, closed: item.closed };
      if (item.closed && dialed) {
        this.#dialer.lost();
        this.#onVerdict(item.closed);
      } else if (item.frame && dialed) {
        // Nothing else can come before it; other things are of later versions.
        if (item.frame.t === 'ready') this.#onReady(item.frame.d, work);
      } else if (item.frame && current) {
        this.#onFrame(item.frame, work);
      } else if (item.fill !== undefined && current) {
        this.#receiver.onPage(item.fill, item.page, work);
      }
    }
    return { work, any, closed: undefined };
  }

  /** The store has it: acks, answers, events. @param {import('./receiver.js').Work} work @param {{ command: Command, done: () => void }[]} submits */
  #settle(work, submits) {
    const now = this.#clock.now();
    for (const { conv, seq } of work.stored) {
      this.#receiver.inbox.stored(conv, seq, now);
      this.#reads.onStored(conv, seq, this.#link?.caughtUp === true);
    }
    for (const { command, done } of submits) {
      this.#outbox.add(command, now);
      done();
      this.#emit('outbox', command);
    }
    for (const { name, data } of work.events) this.#emit(name, data);
    for (const { conv, after } of work.fills) this.#fill(conv, after);
  }

  /** @param {string} conv @param {number} after */
  #fill(conv, after) {
    const from = this.#link?.connection;
    const page = this.call({ t: 'history', d: { conv, after, limit: limits.HISTORY_ENTRIES_MAX } });
    const arrived = (/** @type {any} */ item) => this.#arrived({ from, ...item });
    page.then(
      reply => arrived(isPage(reply) ? { fill: conv, page: reply } : { closed: { code: 1006, reason: 'not a page of history' } }),
      error => arrived({ closed: { code: 1006, reason: `a hole cannot be filled: ${error.message}` } }),
    );
  }

  // Frames.

  /** @param {any} ready @param {import('./receiver.js').Work} work */
  #onReady(ready, work) {
    const connection = this.#dialer.take();
    this.#leave();
    this.#dialer.urls.learn(ready.urls);
    if (ready.user !== this.#config.user) {
      connection.close();
      this.#stop(0, `the token is of ${ready.user}, not of ${this.#config.user}`);
      return;
    }
    if (this.#device !== ready.device) {
      if (this.#device !== null) {
        this.#receiver.reset();
        work.changes.push({ t: 'positions_dropped' });
        work.events.push({ name: 'reset', data: { reason: ready.reset ?? 'new_device' } });
      }
      this.#device = ready.device;
      work.changes.push({ t: 'device', user: ready.user, device: ready.device });
    }
    if (ready.reset && this.#rev !== null) {
      this.#rev = null;
      work.changes.push({ t: 'rev', rev: null });
    }
    this.#link = new Link(connection);
    this.#tell({ state: 'catching_up', url: connection.url, node: ready.node, device: ready.device });
  }

  /** @param {Frame} frame @param {import('./receiver.js').Work} work */
  #onFrame({ t, id, d }, work) {
    switch (t) {
      case 'entry': return this.#receiver.onEntry(d, work);
      case 'gap': return this.#receiver.onGap(d, work);
      case 'accepted': return this.#onAccepted(id, d, work);
      case 'error': return this.#onError(id, d, work);
      case 'reply': return this.#onReply(id, d);
      case 'conv': return this.#onConv(d, work);
      case 'caught_up': return this.#onCaughtUp(d, work);
      case 'signal': return this.#onSignal(d, work);
      case 'urls': return this.#dialer.urls.learn(d?.urls);
      case 'goaway': return this.#onGoaway(d);
      default: // Of a later version.
    }
  }

  /** @param {number | undefined} id @param {any} accepted @param {import('./receiver.js').Work} work */
  #onAccepted(id, accepted, work) {
    if (this.#link) this.#link.unavailable = 0;
    const flight = this.#link?.answered(id);
    if (flight === undefined) return;
    // A second answer after an overdue first one finds nothing to finish.
    if ('cid' in flight) this.#finish(flight.cid, { state: 'accepted', accepted }, work);
    else if ('call' in flight) this.#calls.finish(flight.call, accepted);
  }

  /** @param {number | undefined} id @param {any} reply */
  #onReply(id, reply) {
    if (this.#link) this.#link.unavailable = 0;
    const flight = this.#link?.answered(id);
    if (flight && 'call' in flight) this.#calls.finish(flight.call, reply);
  }

  /** @param {number | undefined} id @param {any} error @param {import('./receiver.js').Work} work */
  #onError(id, error, work) {
    const flight = this.#link?.answered(id);
    const now = this.#clock.now();
    // One group of many says nothing about the node, and what is watched is only a convenience.
    const isLoose = flight !== undefined && 'call' in flight && this.#calls.isLoose(flight.call);
    if (error.code === 'unavailable' && !isLoose && this.#link && ++this.#link.unavailable >= limits.UNAVAILABLE_MAX) {
      // Another node may be on the right side of whatever is wrong.
      work.leave = { code: 1006, reason: 'this node cannot reach a quorum' };
    }
    // A token that is over does not decide about the command.
    const token = error.code === 'token_expired' || error.code === 'unauthenticated';
    if (flight === undefined) return;
    if (token || 'auth' in flight) work.leave = { code: 4100, reason: `${error.code}: ${error.message}` };
    const again = error.retryable === true || token;
    if ('cid' in flight) {
      if (error.code === 'out_of_order') this.#outbox.outOfOrder(flight.cid, now, this.#config.random());
      else if (again) {
        if (isUnclear(error)) this.#outbox.doubt(flight.cid);
        this.#outbox.retry(flight.cid, now, error.retry_after_ms, this.#config.random());
      } else this.#finish(flight.cid, this.#outbox.refused(flight.cid, error), work);
    } else if ('call' in flight) {
      if (again && (token || !isLoose)) {
        if (isUnclear(error)) this.#calls.doubt(flight.call);
        this.#calls.retry(flight.call, now, error.retry_after_ms);
      } else this.#calls.refuse(flight.call, FlotillaError.of(error));
    }
  }

  /** @param {string} cid @param {Outcome} outcome @param {import('./receiver.js').Work} work */
  #finish(cid, outcome, work) {
    const command = this.#outbox.finish(cid);
    if (command === undefined) return;
    if (outcome.state !== 'accepted') this.#receiver.rejected(cid);
    work.changes.push({ t: 'answered', cid, outcome, at_ms: this.#clock.wall() });
    work.events.push({ name: 'outcome', data: { cid, conv: command.conv, outcome } });
  }

  /** @param {any} conv @param {import('./receiver.js').Work} work */
  #onConv(conv, work) {
    if (this.#link?.caughtUp) {
      this.#rev = conv.rev;
      work.changes.push({ t: 'rev', rev: conv.rev });
    }
    this.#reads.onConv(conv, this.#link?.caughtUp === true);
    work.changes.push({ t: 'conv', conv });
    work.events.push({ name: 'conv', data: conv });
  }

  /** @param {any} caughtUp @param {import('./receiver.js').Work} work */
  #onCaughtUp(caughtUp, work) {
    this.#dialer.backoff.reset();
    this.#rev = caughtUp.rev;
    work.changes.push({ t: 'rev', rev: caughtUp.rev });
    this.#reads.onCaughtUp();
    for (const cid of this.#outbox.stale(this.#clock.now(), this.#clock.wall())) this.#finish(cid, { state: 'unknown', why: 'stale' }, work);
    if (this.#link) this.#link.caughtUp = true;
    this.watches.renew();
    this.#tell({ ...this.status, state: 'online' });
    work.events.push({ name: 'caught_up', data: { behind: caughtUp.behind ?? [] } });
  }

  /** @param {any} signal @param {import('./receiver.js').Work} work */
  #onSignal(signal, work) {
    work.events.push(eventOf(signal));
    if (signal.k !== 'auth_expiring' || this.#refreshing) return;
    this.#refreshing = true;
    const from = this.#link;
    Promise.resolve(true).then(fresh => this.#config.token({ fresh })).then(
      token => {
        this.#refreshing = false;
        if (from !== this.#link) return;
        this.#authDue = token;
        this.#kick();
      },
      // The server will close with 4100 in its time.
      () => (this.#refreshing = false),
    );
  }

  /** Connect elsewhere first; the new session ends this connection. @param {any} goaway */
  #onGoaway(goaway) {
    this.#dialer.urls.learn(goaway?.urls);
    if (!this.#dialer.isBusy) this.#dialer.at = this.#clock.now() + (goaway?.reconnect_in_ms ?? 0);
  }

  // Connecting.

  #tick() {
    if (this.#ended) return;
    const now = this.#clock.now();
    if (this.#outbox.expire(now) > 0 && this.#link) {
      // The server answers in less, if only that it does not know: this node hangs, another one may not.
      this.#inbound.push({ from: this.#link.connection, closed: { code: 1006, reason: 'an answer is overdue' } });
    }
    this.#calls.expire(now);
    if (this.#scanAt <= now) this.#scanDue = true;
    if (this.#dialer.at <= now && !this.#dialer.isBusy && !this.#stopped) this.#dial();
    this.#kick();
    if (!this.#running) this.#arm();
  }

  #dial() {
    this.#dialer.dial(this.#link?.connection.url);
    if (this.#link === null) this.#tell({ state: 'connecting', url: this.#dialer.url });
  }

  #hello() {
    const { client, window } = this.#config;
    return {
      install: this.#install,
      client,
      state: this.#activity,
      ...(this.#device === null ? {} : { device: this.#device }),
      ...(this.#rev === null ? {} : { rev: this.#rev }),
      ...(window === undefined ? {} : { window }),
    };
  }

  /** @param {...Inbound} items */
  #arrived(...items) {
    if (this.#ended) return;
    this.#inbound.push(...items);
    this.#kick();
  }

  /** Nothing more comes over the current connection. */
  #leave() {
    if (this.#link === null) return;
    const { connection } = this.#link;
    connection.close();
    this.#link = null;
    this.#dialer.left = connection.url;
    const now = this.#clock.now();
    this.#outbox.disconnected(now);
    this.#calls.disconnected(now);
    this.#receiver.disconnected();
    this.#reads.disconnected();
    this.#loose = [];
    this.#authDue = null;
  }

  /** @param {{ code: number, reason: string }} closed */
  #onClosed(closed) {
    this.#leave();
    this.#onVerdict(closed);
  }

  /** @param {{ code: number, reason: string }} closed */
  #onVerdict({ code, reason }) {
    if (this.#stopped || this.#ended) return;
    const verdict = verdictOf(code);
    const now = this.#clock.now();
    if (verdict === 'stop') {
      // The other instance may be the process before this one on the same store: it died with a hello under way, which was
      // done after ours. That happens once; two living holders of a copied store would replace each other for ever.
      const first = code === SESSION_REPLACED && now - this.#replacedAt > REPLACED_FORGOTTEN_MS;
      if (!first) return this.#stop(code, reason || closeName(code));
      this.#replacedAt = now;
      // A replaced instance cannot take the session back while another one holds it: who comes again is a new one.
      this.#dialer.renew();
    }
    if (verdict === 'new_token') this.#dialer.freshToken = true;
    // Dropped in the store too with the next one that is stored.
    if (verdict === 'drop_rev') this.#rev = null;
    if (this.#dialer.isBusy) return this.#tell({ state: 'connecting', url: this.#dialer.url });
    const pause = this.#dialer.later();
    if (this.#link === null) this.#tell({ state: 'offline', retry_in_ms: Math.round(pause), code, reason: reason || closeName(code) });
  }

  /** @param {number} code @param {string} reason */
  #stop(code, reason) {
    this.#stopped = { code, reason };
    this.#leave();
    this.#dialer.hangUp();
    this.#calls.failAll(`the device has stopped: ${reason}`);
    for (const { failed } of this.#submits.splice(0)) failed(new FlotillaError('stopped', reason));
    this.#tell({ state: 'stopped', code, reason });
  }

  /** @param {Omit<Status, 'leader'>} status */
  #tell(status) {
    this.status = { ...status, leader: true };
    this.#emit('status', this.status);
  }

  // Writing.

  #output() {
    const link = this.#link;
    if (link === null) return;
    const frames = [];
    for (let frame = this.#next(link); frame !== undefined; frame = this.#next(link)) frames.push(frame);
    if (frames.length > 0) link.connection.send(frames);
  }

  /** @param {Link} link @returns {Frame | undefined} */
  #next(link) {
    const now = this.#clock.now();
    const { inbox } = this.#receiver;
    if (inbox.acksDue(isHidden() ? Infinity : now)) return { t: 'ack', d: inbox.takeAcks() };
    const read = this.#reads.next();
    if (read) return { t: 'read', d: read };
    const loose = this.#loose.shift();
    if (loose) return loose;
    if (this.#authDue !== null) {
      const token = this.#authDue;
      this.#authDue = null;
      return link.asked({ auth: true }, { t: 'auth', d: { token } });
    }
    if (this.#outbox.flying + this.#calls.flying >= limits.CLIENT_REQUESTS_IN_FLIGHT_MAX) return undefined;
    const call = this.#calls.next(now);
    if (call) return link.asked({ call: call.key }, call.request);
    const next = link.caughtUp ? this.#outbox.next(now, this.#clock.wall()) : undefined;
    if (next === undefined) return undefined;
    this.#receiver.sent(next.command.cid, next.command.content);
    return link.asked({ cid: next.command.cid }, next.frame);
  }

  /** One timer for whatever comes first. */
  #arm() {
    this.#clock.clear(this.#timer);
    if (this.#ended) return;
    const now = this.#clock.now();
    const at = Math.min(
      !this.#dialer.isBusy && !this.#stopped ? this.#dialer.at : Infinity,
      this.#link ? this.#receiver.inbox.wakeAt() : Infinity,
      this.#link ? this.#outbox.wakeAt(now) : Infinity,
      this.#calls.wakeAt(now),
      this.#scanAt,
    );
    if (at < Infinity) this.#timer = this.#clock.set(() => this.#tick(), Math.max(at - now, 0) + 1);
  }
}

/** The timers of a hidden page may run once a minute, which is too late for an ack: what is due goes out at once. */
const isHidden = () => globalThis.document?.visibilityState === 'hidden';

/** @param {any} reply */
const isPage = reply => Array.isArray(reply?.entries) && reply.entries.every(isEntry);
