// Tabs of one device: one of them leads, by a lock that the browser takes back when the tab is gone; a channel carries what the
// others need to know. Without locks there is one tab, which leads.

/** @typedef {{ postMessage: (data: any) => void, onmessage: ((event: any) => void) | null, close: () => void }} Channel */
/** @typedef {{ request: (name: string, options: any, run: () => Promise<any>) => Promise<any> }} Locks */

export class Tabs {
  #channel;
  #locks;
  #name;
  #abort = new AbortController();
  #release = () => {};

  /** @param {{ name: string, locks?: Locks, channel?: Channel, onMessage: (message: any) => void }} options */
  constructor({ name, locks, channel, onMessage }) {
    this.#name = name;
    this.#locks = locks;
    this.#channel = channel;
    if (channel) channel.onmessage = event => onMessage(event.data);
  }

  /** To all other tabs. @param {any} message */
  post(message) {
    this.#channel?.postMessage(message);
  }

  /** Leads as soon as nobody else does, until `close`. @param {() => void} lead */
  campaign(lead) {
    if (!this.#locks) return lead();
    const held = () =>
      new Promise(release => {
        this.#release = () => release(undefined);
        if (this.#abort.signal.aborted) this.#release();
        else lead();
      });
    this.#locks.request(this.#name, { signal: this.#abort.signal }, held).catch(error => {
      if (!this.#abort.signal.aborted) throw error;
    });
  }

  /** Leads no more, and does not try again. */
  resign() {
    this.#release();
  }

  close() {
    this.#abort.abort();
    this.#release();
    this.#channel?.close();
  }
}
