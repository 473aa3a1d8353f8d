// Read marks: what the person has read, until the server says that it knows. Pure.

/** @typedef {import('./types.js').Conv} Conv */

export class Reads {
  #marks;
  /** Marks that no `conv` has confirmed. @type {Set<string>} */
  #open = new Set();
  /** To be said on this connection. @type {Set<string>} */
  #due = new Set();
  /** How far entries have come on this connection. @type {Map<string, number>} */
  #came = new Map();

  /** @param {Map<string, number>} marks @param {Map<string, Conv>} convs as the store has them */
  constructor(marks, convs) {
    this.#marks = marks;
    for (const [conv, seq] of marks) if ((convs.get(conv)?.read ?? 0) < seq) this.#open.add(conv);
  }

  /** False: nothing new. @param {string} conv @param {number} seq */
  mark(conv, seq) {
    if ((this.#marks.get(conv) ?? 0) >= seq) return false;
    this.#marks.set(conv, seq);
    this.#open.add(conv);
    this.#due.add(conv);
    return true;
  }

  /** @param {Conv} state @param {boolean} isCaughtUp before that, everything open is said at `caught_up` */
  onConv({ conv, read }, isCaughtUp) {
    const mark = this.#marks.get(conv);
    if (mark === undefined) return;
    if (read >= mark) return void this.#open.delete(conv);
    this.#open.add(conv);
    if (isCaughtUp) this.#due.add(conv);
  }

  /**
   * A page of history may show what has not been delivered yet, and a server takes no mark above what it has delivered: one that was
   * said too early is said again when the entries are there.
   * @param {string} conv @param {number} seq @param {boolean} isCaughtUp as with `onConv`
   */
  onStored(conv, seq, isCaughtUp) {
    const before = this.#came.get(conv) ?? 0;
    this.#came.set(conv, Math.max(before, seq));
    const mark = this.#marks.get(conv);
    if (mark !== undefined && isCaughtUp && before < mark && mark <= seq && this.#open.has(conv)) this.#due.add(conv);
  }

  onCaughtUp() {
    for (const conv of this.#open) this.#due.add(conv);
  }

  disconnected() {
    this.#due.clear();
    this.#came.clear();
  }

  /** @returns {{ conv: string, seq: number } | undefined} */
  next() {
    for (const conv of this.#due) {
      this.#due.delete(conv);
      return { conv, seq: /** @type {number} */ (this.#marks.get(conv)) };
    }
    return undefined;
  }
}
