// flotilla-client: everything that runs in a browser and in Node. `flotilla-client/node` adds the store in files.

export { FlotillaClient } from './client.js';
export { Session, loginMethods, register, requestCode, rest } from './account.js';
export { MemoryStore } from './store/memory.js';
export { IndexedDbStore } from './store/indexeddb.js';
export { Timeline, fold } from './timeline.js';
export { FlotillaError, LoginRequired, OutcomeUnknown, closeName, verdictOf } from './errors.js';
export { bodyHash, chainAfter, contentOf, textOf } from './content.js';
export { directId, fromBase64url, peerOf, randomUuid, toBase64url, userId } from './bytes.js';
export * as limits from './limits.js';

import { FlotillaClient } from './client.js';
import { userId } from './bytes.js';
import { IndexedDbStore } from './store/indexeddb.js';

/** @typedef {import('./types.js').Entry} Entry */
/** @typedef {import('./types.js').Content} Content */
/** @typedef {import('./types.js').Gap} Gap */
/** @typedef {import('./types.js').Conv} Conv */
/** @typedef {import('./types.js').Receipts} Receipts */
/** @typedef {import('./types.js').Command} Command */
/** @typedef {import('./types.js').Accepted} Accepted */
/** @typedef {import('./types.js').Outcome} Outcome */
/** @typedef {import('./types.js').Answer} Answer */
/** @typedef {import('./types.js').Status} Status */
/** @typedef {import('./types.js').Store} Store */
/** @typedef {import('./types.js').Change} Change */
/** @typedef {import('./types.js').Saved} Saved */
/** @typedef {import('./types.js').Clock} Clock */
/** @typedef {import('./types.js').TokenFunction} TokenFunction */
/** @typedef {import('./types.js').Options} Options */
/** @typedef {import('./types.js').Events} Events */
/** @typedef {import('./types.js').Ticket} Ticket */
/** @typedef {import('./timeline.js').Message} Message */

/**
 * Opens a client in a browser, with its store in IndexedDB unless another one is given.
 * @param {Omit<import('./types.js').Options, 'store'> & { store?: import('./types.js').Store }} options
 */
export async function open(options) {
  const store = options.store ?? (await IndexedDbStore.open(`flotilla/${userId(options.user)}`));
  return FlotillaClient.open({ ...options, store, ownsStore: options.store === undefined });
}
