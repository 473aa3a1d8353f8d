// The counters "lost" and "doubled", computed by the page itself from what it was given: seqs without holes, each once, and every
// accepted message at the seq that was promised. Pure.

/** Cids that are remembered per page. */
const CIDS_MAX = 100_000;

export class Audit {
  /** The next seq by conversation. @type {Map<string, number>} */
  #next = new Map();
  /** (conversation, sender, cid) to its seq. @type {Map<string, number>} */
  #seqs = new Map();
  /** (conversation, seq) to its cid, for both directions. @type {Map<string, string>} */
  #cids = new Map();
  /** Accepted, and not delivered yet: (conversation, seq) to cid. @type {Map<string, string>} */
  #promised = new Map();
  accepted = 0;
  delivered = 0;
  lost = 0;
  doubled = 0;

  /** Reported as new. @param {{ conv: string, seq: number, cid: string, from: string }} entry */
  onEntry(entry) {
    const { conv, seq } = entry;
    const next = this.#next.get(conv) ?? seq;
    this.delivered += 1;
    if (seq > next) this.lost += seq - next;
    if (seq < next) this.doubled += 1;
    else this.#next.set(conv, seq + 1);
    this.onSeen(entry);
    const place = `${conv} ${seq}`;
    const promised = this.#promised.get(place);
    this.#promised.delete(place);
    if (promised !== undefined && promised !== entry.cid) this.lost += 1;
  }

  /** Read from the store or from a page of history. @param {{ conv: string, seq: number, cid: string, from: string }} entry */
  onSeen({ conv, seq, cid, from }) {
    if (this.#seqs.size >= CIDS_MAX) {
      this.#seqs.clear();
      this.#cids.clear();
    }
    const key = `${conv} ${from} ${cid}`;
    const known = this.#seqs.get(key);
    if (known !== undefined && known !== seq) this.doubled += 1;
    this.#seqs.set(key, seq);
    this.#cids.set(`${conv} ${seq}`, cid);
  }

  /** What will not come, and was said so. @param {{ conv: string, to: number }} gap */
  onGap({ conv, to }) {
    this.#next.set(conv, Math.max(this.#next.get(conv) ?? 0, to + 1));
  }

  /** @param {string} cid @param {{ conv: string, seq: number }} accepted */
  onAccepted(cid, { conv, seq }) {
    this.accepted += 1;
    const place = `${conv} ${seq}`;
    const there = this.#cids.get(place);
    if (there !== undefined) {
      if (there !== cid) this.lost += 1;
    } else if (seq < (this.#next.get(conv) ?? 0)) {
      // Passed without having been there.
      this.lost += 1;
    } else {
      this.#promised.set(place, cid);
    }
  }

  /** Accepted, and still on their way to this device. */
  get waiting() {
    return this.#promised.size;
  }
}
