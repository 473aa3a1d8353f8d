// What a device watches: who is there, and how far messages have come in groups that are open. The server forgets it with the
// connection, so it is asked for at each one. Signals may be lost: what they say is absolute, and an answer says all of it.

/** @typedef {import('./types.js').Receipts} Receipts */

export class Watches {
  #call;
  #emit;
  // As they are sent: an attempt that is repeated late carries the newest list, not its own.
  #presence = { watch: /** @type {string[]} */ ([]) };
  #receipts = { watch: /** @type {string[]} */ ([]) };

  /** @param {(request: { t: string, d: any }) => Promise<any>} call @param {(name: string, data: any) => void} emit */
  constructor(call, emit) {
    this.#call = call;
    this.#emit = emit;
  }

  /** @param {string[]} users @returns {Promise<any>} */
  presence(users) {
    this.#presence.watch = users;
    return this.#call({ t: 'presence', d: this.#presence });
  }

  /** @param {string[]} convs @returns {Promise<{ receipts: Receipts[] }>} */
  async receipts(convs) {
    this.#receipts.watch = convs;
    const reply = await this.#call({ t: 'receipts', d: this.#receipts });
    const receipts = (Array.isArray(reply?.receipts) ? reply.receipts : []).filter(isReceipts);
    for (const one of receipts) this.#emit('receipts', one);
    return { receipts };
  }

  /** Another connection: it knows of nothing. Who does not know the request says so each time. */
  renew() {
    if (this.#presence.watch.length > 0) this.presence(this.#presence.watch).catch(() => {});
    if (this.#receipts.watch.length > 0) this.receipts(this.#receipts.watch).catch(() => {});
  }
}

/** What a `signal` is to an application. @param {any} signal @returns {{ name: string, data: any }} */
export function eventOf({ k, ...signal }) {
  return k === 'receipts' && isReceipts(signal) ? { name: 'receipts', data: signal } : { name: 'signal', data: { k, ...signal } };
}

/** @param {any} one */
const isReceipts = one => typeof one?.conv === 'string' && Array.isArray(one.members);

const TABS_MAX = 64;

/** What the tabs of a device want to watch: whose list is the newest comes first, as far as a connection takes it. */
export class Wanted {
  /** By tab, the newest at the end. One that died without a word goes when newer ones need its place. @type {Map<string, string[]>} */
  #lists = new Map();

  /** @param {string} tab @param {string[]} list */
  set(tab, list) {
    this.#lists.delete(tab);
    if (list.length === 0) return;
    this.#lists.set(tab, list);
    const [oldest] = this.#lists.keys();
    if (this.#lists.size > TABS_MAX) this.#lists.delete(oldest);
  }

  /** @param {string} tab @returns {string[]} */
  of(tab) {
    return this.#lists.get(tab) ?? [];
  }

  /** @param {number} max @returns {string[]} */
  all(max) {
    return [...new Set([...this.#lists.values()].reverse().flat())].slice(0, max);
  }
}
