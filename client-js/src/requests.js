// Requests of an application that are answered by the cluster and not kept: pages of history, groups, any REST operation.

import { randomUuid, userId } from './bytes.js';
import { contradictionIn } from './content.js';
import { FlotillaError } from './errors.js';

/** @typedef {import('./types.js').Entry} Entry */
/** @typedef {import('./types.js').Accepted} Accepted */

export class Requests {
  /** Whose client it is. */
  user = '';
  #ask;

  /** @param {(request: { t: string, d: any }) => Promise<any>} ask */
  constructor(ask) {
    this.#ask = ask;
  }

  /**
   * Any REST operation over the socket: `call('GET me')`, `call('POST groups', { name })`.
   * @param {string} method a verb and a path below /v1 @param {any} [params] body and query
   * @param {string} [key] Idempotency-Key, a UUID; give the same one to repeat a call whose outcome is unknown
   * @returns {Promise<any>} rejects with FlotillaError (no effect) or OutcomeUnknown (repeat with its `key`)
   */
  call(method, params = {}, key = randomUuid()) {
    return this.#ask({ t: 'call', d: method.startsWith('GET ') ? { method, params } : { method, key, params } });
  }

  /**
   * A page of the log from the server, ascending. Without a range: the newest.
   * Rejects with `integrity` if it contradicts its own hashes.
   * @param {string} conv @param {{ before?: number, after?: number, around?: number, limit?: number }} [range] limit: at most 200
   * @returns {Promise<{ entries: Entry[], more: boolean }>}
   */
  async history(conv, { before, after, around, limit = 50 } = {}) {
    const range = Object.fromEntries(Object.entries({ before, after, around }).filter(([, v]) => v !== undefined));
    const { entries, more = false } = await this.#ask({ t: 'history', d: { conv, ...range, limit } });
    const wrong = contradictionIn(entries);
    if (wrong) throw new FlotillaError('integrity', `entry ${wrong.seq} of ${conv} contradicts its hashes`);
    return { entries, more };
  }

  /** Seq of the first entry of this time or later; undefined: there is none. @param {string} conv @param {number} ts ms since 1970 @returns {Promise<number | undefined>} */
  async seqAt(conv, ts) {
    const { entries } = await this.call(`GET conversations/${conv}/messages`, { at: ts, limit: 1 });
    return entries[0]?.seq;
  }

  /** Watches who is there; `signal` events follow. @param {string[]} users @returns {Promise<any>} */
  watch(users) {
    return this.#ask({ t: 'presence', d: { watch: users.map(userId) } });
  }

  /**
   * Makes a group with this user as its owner.
   * @param {{ name: string, members?: string[], history?: 'from_join' | 'full', key?: string }} group @returns {Promise<Accepted>}
   */
  createGroup({ name, members = [], history, key }) {
    return this.call('POST groups', { name, members: members.map(userId), ...(history ? { history } : {}) }, key);
  }

  /**
   * Makes a channel with this user as its owner: only it and admins write in it, and it may have very many members. At most
   * 500 join with it; `addMembers` takes in more, 500 at a time.
   * @param {{ name: string, members?: string[], history?: 'from_join' | 'full', key?: string }} channel @returns {Promise<Accepted>}
   */
  createChannel({ name, members = [], history, key }) {
    const params = { name, kind: 'channel', members: members.map(userId), ...(history ? { history } : {}) };
    return this.call('POST groups', params, key);
  }

  /** @param {string} conv @param {string[]} users @param {string} [key] @returns {Promise<Accepted>} */
  addMembers(conv, users, key) {
    return this.call(`POST conversations/${conv}/members`, { users: users.map(userId) }, key);
  }

  /** To remove oneself is to leave. @param {string} conv @param {string} user @param {string} [key] @returns {Promise<Accepted>} */
  removeMember(conv, user, key) {
    return this.call(`DELETE conversations/${conv}/members/${userId(user)}`, {}, key);
  }

  /** @param {string} conv @param {string} [key] @returns {Promise<Accepted>} */
  leave(conv, key) {
    return this.removeMember(conv, this.user, key);
  }

  /** @param {string} conv @param {string} user @param {'member' | 'admin' | 'owner'} role @param {string} [key] @returns {Promise<Accepted>} */
  setRole(conv, user, role, key) {
    return this.call(`PATCH conversations/${conv}/members/${userId(user)}`, { role }, key);
  }

  /** @param {string} conv @param {string} name @param {string} [key] @returns {Promise<Accepted>} */
  rename(conv, name, key) {
    return this.call(`PATCH conversations/${conv}`, { name }, key);
  }

  /** @param {string} conv @param {{ after?: string, limit?: number }} [range] @returns {Promise<{ members: any[], more: boolean }>} */
  members(conv, range = {}) {
    return this.call(`GET conversations/${conv}/members`, range);
  }
}
