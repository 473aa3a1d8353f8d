// A disk in memory for the file store: what was synced stays, a crash leaves any part of the rest. As much of `node:fs/promises`
// as the store uses.

export class Crash extends Error {}

/** @typedef {{ durable: Uint8Array, data: Uint8Array }} File */

export class Disk {
  /** Names as the last sync of the directory left them, and now. @type {Map<string, File>} */
  #durableNames = new Map();
  /** @type {Map<string, File>} */
  #names = new Map();
  /** Operations that change something, until the crash. */
  crashAfter = Infinity;
  operations = 0;

  /** @param {() => number} random */
  constructor(random) {
    this.random = random;
  }

  #step() {
    if (++this.operations > this.crashAfter) throw new Crash('power is gone');
  }

  /** What is found after the power is back: of unsynced writes any prefix, with holes; of unsynced renames either side. */
  crash() {
    const after = new Disk(this.random);
    const names = this.random() < 0.5 ? this.#names : this.#durableNames;
    for (const [name, file] of names) after.#put(name, this.#torn(file));
    return after;
  }

  /** @param {File} file */
  #torn({ durable, data }) {
    const length = durable.length + Math.floor(this.random() * (Math.max(data.length - durable.length, 0) + 1));
    const out = new Uint8Array(length);
    out.set(data.subarray(0, length));
    out.set(durable.subarray(0, length));
    // Blocks of the unsynced part may be missing.
    for (let at = durable.length; at < length; at += 16) if (this.random() < 0.2) out.fill(0, at, at + 16);
    return out;
  }

  /** @param {string} name @param {Uint8Array} bytes */
  #put(name, bytes) {
    const file = { durable: bytes.slice(), data: bytes.slice() };
    this.#names.set(name, file);
    this.#durableNames.set(name, file);
  }

  async mkdir() {}

  /** @param {string} from @param {string} to */
  async rename(from, to) {
    this.#step();
    this.#names.set(to, /** @type {File} */ (this.#names.get(from)));
    this.#names.delete(from);
  }

  /** @param {string} name @param {string} flags */
  async open(name, flags) {
    const disk = this;
    if (flags === 'r') {
      return {
        async sync() {
          disk.#step();
          disk.#durableNames = new Map(disk.#names);
        },
        async close() {},
      };
    }
    if (flags === 'r+' && !this.#names.has(name)) throw Object.assign(new Error(name), { code: 'ENOENT' });
    if (flags === 'w+') {
      this.#step();
      this.#names.set(name, { durable: new Uint8Array(), data: new Uint8Array() });
    }
    const file = /** @type {File} */ (this.#names.get(name));
    const sync = async () => {
      this.#step();
      file.durable = file.data.slice();
      // The name of a synced new file may still be lost with its directory.
    };
    return {
      sync,
      datasync: sync,
      async close() {},
      async stat() {
        return { size: file.data.length };
      },
      /** @param {number} size */
      async truncate(size) {
        disk.#step();
        file.data = file.data.slice(0, size);
        file.durable = file.durable.slice(0, size);
      },
      /** @param {Uint8Array} into @param {number} offset @param {number} length @param {number} at */
      async read(into, offset, length, at) {
        const part = file.data.subarray(at, at + length);
        into.set(part, offset);
        return { bytesRead: part.length };
      },
      /** @param {Uint8Array} from @param {number} offset @param {number} length @param {number} at */
      async write(from, offset, length, at) {
        // Short writes happen.
        const size = length > 1 && disk.random() < 0.2 ? Math.ceil(length / 2) : length;
        const grown = new Uint8Array(Math.max(file.data.length, at + size));
        grown.set(file.data);
        grown.set(from.subarray(offset, offset + size), at);
        file.data = grown;
        disk.#step();
        return { bytesWritten: size };
      },
    };
  }
}
