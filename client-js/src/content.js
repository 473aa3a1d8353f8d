// What an entry says, beside its fixed fields, and the two hashes that tie an entry down (I11): body_hash = H(cid, content),
// chain = H(previous chain, entry). Same bytes as `proto/src/entry.rs`.
//
// A content is the part of an entry's fields that its `kind` gives a meaning; the outbox keeps commands in the same form.

import { fromBase64url, toBase64url, userId, utf8, uuidBytes } from './bytes.js';
import { FlotillaError } from './errors.js';
import * as limits from './limits.js';
import { sha256 } from './sha256.js';

/** @typedef {import('./types.js').Content} Content */
/** @typedef {import('./types.js').Entry} Entry */

/** The fields of a content in the order in which the hash takes them. @type {Record<string, string[]>} */
const FIELDS = {
  edit: ['target', 'body'],
  delete: ['target'],
  react: ['target', 'emoji', 'on'],
  create: ['name', 'members', 'history'],
  add: ['users'],
  remove: ['user'],
  leave: ['heir'],
  role: ['user', 'role'],
  rename: ['name'],
  history: ['history'],
};
const MESSAGE = ['body', 'reply_to', 'mentions', 'media'];
/** Kinds that a message may not have. */
const RESERVED = new Set([...Object.keys(FIELDS), 'mode', 'gap']);
const ROLES = ['member', 'admin', 'owner'];
const ACCESS = ['from_join', 'full'];

export const ZERO_CHAIN = toBase64url(new Uint8Array(32));

/** @param {string} kind */
const fieldsOf = kind => (Object.hasOwn(FIELDS, kind) ? FIELDS[kind] : MESSAGE);

/**
 * The content of an entry; undefined for an echo, a redacted entry, or one whose fields do not fit its kind.
 * @param {Entry} entry @returns {Content | undefined}
 */
export function contentOf(entry) {
  if (entry.echo || entry.redacted) return undefined;
  /** @type {any} */
  const content = { kind: entry.kind };
  for (const name of fieldsOf(entry.kind)) {
    const value = /** @type {any} */ (entry)[name];
    if (value !== undefined) content[name] = value;
  }
  const needed = { edit: 'body', react: 'emoji', create: 'name', add: 'users', remove: 'user', role: 'role', rename: 'name', history: 'history' };
  const name = Object.hasOwn(FIELDS, entry.kind) ? needed[/** @type {keyof typeof needed} */ (entry.kind)] : 'body';
  return name === undefined || content[name] !== undefined ? content : undefined;
}

/**
 * Puts the content into an echo, from the command that was sent.
 * @param {Entry} entry @param {Content} content @returns {Entry}
 */
export function filled(entry, content) {
  const { echo: _, ...rest } = entry;
  return /** @type {Entry} */ ({ ...rest, ...content });
}

/** SHA-256 over fields, each behind its length. */
class Fields {
  /** @type {Uint8Array[]} */
  #parts = [];

  /** @param {string} name */
  constructor(name) {
    this.text(name);
  }

  /** @param {Uint8Array} value */
  bytes(value) {
    this.int(value.length);
    this.#parts.push(value);
    return this;
  }

  /** @param {string} value */
  text(value) {
    return this.bytes(utf8(value));
  }

  /** @param {number | bigint | string} value */
  int(value) {
    const out = new DataView(new ArrayBuffer(8));
    out.setBigUint64(0, BigInt(value));
    this.#parts.push(new Uint8Array(out.buffer));
    return this;
  }

  /** @param {string[]} values */
  texts(values) {
    this.int(values.length);
    for (const value of values) this.text(value);
    return this;
  }

  finish() {
    const all = new Uint8Array(this.#parts.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of this.#parts) {
      all.set(part, at);
      at += part.length;
    }
    return toBase64url(sha256(all));
  }
}

