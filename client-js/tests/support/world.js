// A cluster in memory that keeps the promises of the real one: one log per conversation, dedup by (conversation, sender, cid),
// cursors that move by acks only, everything pending sent again. `mischief` decides what goes wrong on the way.

import { directId, fromBase64url, randomUuid } from '../../src/bytes.js';
import { ZERO_CHAIN, bodyHash, chainAfter } from '../../src/content.js';

/** What may go wrong; each is asked at its moment and says yes or no. */
export const PEACE = {
  /** The request is lost with its connection. */
  loseRequest: () => false,
  /** It is done, and its answer is lost with the connection. */
  loseAnswer: () => false,
  /** Nothing happens, and the answer says so. */
  refuse: () => false,
  /** It is done, and the answer says that nobody knows. */
  forget: () => false,
  /** The connection ends now. */
  cut: () => false,
  /** The connection attempt fails. */
  unreachable: (/** @type {string} */ _url) => false,
};

export class World {
  /** @type {Map<string, { entries: any[], members: Set<string> }>} */
  convs = new Map();
  /** @type {Map<string, any>} */
  #dedup = new Map();
  /** @type {Map<string, { user: string, install: string, cursors: Map<string, number> }>} */
  devices = new Map();
  /** @type {Set<Session>} */
  sessions = new Set();
  /** All hellos and commands, as they came. @type {any[]} */
  heard = [];
  /** Of members of groups. @type {Map<string, Map<string, { delivered: number, read?: number }>>} */
  marks = new Map();
  /** A server that is older does not know `receipts`. */
  knowsReceipts = true;
  mischief = { ...PEACE };
  nodes = ['http://a', 'http://b', 'http://c'];
  /** Called with (session, frame) before anything else; true: it is dealt with. @type {(session: Session, frame: any) => boolean} */
  intercept = () => false;

  /** @param {import('./clock.js').FakeClock} clock @param {() => number} random */
  constructor(clock, random = () => 0.5) {
    this.clock = clock;
    this.random = random;
    const world = this;
    this.WebSocket = class extends Socket {
      constructor(/** @type {string} */ url, /** @type {string[]} */ protocols) {
        super(world, url, protocols);
      }
    };
  }

  /** @param {string} conv @param {string[]} members */
  group(conv, members) {
    this.convs.set(conv, { entries: [], members: new Set(members) });
    for (const device of this.devices.values()) if (members.includes(device.user)) device.cursors.set(conv, 0);
    return conv;
  }

  /**
   * @param {string} user @param {string} device @param {string} conv @param {string} cid @param {any} content bodies as bytes
   * @returns {any} the answer
   */
  append(user, device, conv, cid, content) {
    const key = `${conv} ${user} ${cid}`;
    const known = this.#dedup.get(key);
    if (known) return { ...known, dup: true };
    if (!this.convs.has(conv)) this.group(conv, [user, ...peers(conv)]);
    const log = /** @type {any} */ (this.convs.get(conv));
    const seq = log.entries.length + 1;
    const before = log.entries.at(-1);
    const entry = {
      conv, seq, n: (before?.n ?? 0) + (content.kind === 'message' ? 1 : 0), msg_id: String(seq), ts: this.clock.wall(), from: user, device, cid,
      ...content, body_hash: bodyHash(cid, content), chain: '',
    };
    entry.chain = chainAfter(entry, before?.chain ?? ZERO_CHAIN);
    log.entries.push(entry);
    const accepted = { conv, seq, msg_id: entry.msg_id, ts: entry.ts, chain: entry.chain, dup: false };
    this.#dedup.set(key, accepted);
    for (const session of this.sessions) if (log.members.has(session.user)) session.deliver(entry);
    return accepted;
  }

  /** Somebody has got or read something; who watches is told. @param {string} conv @param {string} user @param {{ delivered: number, read?: number }} mark */
  mark(conv, user, mark) {
    this.marks.set(conv, (this.marks.get(conv) ?? new Map()).set(user, mark));
    for (const session of this.sessions) if (session.watched.includes(conv)) session.put('signal', { k: 'receipts', conv, members: [{ user, ...mark }] });
  }

  /** @param {string} conv */
  receipts(conv) {
    return { conv, members: [...(this.marks.get(conv) ?? [])].map(([user, mark]) => ({ user, ...mark })) };
  }

  /** @param {string} conv @param {string} user @param {string} cid */
  knows(conv, user, cid) {
    return this.#dedup.has(`${conv} ${user} ${cid}`);
  }

