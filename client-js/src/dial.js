// Which node to try next, and how long to wait before.

/** Rotates over the URLs; those that the server names come first, those of the configuration are never forgotten. */
export class Urls {
  #configured;
  #all;
  #at;

  /** @param {string[]} configured @param {() => number} random */
  constructor(configured, random) {
    this.#configured = configured.map(base);
    this.#all = [...this.#configured];
    this.#at = Math.floor(random() * this.#all.length);
  }

  get all() {
    return [...this.#all];
  }

  /** @param {unknown} named */
  learn(named) {
    if (!Array.isArray(named)) return;
    const urls = named.filter(url => typeof url === 'string' && /^(https?|wss?):\/\//.test(url)).map(base);
    if (urls.length > 0) this.#all = [...new Set([...urls, ...this.#configured])];
  }

  /** The next one, another than `but` if there is another. @param {string} [but] */
  next(but) {
    for (let i = 0; i < 2; i++) {
      const url = this.#all[this.#at++ % this.#all.length];
      if (this.#all.length === 1 || url !== but) return url;
    }
    return this.#all[0];
  }
}

/** @param {string} url */
const base = url => url.replace(/\/+$/, '');

/** @param {string} url A node's base URL. @returns {string} */
export const socketUrl = url => `${url.replace(/^http/, 'ws')}/v1/ws`;

/** Full jitter under a bound that doubles with every failure. */
export class Backoff {
  #failures = 0;

  /** @param {number} minMs @param {number} maxMs @param {() => number} random */
  constructor(minMs, maxMs, random) {
    this.minMs = minMs;
    this.maxMs = maxMs;
    this.random = random;
  }

  reset() {
    this.#failures = 0;
  }

  pause() {
    const bound = Math.min(this.minMs * 2 ** Math.min(this.#failures, 16), this.maxMs);
    this.#failures += 1;
    return this.random() * bound;
  }
}
