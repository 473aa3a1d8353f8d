// A store in a directory, for Node: one append-only file of checksummed, versioned records, and a lock against a second process.
//
// File: 8 bytes magic, then records: length u32 | crc32 of the body u32 | body = version byte + JSON of a list of changes
// (bytes as {"$b": base64url}). One record is one transaction, synced before it counts; commits that wait for a sync share the
// next record. A torn last record is cut off at the next start (its commit never returned); a damaged one before the end is an error.
// What is superseded is dropped by compaction at the start; entries are kept.

import * as nodeFs from 'node:fs/promises';
import { join } from 'node:path';
import { fromBase64url, fromUtf8, toBase64url, utf8 } from '../bytes.js';
import { StateStore } from './base.js';
import { lockDirectory } from './lock.js';
import { State, insert, isContent, slice } from './state.js';

/** @typedef {import('../types.js').Store} Store */
/** @typedef {import('../types.js').Change} Change */
/** @typedef {import('../types.js').Entry} Entry */
/** Where an entry lies: the record that holds it. @typedef {{ seq: number, at: number, size: number }} Place */

const MAGIC = utf8('FLOTJSC1');
const VERSION = 1;
const HEAD_BYTES = 8;
const RECORD_BYTES_MAX = 64 * 1024 * 1024;
/** Compact at the start, once this many changes are superseded. */
const DEAD_MAX = 10_000;

const seqOf = (/** @type {Place} */ place) => place.seq;

/** @implements {Store} */
export class FileStore extends StateStore {
  shared = false;
  #fs;
  #path;
  /** @type {any} */
  #file;
  #end = 0;
  /** @type {Map<string, Place[]>} */
  #places = new Map();
  /** @type {{ changes: Change[], done: () => void, failed: (error: unknown) => void }[]} */
  #waiting = [];
  /** @type {Promise<void> | null} */
  #writing = null;
  /** @type {unknown} */
  #broken = null;
  #unlock = async () => {};

  /** @param {string} dir @param {any} fs */
  constructor(dir, fs) {
    super();
    this.#path = join(dir, 'store.log');
    this.#fs = fs;
  }