  /** Somebody else writes. @param {string} user @param {string} conv @param {string} text */
  say(user, conv, text) {
    return this.append(user, '00000000-0000-0000-0000-00000000000f', conv, randomUuid(), { kind: 'message', body: new TextEncoder().encode(text) });
  }

  /** @param {string} user @param {string} install */
  device(user, install) {
    for (const [id, d] of this.devices) if (d.user === user && d.install === install) return id;
    const id = randomUuid();
    const cursors = new Map([...this.convs].filter(([, c]) => c.members.has(user)).map(([conv, c]) => [conv, c.entries.length]));
    this.devices.set(id, { user, install, cursors });
    return id;
  }

  /** @param {number} code @param {string} [reason] */
  closeAll(code, reason = '') {
    for (const session of [...this.sessions]) session.close(code, reason);
  }
}

/** @param {string} conv @returns {string[]} */
function peers(conv) {
  if (conv[0] !== 'd') return [];
  const end = 3 + Number.parseInt(conv.slice(1, 3), 16);
  return [conv.slice(3, end), conv.slice(end + 2)];
}

class Socket {
  readyState = 0;
  binaryType = '';
  /** @type {any} */ onopen = null;
  /** @type {any} */ onmessage = null;
  /** @type {any} */ onclose = null;
  /** @type {any} */ onerror = null;
  #session;

  /** @param {World} world @param {string} url @param {string[]} protocols */
  constructor(world, url, protocols) {
    if (protocols[0] !== 'flotilla.v1.json') throw new Error('the fake server speaks JSON');
    this.world = world;
    this.url = url.replace(/^ws/, 'http').replace('/v1/ws', '');
    this.#session = new Session(world, this);
    world.clock.set(() => {
      if (this.readyState !== 0) return;
      if (world.mischief.unreachable(this.url)) return this.ended(1006, 'unreachable');
      this.readyState = 1;
      this.onopen?.({});
    }, 1);
  }

  /** @param {string} text */
  send(text) {
    const frames = text.split('\n').map(line => JSON.parse(line));
    this.world.clock.set(() => this.#session.take(frames), 1 + Math.floor(this.world.random() * 3));
  }

  /** @param {any} frames */
  arrive(frames) {
    const text = frames.map((/** @type {any} */ f) => JSON.stringify(f)).join('\n');
    this.world.clock.set(() => this.readyState === 1 && this.onmessage?.({ data: text }), 1);
  }

  close() {
    if (this.readyState >= 2) return;
    this.readyState = 3;
    this.#session.gone();
  }

  /** @param {number} code @param {string} reason */
  ended(code, reason) {
    if (this.readyState === 3) return;
    this.world.clock.set(() => {
      if (this.readyState === 3) return;
      this.readyState = 3;
      this.onclose?.({ code, reason });
    }, 1);
  }
}

/** One connection at the server. */
export class Session {
  user = '';
  device = '';
  open = true;
  hello = /** @type {any} */ (null);
  /** @type {Map<string, number>} */
  sent = new Map();
  /** @type {Set<string>} */
  own = new Set();
  caughtUp = false;
  /** Groups whose marks are told. @type {string[]} */
  watched = [];

  /** @param {World} world @param {Socket} socket */
  constructor(world, socket) {
    this.world = world;
    this.socket = socket;
  }

  get url() {
    return this.socket.url;
  }

  /** @param {string} t @param {any} d @param {number} [id] */
  put(t, d, id) {
    if (this.open) this.socket.arrive([id === undefined ? { t, d } : { t, id, d }]);
  }

  gone() {
    this.open = false;
    this.world.sessions.delete(this);
  }

  /** @param {number} code @param {string} [reason] */
  close(code, reason = '') {
    if (!this.open) return;
    this.gone();
    this.socket.ended(code, reason);
  }

  /** @param {any[]} frames */
  take(frames) {
    for (const frame of frames) {
      if (!this.open) return;
      this.world.heard.push({ url: this.url, ...frame });
      if (this.world.intercept(this, frame)) continue;
      if (frame.t === 'hello') this.#onHello(frame.d);
      else this.#onFrame(frame);
      if (this.world.mischief.cut()) this.close(1006);
    }
  }

