// Accounts over REST: register, log in, and an access token that renews itself. Tokens live in the device's store, so that all
// tabs share them; a request whose answer was lost is repeated under the same key.

import { randomUuid, userId } from './bytes.js';
import { FlotillaError, LoginRequired, OutcomeUnknown } from './errors.js';
import { HTTP_TIMEOUT_MS } from './limits.js';

/** @typedef {import('./types.js').Store} Store */
/** @typedef {{ user: string, device: string, access_token: string, expires_at: number, refresh_token: string }} Tokens */

const TRIES = 4;
/** A token that ends sooner is renewed before it is used. */
const MARGIN_MS = 30_000;

/**
 * One REST request, tried on one node after the other while the answer is that it may be repeated.
 * @param {{ urls: string[], method: string, path: string, params?: any, token?: string, key?: string, fetch?: typeof fetch }} request
 *   `path` below `/v1/`; `params`: the JSON body, or the query of a GET. Every POST gets an `Idempotency-Key`.
 * @returns {Promise<any>} rejects with FlotillaError (no effect) or OutcomeUnknown (repeat with its `key`)
 */
export async function rest({ urls, method, path, params, token, key = randomUuid(), fetch = globalThis.fetch }) {
  const query = method === 'GET' && params ? `?${new URLSearchParams(params)}` : '';
  /** @type {Record<string, string>} */
  const headers = { 'content-type': 'application/json' };
  if (method !== 'GET') headers['idempotency-key'] = key;
  if (token !== undefined) headers.authorization = `Bearer ${token}`;
  const start = Math.floor(Math.random() * urls.length);
  let last = 'no node';
  for (let i = 0; i < TRIES * urls.length; i++) {
    const url = urls[(start + i) % urls.length].replace(/\/+$/, '');
    const body = method === 'GET' ? undefined : JSON.stringify(params ?? {});
    try {
      const response = await fetch(`${url}/v1/${path}${query}`, { method, headers, body, signal: AbortSignal.timeout(HTTP_TIMEOUT_MS) });
      const answer = await response.json();
      if (response.ok) return answer;
      const error = FlotillaError.of({ ...answer, status: response.status });
      if (!error.retryable || error.code === 'too_many_requests') throw error;
      last = error.message;
      await pause(error.retry_after_ms ?? 200);
    } catch (error) {
      if (error instanceof FlotillaError) throw error;
      last = /** @type {any} */ (error)?.message ?? String(error);
      if (i + 1 >= urls.length) await pause(200);
    }
  }
  throw new OutcomeUnknown(last, key);
}

/** @param {number} ms */
const pause = ms => new Promise(done => setTimeout(done, Math.min(ms, 2_000)));

/**
 * Makes an account. Asked again with the same password after a lost answer, `conflict` may mean that it was made.
 * @param {{ urls: string[], user: string, password: string, key?: string }} account
 * @returns {Promise<{ user: string }>}
 */
export function register({ urls, user, password, key }) {
  return rest({ urls, method: 'POST', path: 'auth/register', params: { user: userId(user), password }, key });
}

/**
 * How one may log in at this cluster: `password`, `code`, `external`; `issuer`: whose tokens are taken.
 * @param {{ urls: string[] }} where
 * @returns {Promise<{ methods: string[], issuer?: string }>}
 */
export function loginMethods({ urls }) {
  return rest({ urls, method: 'GET', path: 'auth/methods' });
}

/**
 * Has a one-time code sent to a phone number with its country or to an e-mail address. Each wish for another code has a `key` of
 * its own; after a lost answer the same one brings the same code again.
 * @param {{ urls: string[], address: string, key?: string }} wish
 * @returns {Promise<{ expires_in_ms: number, again_in_ms: number }>}
 */
export function requestCode({ urls, address, key }) {
  return rest({ urls, method: 'POST', path: 'auth/otp', params: { address }, key });
}

/** Logged in on this device. `token` is what `FlotillaClient` wants. */
export class Session {
  #urls;
  #store;
  /** @type {Promise<string> | null} */
  #refreshing = null;
  /** @type {string | undefined} */
  #given;

