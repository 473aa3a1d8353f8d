// One WebSocket to one node: `hello`, frames in and out, heartbeat, time-outs.
//
// Invariant: frames come out in the order in which they arrived, and the last thing to come out is how it ended, once. It
// knows nothing of devices or retries.

import { SUBPROTOCOLS, decode, encode, join } from './codec.js';
import { socketUrl } from './dial.js';
import * as limits from './limits.js';

/** @typedef {import('./codec.js').Encoding} Encoding */
/** @typedef {import('./codec.js').Frame} Frame */
/** @typedef {{ code: number, reason: string }} Closed */

const FAREWELL_MS = 1_000;
/** Frames gathered into one message; half of the server's bound. */
const FRAMES_GATHERED_MAX = limits.FRAMES_PER_MESSAGE_MAX / 2;

export class Connection {
  #socket;
  #encoding;
  #clock;
  #on;
  #ended = false;
  #heardAt;
  #isReady = false;
  /** @type {any} */
  #timer;

  /**
   * @param {{ url: string, encoding: Encoding, WebSocket: import('./types.js').WebSocketClass, clock: import('./types.js').Clock,
   *   hello: any, onFrames: (frames: Frame[]) => void, onClosed: (closed: Closed) => void }} options
   */
  constructor({ url, encoding, WebSocket, clock, hello, onFrames, onClosed }) {
    this.url = url;
    this.#encoding = encoding;
    this.#clock = clock;
    this.#on = { frames: onFrames, closed: onClosed };
    this.#heardAt = clock.now();
    this.#timer = clock.set(() => this.#end(1006, 'cannot connect in time'), limits.CONNECT_TIMEOUT_MS);
    const socket = new WebSocket(socketUrl(url), [SUBPROTOCOLS[encoding]]);
    this.#socket = socket;
    socket.binaryType = 'arraybuffer';
    socket.onopen = () => {
      if (this.#ended) return;
      this.#arm(() => this.#end(1006, 'no answer to hello in time'), limits.READY_TIMEOUT_MS);
      this.send([{ t: 'hello', d: hello }]);
    };
    socket.onmessage = (/** @type {any} */ event) => this.#onMessage(event.data);
    socket.onclose = (/** @type {any} */ event) => this.#end(event.code || 1006, event.reason || '', false);
    // A close event follows; where none does (a handshake that fails in some clients), this is the end.
    socket.onerror = (/** @type {any} */ event) => {
      if (socket.readyState === 3) this.#end(1006, event?.message ?? 'socket error');
    };
  }

  /** @param {Frame[]} frames */
  send(frames) {
    /** @type {(string | Uint8Array)[]} */
    let gathered = [];
    let size = 0;
    const flush = () => {
      if (gathered.length > 0) this.#write(join(this.#encoding, gathered));
      [gathered, size] = [[], 0];
    };
    for (const frame of frames) {
      const bytes = encode(this.#encoding, frame);
      // Text counts up to four bytes a character: what is gathered stays below the bound in any case.
      const cost = typeof bytes === 'string' ? bytes.length * 4 : bytes.length;
      if (gathered.length === FRAMES_GATHERED_MAX || size + cost > limits.MESSAGE_BYTES_MAX_BEFORE_HELLO) flush();
      gathered.push(bytes);
      size += cost + 1;
    }
    flush();
  }

  /** In order; nothing comes out any more. */
  close() {
    this.#finish();
    try {
      this.#socket.close(1000);
    } catch {
      // It was never open.
    }
    if (typeof this.#socket.terminate !== 'function') return;
    // Programs only: a peer that does not answer the close would keep the process alive.
    setTimeout(() => this.#socket.terminate(), FAREWELL_MS).unref?.();
  }

  /** @param {string | Uint8Array} message */
  #write(message) {
    if (this.#ended || this.#socket.readyState !== 1) return;
    this.#socket.send(message);
  }

  /** @param {any} data */
  #onMessage(data) {
    if (this.#ended) return;
    this.#heardAt = this.#clock.now();
    /** @type {Frame[]} */
    let frames;
    try {
      frames = decode(this.#encoding, typeof data === 'string' ? data : new Uint8Array(data));
    } catch (error) {
      return this.#end(1006, `the server sent something that is not a frame: ${/** @type {Error} */ (error).message}`);
    }
    if (frames.some(f => f.t === 'ping')) this.send([{ t: 'pong', d: {} }]);
    if (!this.#isReady && frames.some(f => f.t === 'ready')) {
      this.#isReady = true;
      this.#listen();
    }
    const news = frames.filter(f => f.t !== 'ping');
    if (news.length > 0) this.#on.frames(news);
  }

  /** Gives up after a silence; the timer runs once per silence, not once per message. */
  #listen() {
    const left = this.#heardAt + limits.RECEIVE_TIMEOUT_MS - this.#clock.now();
    if (left <= 0) this.#end(1006, 'nothing received in time');
    else this.#arm(() => this.#listen(), left);
  }

  /** @param {() => void} run @param {number} ms */
  #arm(run, ms) {
    this.#clock.clear(this.#timer);
    this.#timer = this.#clock.set(run, ms);
  }

  #finish() {
    this.#ended = true;
    this.#clock.clear(this.#timer);
  }

  /** @param {number} code @param {string} reason @param {boolean} [hangUp] */
  #end(code, reason, hangUp = true) {
    if (this.#ended) return;
    if (hangUp) this.close();
    else this.#finish();
    this.#on.closed({ code, reason });
  }
}
