// Time that stands still until told: timers run in their order, and between two of them everything that was started comes to rest.

export class FakeClock {
  #now = 0;
  #last = 0;
  /** @type {Map<number, { at: number, run: () => void }>} */
  #timers = new Map();
  wallOffset = 1_790_000_000_000;

  now = () => this.#now;
  wall = () => Math.floor(this.wallOffset + this.#now);
  set = (/** @type {() => void} */ run, /** @type {number} */ ms) => {
    this.#timers.set(++this.#last, { at: this.#now + Math.max(0, ms), run });
    return this.#last;
  };
  clear = (/** @type {number} */ timer) => void this.#timers.delete(timer);

  /** @param {number} ms */
  async advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      await settled();
      let [next, timer] = [/** @type {any} */ (null), 0];
      for (const [id, t] of this.#timers) if (t.at <= end && (next === null || t.at < next.at)) [next, timer] = [t, id];
      if (next === null) break;
      this.#timers.delete(timer);
      this.#now = Math.max(this.#now, next.at);
      next.run();
    }
    this.#now = end;
    await settled();
  }

  /** Until a condition holds, at most this long. @param {() => boolean} holds @param {string} what @param {number} [ms] */
  async until(holds, what, ms = 60_000) {
    for (let spent = 0; !holds(); spent += 10) {
      if (spent > ms) throw new Error(`not within ${ms} ms: ${what}`);
      await this.advance(10);
    }
  }
}

/** Every promise that can go on has gone on. */
export async function settled() {
  for (let i = 0; i < 4; i++) await new Promise(done => setImmediate(done));
}