  /** @param {any} hello */
  #onHello(hello) {
    const { world } = this;
    this.hello = hello;
    this.user = hello.token.replace('dev:', '');
    const wanted = hello.device && world.devices.get(hello.device);
    const fits = wanted && wanted.install === hello.install;
    this.device = fits ? hello.device : world.device(this.user, hello.install);
    for (const other of [...world.sessions]) {
      if (other.device !== this.device) continue;
      other.close(other.hello.instance === hello.instance ? 4007 : 4504);
    }
    world.sessions.add(this);
    const reset = hello.device && !fits ? { reset: 'new_device' } : {};
    this.put('ready', {
      session: '1', node: world.nodes.indexOf(this.url) + 1, user: this.user, device: this.device, rev: '1.1', server_time: world.clock.wall(),
      limits: {}, urls: world.nodes, ...reset,
    });
    const { cursors } = /** @type {any} */ (world.devices.get(this.device));
    for (const [conv, log] of world.convs) {
      if (!log.members.has(this.user)) continue;
      const cursor = cursors.get(conv) ?? 0;
      this.put('conv', convState(conv, log));
      this.sent.set(conv, cursor);
      for (const entry of log.entries.slice(cursor)) this.deliver(entry);
    }
    this.caughtUp = true;
    this.put('caught_up', { rev: '1.1', behind: [] });
  }

  /** @param {any} entry */
  deliver(entry) {
    const last = this.sent.get(entry.conv) ?? 0;
    if (!this.open || entry.seq <= last) return;
    this.sent.set(entry.conv, entry.seq);
    const { conv, seq, n, msg_id, ts, from, device, cid, kind, body_hash, chain } = entry;
    const isOwn = this.own.has(cid) && from === this.user;
    this.put('entry', isOwn ? { conv, seq, n, msg_id, ts, from, device, cid, kind, body_hash, chain, echo: true } : wire(entry));
  }

  /** @param {any} frame */
  #onFrame({ t, id, d }) {
    const { world } = this;
    if (t === 'ack') {
      const { cursors } = /** @type {any} */ (world.devices.get(this.device));
      for (const { conv, seq } of d) {
        if (seq > (this.sent.get(conv) ?? 0)) throw new Error(`an ack of ${conv} ${seq}, above what was sent (${this.sent.get(conv)})`);
        cursors.set(conv, Math.max(cursors.get(conv) ?? 0, seq));
      }
    } else if (t === 'history') {
      const log = world.convs.get(d.conv);
      const all = (log?.entries ?? []).filter(e => (d.before === undefined || e.seq < d.before) && (d.after === undefined || e.seq > d.after));
      const page = d.after === undefined ? all.slice(-d.limit) : all.slice(0, d.limit);
      this.put('reply', { entries: page.map(wire), more: page.length < all.length }, id);
    } else if (t === 'auth' || t === 'sync' || t === 'call' || t === 'presence') {
      this.put('reply', {}, id);
    } else if (t === 'receipts') {
      if (!world.knowsReceipts) return this.put('error', { code: 'unsupported', message: `unknown request ${t}` }, id);
      this.watched = d.watch;
      this.put('reply', { receipts: d.watch.map((/** @type {string} */ conv) => world.receipts(conv)) }, id);
    } else if (['send', 'edit', 'delete', 'react'].includes(t)) {
      this.#onCommand(t, id, d);
    }
  }

  /** @param {string} t @param {number} id @param {any} d */
  #onCommand(t, id, d) {
    const { world } = this;
    const { mischief } = world;
    const conv = d.conv ?? directId(this.user, d.to);
    if (mischief.loseRequest()) return this.close(1006);
    if (mischief.refuse()) return this.put('error', { code: 'overloaded', message: '', retryable: true, retry_after_ms: 50 }, id);
    if (d.after && !world.knows(conv, this.user, d.after)) return this.put('error', { code: 'out_of_order', message: '', retryable: true }, id);
    this.own.add(d.cid);
    const body = d.body === undefined ? {} : { body: fromBase64url(d.body) };
    const { reply_to, mentions, media, emoji, on } = d;
    const rest = Object.fromEntries(Object.entries({ reply_to, mentions, media, emoji, on }).filter(([, v]) => v !== undefined));
    const content = t === 'send' ? { kind: d.kind, ...body, ...rest } : { kind: t, target: d.seq, ...body, ...rest };
    const accepted = world.append(this.user, this.device, conv, d.cid, content);
    if (mischief.loseAnswer()) return this.close(1006);
    if (mischief.forget()) return this.put('error', { code: 'outcome_unknown', message: '', retryable: true }, id);
    this.put('accepted', accepted, id);
  }
}

/** @param {any} entry */
const wire = entry => (entry.body ? { ...entry, body: Buffer.from(entry.body).toString('base64url') } : entry);

/** @param {string} conv @param {any} log */
const convState = (conv, log) => ({
  rev: '1.1', conv, kind: conv[0] === 'd' ? 'direct' : 'group', head: log.entries.length, read: 0, unread: 0, member: true,
});
