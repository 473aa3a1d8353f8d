// The outbox: commands in order, per conversation, until each has its answer. Pure: time comes in as milliseconds.
//
// Invariant: a command is on the wire only while all earlier ones of its conversation are too, so that pipelined order
// survives retries: each names the nearest earlier one that is still unanswered as `after`. Twin of `client/src/device/outbox.rs`.
//
// Most of what is refused takes everything behind it along: those name it, and come back as `out_of_order`. Then a conversation has
// one command on the wire, and twice as many after each that has its final answer; a row of n that are all refused costs about 2 n
// frames, where sending the whole rest each time would cost n * n / 2, all of which count against the user's limit. Where the reason
// holds for all of them (no member any more, blocked), the server gives it to each, whatever it names: nothing comes back
// `out_of_order`, and the row goes out as fast as if it were accepted.

import * as limits from './limits.js';

/** @typedef {import('./types.js').Command} Command */
/** @typedef {{ command: Command, flying: boolean, until: number, attempts: number, since: number, after?: string,
 *   inDoubt: boolean }} Item inDoubt: an attempt got no answer, or one that does not tell: it may arrive at any time yet */

const RETRY_MS_MIN = 40;
const RETRY_MS_MAX = 2_000;
/** No server makes a command wait longer, whatever it says. */
const RETRY_AFTER_MS_MAX = 60_000;
/** Only these can be on the wire, or next for it. */
const NEAR = limits.CLIENT_REQUESTS_IN_FLIGHT_MAX + 1;

export class Outbox {
  /** @type {Map<string, Item[]>} */
  #queues = new Map();
  /** How many may be on the wire of the conversations where something was refused. @type {Map<string, number>} */
  #windows = new Map();
  /** @type {Map<string, Item>} */
  #items = new Map();
  #flying = 0;

  /** Commands of an earlier process: they may have been attempted. @param {Command[]} commands @param {number} now */
  static restored(commands, now) {
    const outbox = new Outbox();
    for (const command of commands) outbox.add(command, now, 1);
    return outbox;
  }

  get size() {
    return this.#items.size;
  }

  get flying() {
    return this.#flying;
  }

  /** @param {string} cid */
  has(cid) {
    return this.#items.has(cid);
  }

  /** @param {Command} command @param {number} now @param {number} [attempts] made before */
  add(command, now, attempts = 0) {
    if (this.#items.has(command.cid)) return;
    // One that the person sends again was attempted before.
    const made = command.asked_ms === undefined ? attempts : Math.max(attempts, 1);
    /** @type {Item} */
    const item = { command, flying: false, until: now, since: now, attempts: made, inDoubt: made > 0 };
    this.#items.set(command.cid, item);
    const queue = this.#queues.get(command.conv);
    if (queue) queue.push(item);
    else this.#queues.set(command.conv, [item]);
  }

  /**
   * The next command for the wire; it counts as sent.
   * @param {number} now @param {number} wall
   * @returns {{ command: Command, frame: { t: string, d: any } } | undefined}
   */
  next(now, wall) {
    for (const [conv, queue] of this.#queues) {
      const at = sendable(queue, now, this.#windows.get(conv) ?? NEAR);
      if (at < 0) continue;
      const item = queue[at];
      const after = at > 0 ? queue[at - 1].command.cid : undefined;
      // Never too young: the command was saved before its first attempt, and a part of a second counts whole.
      // Nor when the wall clock was set back: what this process has counted itself is the least.
      const age_ms = Math.max(wall - item.command.saved_ms, now - item.since, 1);
      const age_s = item.attempts > 0 ? Math.ceil(age_ms / 1_000) : undefined;
      Object.assign(item, { flying: true, until: now + limits.CLIENT_ANSWER_TIMEOUT_MS, attempts: item.attempts + 1, after });
      this.#flying += 1;
      // Conversations take turns: the one served goes to the end.
      this.#queues.delete(conv);
      this.#queues.set(conv, queue);
      return { command: item.command, frame: frameOf(item.command, age_s, after) };
    }
    return undefined;
  }

  /** @param {string} cid */
  #narrow(cid) {
    const item = this.#items.get(cid);
    if (item) this.#windows.set(item.command.conv, 1);
  }

  /**
   * It has its final answer: the command goes, and its conversation may have more on the wire again. One that was refused because it
   * names this one has nothing to wait for any more.
   * @param {string} cid @returns {Command | undefined}
   */
  finish(cid) {
    const item = this.#items.get(cid);
    if (item === undefined) return undefined;
    this.#widen(item.command.conv);
    this.#items.delete(cid);
    const queue = /** @type {Item[]} */ (this.#queues.get(item.command.conv));
    const at = queue.indexOf(item);
    queue.splice(at, 1);
    if (item.flying) this.#flying -= 1;
    const next = queue[at];
    if (next && !next.flying && next.after === cid) next.until = 0;
    if (queue.length === 0) {
      this.#queues.delete(item.command.conv);
      this.#windows.delete(item.command.conv);
    }
    return item.command;
  }

  /** @param {string} conv */
  #widen(conv) {
    const window = this.#windows.get(conv);
    if (window === undefined) return;
    if (window * 2 < NEAR) this.#windows.set(conv, window * 2);
    else this.#windows.delete(conv);
  }

  /** The last attempt may or may not have happened. @param {string} cid */
  doubt(cid) {
    const item = this.#items.get(cid);
    if (item) item.inDoubt = true;
  }

  /**
   * May an earlier attempt still have an effect, after the answer to this one?
   *
   * Why: rejections are not remembered. 1. an edit is on its way to a node that stands still, 2. the client sends it again
   * through another node, 3. it is rejected, for its conversation does not exist yet, 4. the conversation is made, 5. the first
   * attempt arrives and is applied.
   * @param {string} cid
   */
  isInDoubt(cid) {
    return this.#items.get(cid)?.inDoubt === true;
  }

  /**
   * What a final refusal says. `too_old` is no rejection: the server cannot know whether it happened. Nor is any other while an
   * earlier attempt may still arrive, but for the one that says that an entry with this cid exists.
   * @param {string} cid @param {import('./types.js').ErrorBody} error @returns {import('./types.js').Outcome}
   */
  refused(cid, error) {
    if (error.code === 'too_old') return { state: 'unknown', why: 'too_old' };
    const isClear = error.code === 'idempotency_mismatch' || !this.isInDoubt(cid);
    return isClear ? { state: 'rejected', error } : { state: 'unknown', why: `${error.code}: ${error.message}` };
  }

  /** Not now: again after a pause that grows with the attempts, and never before `wanted`. @param {string} cid @param {number} now @param {number | undefined} wanted ms @param {number} jitter in 0..1 */
  retry(cid, now, wanted, jitter) {
    this.#narrow(cid);
    this.#pause(cid, now, wanted, jitter);
  }

  /** @param {string} cid @param {number} now @param {number | undefined} wanted ms @param {number} jitter in 0..1 */
  #pause(cid, now, wanted, jitter) {
    const item = this.#items.get(cid);
    if (item === undefined) return;
    const grown = Math.min(RETRY_MS_MIN * 2 ** Math.min(Math.max(item.attempts - 1, 0), 6), RETRY_MS_MAX);
    const drawn = grown / 2 + (grown / 2) * jitter;
    // Who waits as told does not come together with everybody else who was told the same.
    const told = wanted === undefined ? 0 : Math.min(wanted, RETRY_AFTER_MS_MAX) + drawn / 4;
    this.#land(item, now + Math.max(drawn, told));
  }

