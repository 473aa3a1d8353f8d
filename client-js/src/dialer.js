// Attempts to connect: which node, when, with which token. At most one at a time; it ends as a connection that says `ready`, or
// as a close, both in the order of everything else that arrives.

import { randomUuid } from './bytes.js';
import { Connection } from './connection.js';
import { Backoff, Urls } from './dial.js';
import { TOKEN_TIMEOUT_MS } from './limits.js';

/** @typedef {import('./device.js').Inbound} Inbound */
/** @typedef {{ url: string, connection?: Connection, late?: any }} Attempt */

/**
 * @typedef {object} Config
 * @property {string[]} urls
 * @property {string} user
 * @property {import('./types.js').TokenFunction} token
 * @property {{ name: string, version: string, platform: string }} client
 * @property {import('./codec.js').Encoding} encoding
 * @property {number} [window]
 * @property {number} backoff_min_ms
 * @property {number} backoff_max_ms
 * @property {import('./types.js').WebSocketClass} WebSocket
 * @property {import('./types.js').Clock} clock
 * @property {() => number} random
 */

/** The close code of an attempt for which the person must log in. */
const AUTH_FAILED = 4502;

export class Dialer {
  #config;
  #hello;
  #arrived;
  #instance = randomUuid();
  #attempts = 0;
  /** @type {Attempt | null} */
  #attempt = null;
  /** When the next attempt is due. */
  at = Infinity;
  /** The server has refused the last token. */
  freshToken = false;
  /** The node of the last connection that ended. @type {string | undefined} */
  left;
  urls;
  backoff;

  /**
   * @param {Config} config @param {() => any} hello what the device says of itself @param {(...items: Inbound[]) => void} arrived
   */
  constructor(config, hello, arrived) {
    this.#config = config;
    this.#hello = hello;
    this.#arrived = arrived;
    this.urls = new Urls(config.urls, config.random);
    this.backoff = new Backoff(config.backoff_min_ms, config.backoff_max_ms, config.random);
  }

  get isBusy() {
    return this.#attempt !== null;
  }

  /** The node that is being tried. */
  get url() {
    return this.#attempt?.url;
  }

  /** @param {unknown} from */
  isFrom(from) {
    return this.#attempt !== null && (from === this.#attempt || from === this.#attempt.connection);
  }

  /** From now on as another instance. */
  renew() {
    this.#instance = randomUuid();
  }

  /** After a pause that grows; in milliseconds. */
  later() {
    const pause = this.backoff.pause();
    this.at = this.#config.clock.now() + pause;
    return pause;
  }

  /** @param {string | undefined} but the node of the connection that is to be replaced */
  dial(but) {
    this.at = Infinity;
    // Also not the one that was just left: what it is ill of may be silence, and that costs a whole time-out.
    /** @type {Attempt} */
    const attempt = { url: this.urls.next(but ?? this.left) };
    this.#attempt = attempt;
    const { clock } = this.#config;
    attempt.late = clock.set(() => failed(new Error('no token in time')), TOKEN_TIMEOUT_MS);
    const failed = (/** @type {any} */ error) => {
      if (this.#attempt !== attempt || attempt.connection) return;
      const code = error?.name === 'LoginRequired' ? AUTH_FAILED : 1006;
      this.#arrived({ from: attempt, closed: { code, reason: `cannot begin: ${error?.message ?? error}` } });
    };
    Promise.resolve(this.freshToken)
      .then(fresh => this.#config.token({ fresh }))
      .then(token => this.#open(attempt, token))
      .catch(failed)
      .finally(() => clock.clear(attempt.late));
  }

  /** @param {Attempt} attempt @param {string} token */
  #open(attempt, token) {
    if (this.#attempt !== attempt) return;
    this.#attempts += 1;
    const { encoding, WebSocket, clock } = this.#config;
    const { install, ...rest } = this.#hello();
    /** @type {Connection} */
    const connection = new Connection({
      url: attempt.url, encoding, WebSocket, clock,
      hello: { token, install, instance: this.#instance, attempt: this.#attempts, ...rest },
      onFrames: frames => this.#arrived(...frames.map(frame => ({ from: connection, frame }))),
      onClosed: closed => this.#arrived({ from: connection, closed }),
    });
    attempt.connection = connection;
  }

  /** The attempt has said `ready`. @returns {Connection} */
  take() {
    const connection = /** @type {Connection} */ (this.#attempt?.connection);
    this.#attempt = null;
    this.freshToken = false;
    return connection;
  }

  /** The attempt has ended. */
  lost() {
    this.#attempt = null;
  }

  hangUp() {
    this.#attempt?.connection?.close();
    this.#config.clock.clear(this.#attempt?.late);
    this.#attempt = null;
    this.at = Infinity;
  }
}