/** @param {string} cid @param {Content} content @returns {string} */
export function bodyHash(cid, content) {
  const h = new Fields('flotilla body v1').bytes(uuidBytes(cid)).text(content.kind);
  const c = /** @type {any} */ (content);
  switch (content.kind) {
    case 'edit': return h.int(1).int(c.target).bytes(c.body).finish();
    case 'delete': return h.int(2).int(c.target).finish();
    case 'react': return h.int(3).int(c.target).text(c.emoji).int(c.on ? 1 : 0).finish();
    case 'create': return h.int(4).text(c.name).int(ACCESS.indexOf(c.history ?? 'from_join')).texts(c.members ?? []).finish();
    case 'add': return h.int(5).texts(c.users).finish();
    case 'remove': return h.int(6).text(c.user).finish();
    // The heir is filled in where the entry is applied.
    case 'leave': return h.int(7).finish();
    case 'role': return h.int(8).text(c.user).int(ROLES.indexOf(c.role)).finish();
    case 'rename': return h.int(9).text(c.name).finish();
    case 'history': return h.int(10).int(ACCESS.indexOf(c.history)).finish();
    default:
      return h.int(0).bytes(c.body).int(c.reply_to ?? 0).texts(c.mentions ?? []).text(c.media ?? '').finish();
  }
}

/** The chain value that this entry must carry behind `previous`. @param {Entry} e @param {string} previous @returns {string} */
export function chainAfter(e, previous) {
  return new Fields('flotilla chain v1')
    .bytes(fromBase64url(previous)).text(e.conv).int(e.seq).int(e.msg_id).int(e.ts)
    .text(e.from).bytes(uuidBytes(e.device)).text(e.kind).bytes(uuidBytes(e.cid)).bytes(fromBase64url(e.body_hash))
    .finish();
}

/** The first entry of an ascending list that contradicts its body hash or the chain of the one before it. @param {Entry[]} entries */
export function contradictionIn(entries) {
  return entries.find((entry, i) => {
    const content = contentOf(entry);
    if (content !== undefined && bodyHash(entry.cid, content) !== entry.body_hash) return true;
    const before = entries[i - 1];
    return before !== undefined && before.seq === entry.seq - 1 && chainAfter(entry, before.chain) !== entry.chain;
  });
}

/** @param {string} text */
const bad = text => new FlotillaError('validation_failed', text);

/**
 * A command's content, checked as the server would, so that nothing hopeless is stored.
 * @param {Content} content @param {number} [bodyBytesMax] @returns {Content}
 */
export function checked(content, bodyBytesMax = limits.BODY_BYTES_MAX) {
  const c = /** @type {any} */ ({ ...content });
  for (const name of Object.keys(c)) if (c[name] === undefined || c[name] === null) delete c[name];
  if (c.body !== undefined && c.body.length > bodyBytesMax) {
    throw new FlotillaError('payload_too_large', `a body is at most ${bodyBytesMax} bytes`);
  }
  for (const name of ['target', 'reply_to']) {
    if (c[name] !== undefined && !(Number.isSafeInteger(c[name]) && c[name] > 0)) throw bad(`\`${name}\` is a seq`);
  }
  if (c.kind === 'edit' || c.kind === 'delete' || c.kind === 'react') {
    if (c.target === undefined) throw bad('which entry?');
    if (c.kind === 'react' && !inBytes(c.emoji, limits.EMOJI_BYTES_MAX)) throw bad('`emoji` is 1 to 32 bytes');
    if (c.kind === 'edit' && !(c.body instanceof Uint8Array)) throw bad('an edit has a body');
    return c;
  }
  if (!inBytes(c.kind, limits.KIND_BYTES_MAX) || RESERVED.has(c.kind)) throw bad('`kind` is 1 to 32 bytes and not a name of the protocol');
  if (c.mentions !== undefined) {
    if (c.mentions.length > limits.MENTIONS_MAX) throw bad('at most 50 mentions');
    c.mentions = c.mentions.map(userId);
    if (c.mentions.length === 0) delete c.mentions;
  }
  if (c.media !== undefined && !inBytes(c.media, limits.MEDIA_BYTES_MAX)) throw bad('`media` is 1 to 1024 bytes');
  c.body ??= new Uint8Array();
  if (c.body.length === 0 && c.media === undefined) throw bad('an empty body');
  return c;
}

/** @param {unknown} text @param {number} max */
function inBytes(text, max) {
  if (typeof text !== 'string') return false;
  const length = utf8(text).length;
  return length >= 1 && length <= max;
}

/** The body of an entry or message as text; empty where there is none. @param {{ body?: Uint8Array }} entry @returns {string} */
export const textOf = entry => (entry.body ? new TextDecoder().decode(entry.body) : '');
