// MessagePack, as much of it as the protocol uses: nil, booleans, integers, floats, text, bytes, arrays, maps with text keys.
// Integers above 2^53 are BigInt; BigInt is written as an integer. No input makes the decoder read past its end.

import { fromUtf8, utf8 } from './bytes.js';

const DEPTH_MAX = 64;

/** @param {unknown} value @returns {Uint8Array} */
export function pack(value) {
  const out = new Out();
  put(out, value);
  return out.bytes();
}

class Out {
  #buffer = new Uint8Array(256);
  #view = new DataView(this.#buffer.buffer);
  #at = 0;

  bytes() {
    return this.#buffer.slice(0, this.#at);
  }

  /** Before the buffer is named: it may be another one after. @param {number} size */
  #room(size) {
    if (this.#at + size > this.#buffer.length) {
      const grown = new Uint8Array(Math.max(this.#buffer.length * 2, this.#at + size));
      grown.set(this.#buffer);
      this.#buffer = grown;
      this.#view = new DataView(grown.buffer);
    }
    const at = this.#at;
    this.#at += size;
    return at;
  }

  /** @param {number} value */
  u8(value) {
    const at = this.#room(1);
    this.#view.setUint8(at, value);
  }
  /** @param {number} value */
  u16(value) {
    const at = this.#room(2);
    this.#view.setUint16(at, value);
  }
  /** @param {number} value */
  u32(value) {
    const at = this.#room(4);
    this.#view.setUint32(at, value);
  }
  /** @param {bigint} value */
  i64(value) {
    const at = this.#room(8);
    this.#view.setBigInt64(at, value);
  }
  /** @param {number} value */
  f64(value) {
    const at = this.#room(8);
    this.#view.setFloat64(at, value);
  }
  /** @param {Uint8Array} value */
  raw(value) {
    const at = this.#room(value.length);
    this.#buffer.set(value, at);
  }

  /** A length behind the smallest of its markers; -1: there is none of that size. @param {number} n @param {number[]} markers */
  length(n, [fix, fixMax, m8, m16, m32]) {
    if (n <= fixMax) this.u8(fix | n);
    else if (m8 >= 0 && n < 0x100) (this.u8(m8), this.u8(n));
    else if (n < 0x10000) (this.u8(m16), this.u16(n));
    else (this.u8(m32), this.u32(n));
  }
}

/** @param {Out} out @param {any} value */
function put(out, value) {
  if (value === null || value === undefined) out.u8(0xc0);
  else if (typeof value === 'boolean') out.u8(value ? 0xc3 : 0xc2);
  else if (typeof value === 'bigint' || Number.isSafeInteger(value)) int(out, value);
  else if (typeof value === 'number') (out.u8(0xcb), out.f64(value));
  else if (typeof value === 'string') {
    const bytes = utf8(value);
    out.length(bytes.length, [0xa0, 31, 0xd9, 0xda, 0xdb]);
    out.raw(bytes);
  } else if (value instanceof Uint8Array) {
    out.length(value.length, [0, -1, 0xc4, 0xc5, 0xc6]);
    out.raw(value);
  } else if (Array.isArray(value)) {
    out.length(value.length, [0x90, 15, -1, 0xdc, 0xdd]);
    for (const item of value) put(out, item);
  } else {
    const entries = Object.entries(value).filter(([, v]) => v !== undefined);
    out.length(entries.length, [0x80, 15, -1, 0xde, 0xdf]);
    for (const [key, item] of entries) (put(out, key), put(out, item));
  }
}

/** @param {Out} out @param {number | bigint} n */
function int(out, n) {
  if (n >= 0) {
    if (n < 0x80) out.u8(Number(n));
    else if (n < 0x100) (out.u8(0xcc), out.u8(Number(n)));
    else if (n < 0x10000) (out.u8(0xcd), out.u16(Number(n)));
    else if (n < 0x100000000) (out.u8(0xce), out.u32(Number(n)));
    else (out.u8(0xcf), out.i64(BigInt.asIntN(64, BigInt(n))));
  } else if (n >= -32) out.u8(Number(n) & 0xff);
  else if (n >= -0x80) (out.u8(0xd0), out.u8(Number(n) & 0xff));
  else if (n >= -0x8000) (out.u8(0xd1), out.u16(Number(n) & 0xffff));
  else if (n >= -0x80000000) (out.u8(0xd2), out.u32(Number(n) >>> 0));
  else (out.u8(0xd3), out.i64(BigInt(n)));
}

/** All values of a message, one behind the other. @param {Uint8Array} bytes @returns {any[]} */
export function unpackAll(bytes) {
  const input = new In(bytes);
  const values = [];
  while (input.at < bytes.length) values.push(input.value(0));
  return values;
}

class In {
  at = 0;
  #bytes;
  #view;

  /** @param {Uint8Array} bytes */
  constructor(bytes) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  /** @param {number} size */
  #take(size) {
    const at = this.at;
    if (at + size > this.#bytes.length) throw new TypeError('MessagePack ends in the middle of a value');
    this.at += size;
    return at;
  }

  /** @param {number} size A length or an unsigned integer of this many bytes. */
  #uint(size) {
    const at = this.#take(size);
    return size === 1 ? this.#view.getUint8(at) : size === 2 ? this.#view.getUint16(at) : this.#view.getUint32(at);
  }

  /** @param {bigint} n */
  #big(n) {
    return n <= BigInt(Number.MAX_SAFE_INTEGER) && n >= BigInt(Number.MIN_SAFE_INTEGER) ? Number(n) : n;
  }

