// A device's own state as stores in memory keep it: the fold of all changes but received content.

import { ANSWERS_MAX } from '../limits.js';

/** @typedef {import('../types.js').Change} Change */
/** @typedef {import('../types.js').Command} Command */
/** @typedef {import('../types.js').Answer} Answer */
/** @typedef {import('../types.js').Saved} Saved */

/** Content that was received, as opposed to the device's own state. @param {Change} change */
export const isContent = change => change.t === 'entry' || change.t === 'gap' || change.t === 'set_aside';

export class State {
  install = '';
  /** @type {{ user: string, device: string } | null} */
  device = null;
  /** @type {string | null} */
  rev = null;
  /** @type {any} */
  tokens = null;
  lastN = 0;
  /** @type {Map<string, Command>} */
  commands = new Map();
  /** @type {Map<string, Answer>} */
  answers = new Map();
  /** @type {Map<string, import('../types.js').Position>} */
  positions = new Map();
  /** @type {Map<string, number>} */
  reads = new Map();
  /** @type {Map<string, import('../types.js').Conv>} */
  convs = new Map();

  /** @param {Change} change */
  apply(change) {
    switch (change.t) {
      case 'install': this.install = change.install; break;
      case 'device': this.device = { user: change.user, device: change.device }; break;
      case 'rev': this.rev = change.rev; break;
      case 'tokens': this.tokens = change.tokens; break;
      case 'command': {
        const { command } = change;
        this.answers.delete(command.cid);
        const n = command.n ?? this.lastN + 1;
        this.lastN = Math.max(this.lastN, n);
        this.commands.set(command.cid, { ...command, n });
        break;
      }
      case 'answered': {
        const command = this.commands.get(change.cid);
        this.commands.delete(change.cid);
        if (command) this.#remember(answerOf(change, command));
        break;
      }
      case 'position': this.positions.set(change.conv, { conv: change.conv, seq: change.seq, chain: change.chain }); break;
      case 'positions_dropped': this.positions.clear(); break;
      case 'read': this.reads.set(change.conv, Math.max(this.reads.get(change.conv) ?? 0, change.seq)); break;
      case 'conv': this.convs.set(change.conv.conv, change.conv); break;
      default: // Content.
    }
  }

  /** @param {Answer} answer */
  #remember(answer) {
    this.answers.delete(answer.cid);
    this.answers.set(answer.cid, answer);
    for (const cid of this.answers.keys()) {
      if (this.answers.size <= ANSWERS_MAX) break;
      this.answers.delete(cid);
    }
  }

  /** @returns {Saved} */
  saved() {
    return {
      install: this.install,
      device: this.device,
      rev: this.rev,
      tokens: this.tokens,
      commands: [...this.commands.values()],
      positions: new Map(this.positions),
      reads: new Map(this.reads),
      convs: new Map(this.convs),
    };
  }

  /** Changes that lead here from nothing. @returns {Change[]} */
  changes() {
    /** @type {Change[]} */
    const changes = [];
    if (this.install !== '') changes.push({ t: 'install', install: this.install });
    if (this.device) changes.push({ t: 'device', ...this.device });
    changes.push({ t: 'rev', rev: this.rev }, { t: 'tokens', tokens: this.tokens });
    for (const { cid, command, outcome, at_ms } of this.answers.values()) {
      changes.push({ t: 'command', command }, { t: 'answered', cid, outcome, at_ms });
    }
    for (const command of this.commands.values()) changes.push({ t: 'command', command });
    for (const position of this.positions.values()) changes.push({ t: 'position', ...position });
    for (const [conv, seq] of this.reads) changes.push({ t: 'read', conv, seq });
    for (const conv of this.convs.values()) changes.push({ t: 'conv', conv });
    return changes;
  }
}

/**
 * What is remembered of a command: its content only where a person may want it back.
 * @param {Extract<Change, { t: 'answered' }>} change @param {Command} command @returns {Answer}
 */
export function answerOf({ cid, outcome, at_ms }, command) {
  const kept = outcome.state === 'accepted' ? { ...command, content: { kind: command.content.kind } } : command;
  return { cid, conv: command.conv, command: kept, outcome, at_ms };
}

/**
 * The part of an ascending list that a range asks for: the newest below `before`, or the oldest above `after`.
 * @template T @param {T[]} list @param {(item: T) => number} seqOf
 * @param {{ before?: number, after?: number, limit?: number }} range @returns {T[]}
 */
export function slice(list, seqOf, { before, after, limit = 50 }) {
  const first = (/** @type {number} */ seq) => {
    let [low, high] = [0, list.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (seqOf(list[middle]) < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const end = before === undefined ? list.length : first(before);
  if (after !== undefined) {
    const from = first(after + 1);
    return list.slice(from, Math.max(from, Math.min(end, from + limit)));
  }
  return list.slice(Math.max(0, end - limit), end);
}

/**
 * Puts an item into an ascending list; an equal one is replaced.
 * @template T @param {T[]} list @param {(item: T) => number} seqOf @param {T} item
 */
export function insert(list, seqOf, item) {
  let at = list.length;
  while (at > 0 && seqOf(list[at - 1]) >= seqOf(item)) at--;
  const same = at < list.length && seqOf(list[at]) === seqOf(item);
  list.splice(at, same ? 1 : 0, item);
}