  /** @param {string[]} urls @param {Store} store @param {string} user */
  constructor(urls, store, user) {
    this.#urls = urls;
    this.#store = store;
    this.user = user;
  }

  /**
   * @param {{ urls: string[], user: string, password: string, store: Store, name?: string }} login `name`: of the device
   * @returns {Promise<Session>}
   */
  static async logIn({ urls, user, password, store, name = '' }) {
    const id = userId(user);
    return Session.#enter({ urls, store, path: 'auth/login', params: { user: id, password, name }, user: id });
  }

  /**
   * With a code that `requestCode` has had sent; the first login makes the account. Who it is stands in the session: `user`.
   * @param {{ urls: string[], address: string, code: string, store: Store, name?: string }} login
   * @returns {Promise<Session>}
   */
  static logInByCode({ urls, address, code, store, name = '' }) {
    return Session.#enter({ urls, store, path: 'auth/otp/verify', params: { address, code, name } });
  }

  /**
   * With a token (JWT) of the issuer that the operator has named.
   * @param {{ urls: string[], jwt: string, store: Store, name?: string }} login
   * @returns {Promise<Session>}
   */
  static logInByToken({ urls, jwt, store, name = '' }) {
    return Session.#enter({ urls, store, path: 'auth/external', params: { token: jwt, name } });
  }

  /** @param {{ urls: string[], store: Store, path: string, params: any, user?: string }} way `user`: where it is known before */
  static async #enter({ urls, store, path, params, user }) {
    const saved = await store.load();
    const isOthers = (/** @type {string} */ id) => saved.device !== null && saved.device.user !== id;
    const wrong = () => new FlotillaError('wrong_store', `this store belongs to ${saved.device?.user}`);
    if (user !== undefined && isOthers(user)) throw wrong();
    let { install } = saved;
    if (install === '') {
      install = randomUuid();
      await store.commit([{ t: 'install', install }]);
    }
    const tokens = await rest({ urls, method: 'POST', path, params: { ...params, install } });
    if (isOthers(tokens.user)) throw wrong();
    await store.commit([{ t: 'tokens', tokens: kept(tokens) }]);
    return new Session(urls, store, tokens.user);
  }

  /** The session of an earlier visit; null: log in. @param {{ urls: string[], store: Store }} where @returns {Promise<Session | null>} */
  static async restore({ urls, store }) {
    const tokens = await store.tokens();
    return tokens ? new Session(urls, store, tokens.user) : null;
  }

  /** @type {import('./types.js').TokenFunction} */
  token = async ({ fresh }) => {
    /** @type {Tokens | null} */
    const tokens = await this.#store.tokens();
    if (!tokens) throw new LoginRequired();
    // Another tab may have renewed it already.
    const isNews = tokens.access_token !== this.#given;
    const isGood = tokens.expires_at - Date.now() > MARGIN_MS;
    if (isGood && (!fresh || (isNews && this.#given !== undefined))) return (this.#given = tokens.access_token);
    this.#refreshing ??= this.#refresh(tokens).finally(() => (this.#refreshing = null));
    return this.#refreshing;
  };

  /** @param {Tokens} tokens */
  async #refresh({ refresh_token }) {
    try {
      const tokens = await rest({ urls: this.#urls, method: 'POST', path: 'auth/refresh', params: { refresh_token } });
      await this.#store.commit([{ t: 'tokens', tokens: kept(tokens) }]);
      return (this.#given = tokens.access_token);
    } catch (error) {
      if (error instanceof FlotillaError && (error.status === 401 || error.status === 403)) throw new LoginRequired(error.message);
      throw error;
    }
  }

  /** This device's tokens end; what it has stored stays. */
  async logOut() {
    const token = await this.token({ fresh: false });
    await rest({ urls: this.#urls, method: 'POST', path: 'auth/logout', token });
    await this.#store.commit([{ t: 'tokens', tokens: null }]);
  }
}

/** @param {any} answer @returns {Tokens} */
const kept = ({ user, device, access_token, expires_at, refresh_token }) => ({ user, device, access_token, expires_at, refresh_token });
