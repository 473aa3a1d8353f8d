// The part that stores which keep their own state in memory have in common: answers about it, as copies.

import { State } from './state.js';

/** @typedef {import('../types.js').Command} Command */

export class StateStore {
  /** For the subclass. */
  state = new State();

  async load() {
    return structuredClone(this.state.saved());
  }

  /** @param {string} cid */
  async command(cid) {
    return structuredClone(this.state.commands.get(cid));
  }

  async commands() {
    return structuredClone([...this.state.commands.values()]);
  }

  /** @param {number} n */
  async commandsAbove(n) {
    return (await this.commands()).filter(c => (c.n ?? 0) > n);
  }

  /** @param {string} cid */
  async answer(cid) {
    return structuredClone(this.state.answers.get(cid));
  }

  async answers() {
    return structuredClone([...this.state.answers.values()]);
  }

  async convs() {
    return structuredClone([...this.state.convs.values()]);
  }

  /** @param {string} conv */
  async position(conv) {
    return structuredClone(this.state.positions.get(conv));
  }

  async tokens() {
    return structuredClone(this.state.tokens);
  }
}
