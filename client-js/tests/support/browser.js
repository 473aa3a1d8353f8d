// Web Locks and a BroadcastChannel as tabs of one browser share them.

export class FakeLocks {
  /** @type {{ run: () => Promise<any>, tab: object }[]} */
  #queue = [];
  #held = /** @type {any} */ (null);

  /** The view of one tab. @param {object} tab */
  of(tab) {
    return {
      request: (/** @type {string} */ _name, /** @type {any} */ { signal }, /** @type {() => Promise<any>} */ run) =>
        new Promise((done, failed) => {
          const item = { tab, run: async () => done(await run()) };
          this.#queue.push(item);
          signal.addEventListener('abort', () => {
            const at = this.#queue.indexOf(item);
            if (at >= 0) this.#queue.splice(at, 1);
            failed(signal.reason);
          });
          queueMicrotask(() => this.#next());
        }),
    };
  }

  /** The browser takes back what a dead tab held. @param {object} tab */
  died(tab) {
    this.#queue = this.#queue.filter(item => item.tab !== tab);
    if (this.#held?.tab !== tab) return;
    this.#held = null;
    this.#next();
  }

  #next() {
    if (this.#held) return;
    const item = this.#queue.shift();
    if (!item) return;
    this.#held = item;
    item.run().then(() => {
      if (this.#held !== item) return;
      this.#held = null;
      this.#next();
    });
  }
}

export class FakeBus {
  /** @type {Set<any>} */
  #ports = new Set();

  port() {
    const ports = this.#ports;
    const port = {
      onmessage: /** @type {any} */ (null),
      isDead: false,
      postMessage(/** @type {any} */ data) {
        if (port.isDead) return;
        const copy = structuredClone(data);
        for (const other of ports) if (other !== port) queueMicrotask(() => other.isDead || other.onmessage?.({ data: copy }));
      },
      close() {
        ports.delete(port);
      },
    };
    ports.add(port);
    return port;
  }
}
