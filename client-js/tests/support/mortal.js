// A store that dies with its owner at its n-th commit, before or after it is written.

import { never } from './life.js';

/**
 * @template T @param {T} store @param {{ dieAt: number, written: boolean, die: () => void, isAlive?: () => boolean }} fate
 * @returns {T}
 */
export function mortal(store, { dieAt, written, die, isAlive = () => true }) {
  let writes = 0;
  return new Proxy(/** @type {any} */ (store), {
    get(target, name) {
      const value = target[name];
      if (typeof value !== 'function') return value;
      if (name !== 'commit') return (/** @type {any[]} */ ...args) => (isAlive() ? value.apply(target, args) : never());
      return async (/** @type {any} */ changes) => {
        if (!isAlive()) return never();
        if (++writes !== dieAt) return target.commit(changes);
        if (written) await target.commit(changes);
        die();
        return never();
      };
    },
  });
}
