// Requests that are not kept across a crash: `history`, `sync`, `call`, `presence`, `receipts`. Sent again with the same key after a
// reconnect, until an answer or their deadline. Pure but for the promises that it settles.

import { OutcomeUnknown } from './errors.js';
import * as limits from './limits.js';

/** @typedef {{ t: string, d: any }} Request */
/** @typedef {{ request: Request, done: (reply: any) => void, failed: (error: Error) => void,
 *   sendAt: number, overdueAt: number, deadline: number,
 *   inDoubt: boolean }} Item inDoubt: an attempt got no answer, or one that does not tell: it may arrive at any time yet */

const RETRY_MS = 200;

export class Calls {
  /** @type {Map<number, Item>} */
  #items = new Map();
  #last = 0;
  #flying = 0;

  get flying() {
    return this.#flying;
  }

  get isFull() {
    return this.#items.size >= limits.CLIENT_CALLS_MAX;
  }

  /** @param {Request} request @param {number} now @param {number} limitMs @returns {Promise<any>} */
  add(request, now, limitMs) {
    return new Promise((done, failed) => {
      this.#items.set(++this.#last, { request, done, failed, sendAt: now, overdueAt: Infinity, deadline: now + limitMs, inDoubt: false });
    });
  }

  /** @param {number} now @returns {{ key: number, request: Request } | undefined} */
  next(now) {
    for (const [key, item] of this.#items) {
      if (item.sendAt > now) continue;
      item.sendAt = Infinity;
      item.overdueAt = now + limits.CLIENT_ANSWER_TIMEOUT_MS;
      this.#flying += 1;
      return { key, request: item.request };
    }
    return undefined;
  }

  /** @param {number} key @param {any} reply */
  finish(key, reply) {
    this.#take(key)?.done(reply);
  }

  /** @param {number} key @param {Error} error */
  fail(key, error) {
    this.#take(key)?.failed(error);
  }

  /**
   * A final refusal. It decides nothing while an earlier attempt may still have an effect: see `Outbox.isInDoubt`.
   * @param {number} key @param {Error} error
   */
  refuse(key, error) {
    const item = this.#items.get(key);
    const idempotency = item?.request.t === 'call' ? item.request.d?.key : undefined;
    const isClear = idempotency === undefined || !item?.inDoubt;
    this.fail(key, isClear ? error : new OutcomeUnknown(error.message, idempotency));
  }

  /** Whoever asked asks again when it matters: a refusal is passed on, also one that invites to try again. @param {number} key */
  isLoose(key) {
    return this.#items.get(key)?.request.t === 'receipts';
  }

  /** The last attempt may or may not have happened. @param {number} key */
  doubt(key) {
    const item = this.#items.get(key);
    if (item) item.inDoubt = true;
  }

  /** @param {number} key @param {number} now @param {number | undefined} wanted ms */
  retry(key, now, wanted) {
    const item = this.#items.get(key);
    if (item) this.#land(item, now + Math.max(wanted ?? 0, RETRY_MS));
  }

  /** Overdue ones are sent again, those past their deadline end as unknown. @param {number} now */
  expire(now) {
    for (const [key, item] of this.#items) {
      if (item.deadline <= now) this.fail(key, new OutcomeUnknown('no answer in time', item.request.d?.key));
      else if (item.overdueAt <= now) this.#lose(item, now);
    }
  }

  /** @param {number} now */
  disconnected(now) {
    for (const item of this.#items.values()) if (item.sendAt === Infinity) this.#lose(item, now);
  }

  /** @param {string} why */
  failAll(why) {
    for (const [key, item] of this.#items) this.fail(key, new OutcomeUnknown(why, item.request.d?.key));
  }

  /** @param {number} now */
  wakeAt(now) {
    let at = Infinity;
    for (const item of this.#items.values()) {
      for (const time of [item.sendAt, item.overdueAt, item.deadline]) if (time > now) at = Math.min(at, time);
    }
    return at;
  }

  /** @param {number} key */
  #take(key) {
    const item = this.#items.get(key);
    if (item === undefined) return undefined;
    this.#items.delete(key);
    if (item.sendAt === Infinity) this.#flying -= 1;
    return item;
  }

  /** It was on the wire, and no answer came. @param {Item} item @param {number} now */
  #lose(item, now) {
    item.inDoubt = true;
    this.#land(item, now);
  }

  /** @param {Item} item @param {number} sendAt */
  #land(item, sendAt) {
    if (item.sendAt === Infinity) this.#flying -= 1;
    item.sendAt = sendAt;
    item.overdueAt = Infinity;
  }
}