  /**
   * @param {string} dir @param {{ fs?: any, lock?: boolean }} [seams] for tests
   * @returns {Promise<FileStore>}
   */
  static async open(dir, { fs = nodeFs, lock = true } = {}) {
    await fs.mkdir(dir, { recursive: true });
    const store = new FileStore(dir, fs);
    if (lock) store.#unlock = await lockDirectory(dir);
    try {
      if ((await store.#scan()) > DEAD_MAX) await store.compact();
      await syncDirectory(fs, dir);
    } catch (error) {
      await store.close();
      throw error;
    }
    return store;
  }

  /** Reads the file; cuts a torn tail; returns how many changes are superseded. */
  async #scan() {
    this.state = new State();
    this.#places = new Map();
    this.#file = await openFile(this.#fs, this.#path);
    let size = (await this.#file.stat()).size;
    if (size < MAGIC.length || (size === MAGIC.length && (await read(this.#file, 0, size)).every(b => b === 0))) {
      // New, or a crash in its first write.
      await this.#file.truncate(0);
      await writeAll(this.#file, MAGIC, 0);
      await this.#file.sync();
      size = MAGIC.length;
    }
    if (toBase64url(await read(this.#file, 0, MAGIC.length)) !== toBase64url(MAGIC)) throw this.#damaged(0, 'not a Flotilla store');
    let at = MAGIC.length;
    let own = 0;
    for (;;) {
      const record = await this.#record(at, size);
      if (record === null) break;
      for (const change of record.changes) {
        if (!isContent(change)) own += 1;
        this.#apply(change, at, record.size);
      }
      at += record.size;
    }
    this.#end = at;
    if (size > at) {
      await this.#file.truncate(at);
      await this.#file.sync();
    }
    return own - this.state.changes().length;
  }

  /** The record at this place; null: the file ends here, or was torn here. @param {number} at @param {number} fileSize */
  async #record(at, fileSize) {
    if (fileSize - at < HEAD_BYTES) return null;
    const head = new DataView((await read(this.#file, at, HEAD_BYTES)).buffer);
    const length = head.getUint32(0, true);
    const end = at + HEAD_BYTES + length;
    if (length === 0 || length > RECORD_BYTES_MAX || end > fileSize) return this.#torn(at, fileSize, `a record of ${length} bytes`);
    const body = await read(this.#file, at + HEAD_BYTES, length);
    if (crc32(body) !== head.getUint32(4, true)) return this.#torn(at, fileSize, 'checksum');
    if (body[0] !== VERSION) throw new Error(`${this.#path} was written by a newer version (${body[0]}, known: ${VERSION})`);
    return { changes: decode(body.subarray(1)), size: HEAD_BYTES + length };
  }

  /**
   * A record is synced before the next is written: a bad one that a whole one follows was once whole, and is damage; else it was
   * torn by a crash, which may have left any part of it. JSON has no zero bytes, so no body looks like a record.
   * @param {number} at @param {number} end @param {string} why @returns {Promise<null>}
   */
  async #torn(at, end, why) {
    const rest = await read(this.#file, at, end - at);
    const view = new DataView(rest.buffer);
    for (let i = 1; i + HEAD_BYTES + 1 < rest.length; i++) {
      const size = view.getUint32(i, true);
      const from = i + HEAD_BYTES;
      if (size === 0 || from + size > rest.length || rest[from] !== VERSION || rest[from + 1] !== 0x5b) continue;
      if (crc32(rest.subarray(from, from + size)) === view.getUint32(i + 4, true)) throw this.#damaged(at, why);
    }
    return null;
  }

  /** @param {number} at @param {string} why */
  #damaged(at, why) {
    return new Error(`${this.#path} is damaged at byte ${at}: ${why}; what lies before it is whole, move the file away to start anew`);
  }

  /** @param {Change} change @param {number} at @param {number} size */
  #apply(change, at, size) {
    this.state.apply(change);
    if (change.t === 'entry') {
      const places = this.#places.get(change.entry.conv) ?? [];
      insert(places, seqOf, { seq: change.entry.seq, at, size });
      this.#places.set(change.entry.conv, places);
    } else if (change.t === 'set_aside') {
      const places = this.#places.get(change.conv) ?? [];
      this.#places.set(change.conv, places.filter(place => place.seq < change.from || place.seq > change.to));
    }
  }

  /** Rewrites the file without what is superseded: state first, then content in its order. */
  async compact() {
    await this.#writing;
    const path = `${this.#path}.tmp`;
    const fresh = await openFile(this.#fs, path);
    await fresh.truncate(0);
    await writeAll(fresh, MAGIC, 0);
    let end = MAGIC.length;
    const put = async (/** @type {Change[]} */ changes) => {
      const bytes = encode(changes);
      await writeAll(fresh, bytes, end);
      end += bytes.length;
    };
    await put(this.state.changes());
    for (let at = MAGIC.length; at < this.#end; ) {
      const record = await this.#record(at, this.#end);
      if (record === null) break;
      const content = record.changes.filter(isContent);
      if (content.length > 0) await put(content);
      at += record.size;
    }
    await fresh.sync();
    await fresh.close();
    await this.#file.close();
    await this.#fs.rename(path, this.#path);
    await syncDirectory(this.#fs, join(this.#path, '..'));
    await this.#scan();
  }

  /** @param {Change[]} changes @returns {Promise<void>} */
  commit(changes) {
    return new Promise((done, failed) => {
      this.#waiting.push({ changes, done, failed });
      if (this.#writing === null) this.#writing = this.#write();
    });
  }

  /** Never rejects: each commit has its own answer. */
  async #write() {
    // `#writing` is set before anything can end here.
    await null;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0);
      try {
        if (this.#broken) throw this.#broken;
        const changes = batch.flatMap(b => b.changes);
        const bytes = encode(changes);
        const at = this.#end;
        await writeAll(this.#file, bytes, at);
        await this.#file.datasync();
        this.#end += bytes.length;
        // As they will be read.
        for (const change of decode(bytes.subarray(HEAD_BYTES + 1))) this.#apply(change, at, bytes.length);
        for (const { done } of batch) done();
      } catch (error) {
        // After a failed write or sync nothing that this file says can be trusted.
        this.#broken ??= error;
        for (const { failed } of batch) failed(error);
      }
    }
    // In the same step as the look at what waits: a commit that comes after it starts anew.
    this.#writing = null;
  }

  /** @param {string} conv @param {{ before?: number, after?: number, limit?: number }} [range] @returns {Promise<Entry[]>} */
  async entries(conv, range = {}) {
    const entries = [];
    /** @type {{ at: number, changes: Change[] }} */
    let last = { at: -1, changes: [] };
    for (const { seq, at, size } of slice(this.#places.get(conv) ?? [], seqOf, range)) {
      if (last.at !== at) last = { at, changes: (await this.#record(at, at + size))?.changes ?? [] };
      // The last one of a record counts.
      const change = last.changes.findLast(c => c.t === 'entry' && c.entry.conv === conv && c.entry.seq === seq);
      if (change?.t === 'entry') entries.push(change.entry);
    }
    return entries;
  }

  async close() {
    await this.#writing;
    this.#broken ??= new Error('the store is closed');
    await this.#file?.close();
    await this.#unlock();
  }
}

/** @param {any} fs @param {string} path */
async function openFile(fs, path) {
  try {
    return await fs.open(path, 'r+');
  } catch (error) {
    if (/** @type {any} */ (error).code !== 'ENOENT') throw error;
    return fs.open(path, 'w+');
  }
}

/** @param {any} fs @param {string} dir */
async function syncDirectory(fs, dir) {
  let handle;
  try {
    handle = await fs.open(dir, 'r');
    await handle.sync();
  } catch (error) {
    // Where directories cannot be synced (Windows), they need not be.
    if (!['EISDIR', 'EPERM', 'EINVAL'].includes(/** @type {any} */ (error).code)) throw error;
  } finally {
    await handle?.close();
  }
}

/** @param {any} file @param {number} at @param {number} size @returns {Promise<Uint8Array>} */
async function read(file, at, size) {
  const bytes = new Uint8Array(size);
  for (let got = 0; got < size; ) {
    const { bytesRead } = await file.read(bytes, got, size - got, at + got);
    if (bytesRead === 0) throw new Error(`the file ends before byte ${at + size}`);
    got += bytesRead;
  }
  return bytes;
}

/** @param {any} file @param {Uint8Array} bytes @param {number} at */
async function writeAll(file, bytes, at) {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done, at + done);
    done += bytesWritten;
  }
}

/** @param {Change[]} changes @returns {Uint8Array} One record. */
function encode(changes) {
  const text = JSON.stringify(changes, (_, value) => (value instanceof Uint8Array ? { $b: toBase64url(value) } : value));
  const json = utf8(text);
  const record = new Uint8Array(HEAD_BYTES + 1 + json.length);
  record[HEAD_BYTES] = VERSION;
  record.set(json, HEAD_BYTES + 1);
  const head = new DataView(record.buffer);
  head.setUint32(0, json.length + 1, true);
  head.setUint32(4, crc32(record.subarray(HEAD_BYTES)), true);
  return record;
}

/** @param {Uint8Array} json @returns {Change[]} */
const decode = json => JSON.parse(fromUtf8(json), (_, value) => (typeof value?.$b === 'string' ? fromBase64url(value.$b) : value));

const CRC = Uint32Array.from({ length: 256 }, (_, n) => {
  for (let bit = 0; bit < 8; bit++) n = n & 1 ? (n >>> 1) ^ 0xedb88320 : n >>> 1;
  return n;
});

/** @param {Uint8Array} bytes */
function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = CRC[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}
