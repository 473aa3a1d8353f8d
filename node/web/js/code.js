// Logging in by a one-time code: where it goes, that it is under way, when another may be asked for. Knows no screen and no node.

/** @typedef {{ ask: (address: string) => Promise<{ again_in_ms: number }>, enter: (address: string, code: string) => Promise<any>, now?: () => number }} Ways */

/** A phone number with its country, or an e-mail address, as a server will take it; null: neither. @param {string} text */
export function addressOf(text) {
  const typed = text.trim();
  if (typed.includes('@')) return /^[^\s@]+@[^\s@]+\.[^\s@]+$/.test(typed) ? typed.toLowerCase() : null;
  const number = typed.replace(/[\s().\/-]/g, '');
  return /^\+[1-9]\d{6,14}$/.test(number) ? number : null;
}

/** Six digits, however they were typed; null: not a code. @param {string} text */
export function codeOf(text) {
  const digits = text.replace(/[\s-]/g, '');
  return /^\d{6}$/.test(digits) ? digits : null;
}

export class CodeLogin {
  #ways;
  #now;
  /** Where a code is under way to. @type {string | null} */
  address = null;
  #again = 0;

  /** @param {Ways} ways */
  constructor(ways) {
    this.#ways = ways;
    this.#now = ways.now ?? (() => Date.now());
  }

  /** Until another code may be asked for; 0: now. */
  get waitMs() {
    return Math.max(0, this.#again - this.#now());
  }

  /** Asks for a code. Returns what is wrong with what was typed; null: it is under way. @param {string} text @returns {Promise<string | null>} */
  async ask(text) {
    const address = addressOf(text);
    if (address === null) return 'Enter an e-mail address, or a phone number with its country, like +49 30 123456.';
    try {
      const { again_in_ms } = await this.#ways.ask(address);
      this.#again = this.#now() + again_in_ms;
    } catch (error) {
      const { code, retry_after_ms } = /** @type {any} */ (error);
      if (code !== 'too_many_requests') throw error;
      this.#again = this.#now() + (retry_after_ms ?? 30_000);
      // The one that was sent before, perhaps before this page was loaded, may still be good.
      this.address = address;
      return `A code was sent not long ago. Enter it, or ask for another ${inWords(this.waitMs)}.`;
    }
    this.address = address;
    return null;
  }

  /** @param {string} text @returns {Promise<{ wrong: string } | { client: any }>} */
  async enter(text) {
    if (this.address === null) return { wrong: 'Ask for a code first.' };
    const code = codeOf(text);
    if (code === null) return { wrong: 'A code has six digits.' };
    try {
      return { client: await this.#ways.enter(this.address, code) };
    } catch (error) {
      if (/** @type {any} */ (error).code !== 'unauthenticated') throw error;
      return { wrong: 'The code is wrong or has expired. After five tries a new one is needed.' };
    }
  }

  /** Another address. */
  back() {
    this.address = null;
  }
}

/** @param {number} ms */
export const inWords = ms => (ms < 1_000 ? 'now' : ms < 100_000 ? `in ${Math.ceil(ms / 1_000)} s` : ms < 7_200_000 ? `in ${Math.ceil(ms / 60_000)} minutes` : `in ${Math.ceil(ms / 3_600_000)} hours`);
