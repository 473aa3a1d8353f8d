// A store in the browser: one IndexedDB database per user, shared by the tabs of an origin. One commit is one transaction, with
// strict durability: it has reached the disk when it resolves.

import { ANSWERS_MAX } from '../limits.js';
import { answerOf } from './state.js';

/** @typedef {import('../types.js').Store} Store */
/** @typedef {import('../types.js').Change} Change */
/** @typedef {import('../types.js').Entry} Entry */
/** @typedef {import('../types.js').Command} Command */

const VERSION = 1;
const STORES = ['meta', 'outbox', 'answers', 'positions', 'reads', 'convs', 'entries', 'gaps', 'aside'];
const TOP = Number.MAX_SAFE_INTEGER;

/** @implements {Store} */
export class IndexedDbStore {
  shared = true;
  #db;

  /** @param {IDBDatabase} db */
  constructor(db) {
    this.#db = db;
    // Another tab wants a newer layout, or deletes the data: do not stand in its way.
    db.onversionchange = () => db.close();
  }

  /** @param {string} name of the database @param {IDBFactory} [factory] @returns {Promise<IndexedDbStore>} */
  static async open(name, factory = indexedDB) {
    const request = factory.open(name, VERSION);
    request.onupgradeneeded = () => {
      const db = request.result;
      db.createObjectStore('meta');
      db.createObjectStore('outbox', { keyPath: 'n', autoIncrement: true }).createIndex('cid', 'cid', { unique: true });
      db.createObjectStore('answers', { keyPath: 'cid' }).createIndex('at', 'at_ms');
      for (const store of ['positions', 'reads', 'convs']) db.createObjectStore(store, { keyPath: 'conv' });
      db.createObjectStore('entries', { keyPath: ['conv', 'seq'] });
      db.createObjectStore('gaps', { keyPath: ['conv', 'from'] });
      db.createObjectStore('aside', { autoIncrement: true });
    };
    return new IndexedDbStore(await done(request));
  }