  /**
   * `out_of_order`: at once if the command that it named is gone by now (it was rejected, and the answers of both crossed the
   * next attempt), else after a pause. A row of rejected commands would otherwise cost a grown pause each.
   * @param {string} cid @param {number} now @param {number} jitter
   */
  outOfOrder(cid, now, jitter) {
    const item = this.#items.get(cid);
    if (item === undefined) return;
    const gone = item.after !== undefined && !this.#items.has(item.after);
    this.#narrow(cid);
    this.#pause(cid, now, undefined, jitter);
    if (gone) item.until = now;
  }

  /** Nothing that was on the wire will be answered any more. @param {number} now */
  disconnected(now) {
    for (const item of this.#items.values()) {
      if (!item.flying) continue;
      this.#land(item, now);
      item.inDoubt = true;
    }
  }

  /** Commands whose answer is overdue go back; how many. @param {number} now */
  expire(now) {
    let expired = 0;
    for (const queue of this.#queues.values()) {
      for (const item of queue.slice(0, NEAR)) {
        if (item.flying && item.until <= now) {
          this.#land(item, now);
          item.inDoubt = true;
          expired += 1;
        }
      }
    }
    return expired;
  }

  /** Commands that are too old to be sent again without asking the person. @param {number} now @param {number} wall @returns {string[]} */
  stale(now, wall) {
    // Nothing is younger than this process knows it to be, as in `next`.
    const age = (/** @type {Item} */ { command, since }) => Math.max(wall - Math.max(command.saved_ms, command.asked_ms ?? 0), now - since);
    return [...this.#items.values()].filter(item => age(item) > limits.CLIENT_RESEND_MS).map(item => item.command.cid);
  }

  /** When something changes by itself: a pause ends or an answer is overdue. @param {number} now @returns {number} */
  wakeAt(now) {
    let at = Infinity;
    for (const queue of this.#queues.values()) {
      for (const item of queue.slice(0, NEAR)) if (item.until > now) at = Math.min(at, item.until);
    }
    return at;
  }

  /** @param {Item} item @param {number} until */
  #land(item, until) {
    if (item.flying) this.#flying -= 1;
    item.flying = false;
    item.until = until;
  }
}

/**
 * The first command that is not on the wire, if its time has come and the window has room. Those before it all are.
 * @param {Item[]} queue @param {number} now @param {number} window
 */
function sendable(queue, now, window) {
  for (let at = 0; at < queue.length && at < Math.min(window, NEAR); at++) if (!queue[at].flying) return queue[at].until <= now ? at : -1;
  return -1;
}

/** @param {Command} command @param {number | undefined} age_s @param {string | undefined} after */
function frameOf({ conv, to, cid, content }, age_s, after) {
  const { kind, target, ...rest } = content;
  const key = without({ cid, age_s, after });
  if (kind === 'edit' || kind === 'delete' || kind === 'react') return { t: kind, d: { conv, seq: target, ...key, ...rest } };
  return { t: 'send', d: { ...(to === undefined ? { conv } : { to }), ...key, kind, ...rest } };
}

/** @param {Record<string, any>} fields */
function without(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
