// Frames `{t, id?, d}` in both subprotocols, checked against the golden files of the Rust types.
//
// In memory a frame looks like its JSON form, with bodies as Uint8Array: ids and hashes are text, 64-bit ids are text of
// digits. JSON writes bodies as base64url; MessagePack writes ids, hashes and bodies as bytes and 64-bit ids as integers.

import { fromBase64url, fromUtf8, toBase64url, uuidBytes, uuidText } from './bytes.js';
import { FRAMES_PER_MESSAGE_MAX, MESSAGE_BYTES_MAX } from './limits.js';
import { pack, unpackAll } from './msgpack.js';

/** @typedef {'json' | 'msgpack'} Encoding */
/** @typedef {{ t: string, id?: number, d: any }} Frame */
/** @typedef {'uuid' | 'hash' | 'u64' | 'bytes'} Form */

/** @type {Record<Encoding, string>} */
export const SUBPROTOCOLS = { json: 'flotilla.v1.json', msgpack: 'flotilla.v1.msgpack' };

/** @type {Record<string, Form>} */
const COMMAND = { cid: 'uuid', after: 'uuid', body: 'bytes' };
/** @type {Record<string, Form>} */
const ENTRY = { msg_id: 'u64', device: 'uuid', cid: 'uuid', body_hash: 'hash', chain: 'hash', body: 'bytes' };
/** Fields whose form differs between memory and wire. @type {Record<string, Record<string, Form>>} */
const FORMS = {
  hello: { device: 'uuid', instance: 'uuid' },
  send: COMMAND, edit: COMMAND, delete: COMMAND, react: COMMAND,
  call: { key: 'uuid' },
  ready: { session: 'u64', device: 'uuid' },
  accepted: { msg_id: 'u64', chain: 'hash' },
  entry: ENTRY,
  gap: { chain_before: 'hash' },
};
/** What a frame must have to be one. @type {Record<string, Record<string, string>>} */
const NEEDED = {
  ready: { session: 'string', user: 'string', device: 'string', rev: 'string' },
  accepted: { conv: 'string', seq: 'seq', msg_id: 'string', ts: 'number', chain: 'string' },
  error: { code: 'string' },
  entry: {
    conv: 'string', seq: 'seq', n: 'number', msg_id: 'string', ts: 'number', from: 'string', device: 'string', cid: 'string',
    kind: 'string', body_hash: 'string', chain: 'string',
  },
  gap: { conv: 'string', from: 'seq', to: 'seq', reason: 'string' },
  conv: { rev: 'string', conv: 'string', kind: 'string', head: 'number', read: 'number', unread: 'number' },
  caught_up: { rev: 'string' },
  signal: { k: 'string' },
};

/** @type {Record<Encoding, Record<Form, [(v: any) => any, (v: any) => any]>>} to the wire, from the wire */
const CONVERT = {
  json: {
    uuid: [same, same],
    hash: [same, same],
    u64: [same, same],
    bytes: [toBase64url, fromBase64url],
  },
  msgpack: {
    uuid: [uuidBytes, v => (typeof v === 'string' ? v : uuidText(v))],
    hash: [fromBase64url, v => (typeof v === 'string' ? v : toBase64url(v))],
    u64: [v => BigInt(v), v => String(v)],
    bytes: [same, v => (typeof v === 'string' ? fromBase64url(v) : v)],
  },
};

/** @param {any} v */
function same(v) {
  return v;
}

/** @param {any} d @param {Record<string, Form> | undefined} forms @param {Encoding} encoding @param {0 | 1} way */
function convert(d, forms, encoding, way) {
  if (forms === undefined || typeof d !== 'object' || d === null) return d;
  const out = { ...d };
  for (const [name, form] of Object.entries(forms)) {
    if (out[name] !== undefined && out[name] !== null) out[name] = CONVERT[encoding][form][way](out[name]);
  }
  return out;
}

/** @param {string} t @param {any} d @param {Encoding} encoding @param {0 | 1} way */
function convertFrame(t, d, encoding, way) {
  if (t !== 'reply') return convert(d, FORMS[t], encoding, way);
  // A page of history; other replies are plain values in both encodings.
  if (!Array.isArray(d?.entries)) return d;
  return { ...d, entries: d.entries.map((/** @type {any} */ e) => convert(e, ENTRY, encoding, way)) };
}

/** An entry as JSON holds it, and back: for stores that write text. @param {any} entry */
export const entryToJson = entry => convert(entry, ENTRY, 'json', 0);
/** @param {any} entry */
export const entryFromJson = entry => convert(entry, ENTRY, 'json', 1);

/** @param {Encoding} encoding @param {Frame} frame @returns {string | Uint8Array} One frame; see `join`. */
export function encode(encoding, { t, id, d }) {
  const envelope = id === undefined ? { t, d: convertFrame(t, d, encoding, 0) } : { t, id, d: convertFrame(t, d, encoding, 0) };
  return encoding === 'json' ? JSON.stringify(envelope) : pack(envelope);
}

/** Several encoded frames as one message. @param {Encoding} encoding @param {(string | Uint8Array)[]} frames */
export function join(encoding, frames) {
  if (encoding === 'json') return frames.join('\n');
  const parts = /** @type {Uint8Array[]} */ (frames);
  const all = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/**
 * The frames of one message. Unknown types come out as they are; a frame of a known type that lacks what it must have throws.
 * @param {Encoding} encoding @param {string | Uint8Array} message @returns {Frame[]}
 */
export function decode(encoding, message) {
  if (message.length > MESSAGE_BYTES_MAX) throw new TypeError(`a message of ${message.length} bytes`);
  const raw = encoding === 'json' ? lines(message) : unpackAll(asBytes(message));
  if (raw.length === 0 || raw.length > FRAMES_PER_MESSAGE_MAX) throw new TypeError(`a message of ${raw.length} frames`);
  return raw.map(frame => {
    if (typeof frame?.t !== 'string') throw new TypeError('a frame without type');
    const d = convertFrame(frame.t, frame.d, encoding, 1);
    check(frame.t, d);
    return frame.id === undefined || frame.id === null ? { t: frame.t, d } : { t: frame.t, id: frame.id, d };
  });
}

/** @param {string | Uint8Array} message */
function lines(message) {
  const text = typeof message === 'string' ? message : fromUtf8(message);
  return text.split('\n').filter(line => line.trim() !== '').map(line => JSON.parse(line));
}

/** @param {string | Uint8Array} message */
function asBytes(message) {
  if (typeof message === 'string') throw new TypeError('text where bytes are spoken');
  return message;
}

/** @param {string} t @param {any} d */
function check(t, d) {
  if (t === 'reply' && Array.isArray(d?.entries)) {
    // An answer to `call` may use these names as it likes; a page of history is checked where it is used.
    return;
  }
  const needed = Object.hasOwn(NEEDED, t) ? NEEDED[t] : undefined;
  if (needed === undefined) return;
  for (const [name, type] of Object.entries(needed)) {
    const value = d?.[name];
    const fits = type === 'seq' ? Number.isSafeInteger(value) && value >= 0 : typeof value === type;
    if (!fits) throw new TypeError(`${t} without ${name}`);
  }
}

/** Is this an entry that can be trusted to have its fields? @param {any} entry */
export function isEntry(entry) {
  try {
    check('entry', entry);
    return true;
  } catch {
    return false;
  }
}
