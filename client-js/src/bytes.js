// Bytes as text: base64url without padding, UUIDs, UTF-8; ids made and checked.

import { CONV_ID_BYTES_MAX, USER_ID_BYTES_MAX } from './limits.js';

const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
const VALUES = new Uint8Array(128).fill(255);
for (let i = 0; i < 64; i++) VALUES[ALPHABET.charCodeAt(i)] = i;

const ENCODER = new TextEncoder();
const DECODER = new TextDecoder();

/** @param {string} text @returns {Uint8Array} */
export const utf8 = text => ENCODER.encode(text);

/** @param {Uint8Array} bytes @returns {string} */
export const fromUtf8 = bytes => DECODER.decode(bytes);

/** @param {Uint8Array} bytes @returns {string} */
export function toBase64url(bytes) {
  let out = '';
  for (let i = 0; i < bytes.length; i += 3) {
    const [a, b, c] = [bytes[i], bytes[i + 1] ?? 0, bytes[i + 2] ?? 0];
    out += ALPHABET[a >> 2] + ALPHABET[((a & 3) << 4) | (b >> 4)];
    if (i + 1 < bytes.length) out += ALPHABET[((b & 15) << 2) | (c >> 6)];
    if (i + 2 < bytes.length) out += ALPHABET[c & 63];
  }
  return out;
}

/** @param {string} text @returns {Uint8Array} */
export function fromBase64url(text) {
  if (text.length % 4 === 1) throw new TypeError('bytes are base64url without padding');
  const out = new Uint8Array((text.length * 3) >> 2);
  let bits = 0;
  let held = 0;
  let at = 0;
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    const value = code < 128 ? VALUES[code] : 255;
    if (value === 255) throw new TypeError('bytes are base64url without padding');
    held = ((held << 6) | value) & 0xffff;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      out[at++] = (held >> bits) & 255;
    }
  }
  return out;
}

/** @param {string} text 32 hexadecimal digits, dashes allowed @returns {Uint8Array} */
export function uuidBytes(text) {
  const digits = text.replaceAll('-', '');
  if (!/^[0-9a-fA-F]{32}$/.test(digits) || text.length > 36) throw new TypeError(`not a UUID: ${text}`);
  return Uint8Array.from({ length: 16 }, (_, i) => Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16));
}

/** @param {Uint8Array} bytes @returns {string} */
export function uuidText(bytes) {
  if (bytes.length !== 16) throw new TypeError('a UUID is 16 bytes');
  const hex = Array.from(bytes, b => b.toString(16).padStart(2, '0')).join('');
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-');
}

/** A random UUID. Works where `crypto.randomUUID` does not: on a page without TLS. @returns {string} */
export function randomUuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return uuidText(bytes);
}

/**
 * For a new message: a UUID of version 7 (RFC 9562), which begins with the time. A server that finds a cid above all those of its
 * sender knows without a look at its disk that it is new; where a clock is wrong it looks. What makes it unique are 62 random bits.
 * @param {number} wall milliseconds since the Unix epoch @param {number} count of those drawn in one millisecond @returns {string}
 */
export function timedUuid(wall, count) {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  new DataView(bytes.buffer).setUint16(6, 0x7000 | (count & 0x0fff));
  for (let at = 5, rest = Math.max(0, Math.floor(wall)); at >= 0; at--, rest = Math.floor(rest / 256)) bytes[at] = rest % 256;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return uuidText(bytes);
}

/**
 * A user id as the server stores it: NFKC, lower case, `[a-z0-9_.-]{1,64}`.
 * @param {string} text @returns {string}
 */
export function userId(text) {
  const id = String(text).normalize('NFKC').toLowerCase();
  if (!/^[a-z0-9_.-]+$/.test(id) || id.length > USER_ID_BYTES_MAX) {
    throw new TypeError("a user id is 1 to 64 characters of a-z, 0-9, '_', '.' and '-'");
  }
  return id;
}

/** @param {string} text @returns {string} */
export function convId(text) {
  if (typeof text !== 'string' || text === '' || utf8(text).length > CONV_ID_BYTES_MAX) throw new TypeError('not a conversation id');
  return text;
}

/**
 * The id of the direct conversation of two users (equal in a self-chat).
 * @param {string} a @param {string} b @returns {string}
 */
export function directId(a, b) {
  const [low, high] = [userId(a), userId(b)].sort();
  const part = (/** @type {string} */ id) => id.length.toString(16).padStart(2, '0') + id;
  return `d${part(low)}${part(high)}`;
}

/**
 * The other user of a direct conversation; the user itself in a self-chat; undefined for groups.
 * @param {string} conv @param {string} user @returns {string | undefined}
 */
export function peerOf(conv, user) {
  if (conv[0] !== 'd') return undefined;
  const end = 3 + Number.parseInt(conv.slice(1, 3), 16);
  const [a, b] = [conv.slice(3, end), conv.slice(end + 2)];
  return a === user ? b : b === user ? a : undefined;
}