  /** @param {string[]} stores */
  #read(stores) {
    const transaction = this.#db.transaction(stores, 'readonly');
    return (/** @type {string} */ name) => transaction.objectStore(name);
  }

  async load() {
    const at = this.#read(['meta', 'outbox', 'positions', 'reads', 'convs']);
    const [install, device, rev, tokens, commands, positions, reads, convs] = await Promise.all([
      done(at('meta').get('install')), done(at('meta').get('device')), done(at('meta').get('rev')), done(at('meta').get('tokens')),
      done(at('outbox').getAll()), done(at('positions').getAll()), done(at('reads').getAll()), done(at('convs').getAll()),
    ]);
    return {
      install: install ?? '', device: device ?? null, rev: rev ?? null, tokens: tokens ?? null, commands,
      positions: new Map(positions.map(p => [p.conv, p])),
      reads: new Map(reads.map(r => [r.conv, r.seq])),
      convs: new Map(convs.map(c => [c.conv, c])),
    };
  }

  /** @param {Change[]} changes @returns {Promise<void>} */
  commit(changes) {
    return new Promise((resolve, reject) => {
      const transaction = this.#db.transaction(STORES, 'readwrite', { durability: 'strict' });
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error('the transaction was aborted'));
      try {
        for (const change of merged(changes)) apply(name => transaction.objectStore(name), change);
      } catch (error) {
        transaction.abort();
        reject(error);
      }
    });
  }

  /** @param {string} cid @returns {Promise<Command | undefined>} */
  async command(cid) {
    return done(this.#read(['outbox'])('outbox').index('cid').get(cid));
  }

  /** @returns {Promise<Command[]>} */
  async commands() {
    return done(this.#read(['outbox'])('outbox').getAll());
  }

  /** @param {number} n @returns {Promise<Command[]>} */
  async commandsAbove(n) {
    return done(this.#read(['outbox'])('outbox').getAll(IDBKeyRange.lowerBound(n, true)));
  }

  /** @param {string} cid */
  async answer(cid) {
    return done(this.#read(['answers'])('answers').get(cid));
  }

  async answers() {
    return done(this.#read(['answers'])('answers').index('at').getAll());
  }

  async convs() {
    return done(this.#read(['convs'])('convs').getAll());
  }

  /** @param {string} conv */
  async position(conv) {
    return done(this.#read(['positions'])('positions').get(conv));
  }

  async tokens() {
    return (await done(this.#read(['meta'])('meta').get('tokens'))) ?? null;
  }

  /** @param {string} conv @param {{ before?: number, after?: number, limit?: number }} [range] @returns {Promise<Entry[]>} */
  async entries(conv, { before = TOP, after, limit = 50 } = {}) {
    if (before <= (after ?? 0) + 1) return [];
    const range = IDBKeyRange.bound([conv, after ?? 0], [conv, before], true, true);
    const store = this.#read(['entries'])('entries');
    if (after !== undefined) return done(store.getAll(range, limit));
    /** @type {Entry[]} */
    const newest = [];
    return new Promise((resolve, reject) => {
      const request = store.openCursor(range, 'prev');
      request.onerror = () => reject(request.error);
      request.onsuccess = () => {
        const cursor = request.result;
        if (cursor === null || newest.length === limit) return resolve(newest.reverse());
        newest.push(cursor.value);
        cursor.continue();
      };
    });
  }

  async close() {
    this.#db.close();
  }
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

/**
 * Of the marks of one conversation only the highest: what a change reads is what was there before the transaction, not what those
 * before it are about to write.
 * @param {Change[]} changes @returns {Change[]}
 */
function merged(changes) {
  /** @type {Map<string, number>} */
  const reads = new Map();
  for (const c of changes) if (c.t === 'read') reads.set(c.conv, Math.max(c.seq, reads.get(c.conv) ?? 0));
  return changes.filter(c => c.t !== 'read' || reads.get(c.conv) === c.seq);
}

/** @param {(name: string) => IDBObjectStore} at @param {Change} change */
function apply(at, change) {
  switch (change.t) {
    case 'install': at('meta').put(change.install, 'install'); break;
    case 'device': at('meta').put({ user: change.user, device: change.device }, 'device'); break;
    case 'rev': at('meta').put(change.rev, 'rev'); break;
    case 'tokens': at('meta').put(change.tokens, 'tokens'); break;
    case 'command': {
      const { n: _, ...row } = change.command;
      at('answers').delete(row.cid);
      at('outbox').add(row);
      break;
    }
    case 'answered': answered(at, change); break;
    case 'position': at('positions').put({ conv: change.conv, seq: change.seq, chain: change.chain }); break;
    case 'positions_dropped': at('positions').clear(); break;
    case 'read': {
      const { conv, seq } = change;
      const old = at('reads').get(conv);
      old.onsuccess = () => {
        if (!(old.result?.seq >= seq)) at('reads').put({ conv, seq });
      };
      break;
    }
    case 'entry': at('entries').put(change.entry); break;
    case 'gap': at('gaps').put(change.gap); break;
    case 'conv': at('convs').put(change.conv); break;
    case 'set_aside': {
      const range = IDBKeyRange.bound([change.conv, change.from], [change.conv, change.to]);
      const cursor = at('entries').openCursor(range);
      cursor.onsuccess = () => {
        if (cursor.result === null) return;
        at('aside').add(cursor.result.value);
        cursor.result.delete();
        cursor.result.continue();
      };
      break;
    }
    default: throw new TypeError(`unknown change ${/** @type {any} */ (change).t}`);
  }
}

/** The command's row becomes an answer; the oldest answers go. @param {(name: string) => IDBObjectStore} at @param {Extract<Change, { t: 'answered' }>} change */
function answered(at, change) {
  const found = at('outbox').index('cid').get(change.cid);
  found.onsuccess = () => {
    const row = found.result;
    if (row === undefined) return;
    at('outbox').delete(row.n);
    at('answers').put(answerOf(change, row));
  };
  const count = at('answers').count();
  count.onsuccess = () => {
    let extra = count.result - ANSWERS_MAX;
    if (extra <= 0) return;
    const oldest = at('answers').index('at').openCursor();
    oldest.onsuccess = () => {
      if (oldest.result === null || extra-- <= 0) return;
      oldest.result.delete();
      oldest.result.continue();
    };
  };
}