  /** @param {number} size */
  #text(size) {
    const at = this.#take(size);
    return fromUtf8(this.#bytes.subarray(at, at + size));
  }

  /** @param {number} size */
  #bin(size) {
    const at = this.#take(size);
    return this.#bytes.slice(at, at + size);
  }

  /** @param {number} size @param {number} depth */
  #array(size, depth) {
    const out = [];
    for (let i = 0; i < size; i++) out.push(this.value(depth + 1));
    return out;
  }

  /** @param {number} size @param {number} depth */
  #map(size, depth) {
    /** @type {Record<string, any>} */
    const out = {};
    for (let i = 0; i < size; i++) {
      const key = this.value(depth + 1);
      const value = this.value(depth + 1);
      if (typeof key !== 'string') throw new TypeError('a key that is no text');
      if (key !== '__proto__') out[key] = value;
    }
    return out;
  }

  /** @param {number} depth @returns {any} */
  value(depth) {
    if (depth > DEPTH_MAX) throw new TypeError('MessagePack is nested too deep');
    const m = this.#uint(1);
    if (m < 0x80) return m;
    if (m < 0x90) return this.#map(m & 15, depth);
    if (m < 0xa0) return this.#array(m & 15, depth);
    if (m < 0xc0) return this.#text(m & 31);
    if (m >= 0xe0) return m - 256;
    switch (m) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return this.#bin(this.#uint(1));
      case 0xc5: return this.#bin(this.#uint(2));
      case 0xc6: return this.#bin(this.#uint(4));
      case 0xca: return this.#view.getFloat32(this.#take(4));
      case 0xcb: return this.#view.getFloat64(this.#take(8));
      case 0xcc: return this.#uint(1);
      case 0xcd: return this.#uint(2);
      case 0xce: return this.#uint(4);
      case 0xcf: return this.#big(this.#view.getBigUint64(this.#take(8)));
      case 0xd0: return this.#view.getInt8(this.#take(1));
      case 0xd1: return this.#view.getInt16(this.#take(2));
      case 0xd2: return this.#view.getInt32(this.#take(4));
      case 0xd3: return this.#big(this.#view.getBigInt64(this.#take(8)));
      case 0xd9: return this.#text(this.#uint(1));
      case 0xda: return this.#text(this.#uint(2));
      case 0xdb: return this.#text(this.#uint(4));
      case 0xdc: return this.#array(this.#uint(2), depth);
      case 0xdd: return this.#array(this.#uint(4), depth);
      case 0xde: return this.#map(this.#uint(2), depth);
      case 0xdf: return this.#map(this.#uint(4), depth);
      default: throw new TypeError(`MessagePack marker ${m} is not used by the protocol`);
    }
  }
}
