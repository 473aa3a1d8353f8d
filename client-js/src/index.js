// flotilla-client: everything that runs in a browser and in Node. `flotilla-client/node` adds the store in files.

export { FlotillaClient } from './client.js';
export { Session, register, rest } from './account.js';
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

/**
 * Opens a client in a browser, with its store in IndexedDB unless another one is given.
 * @param {Omit<import('./client.js').Options, 'store'> & { store?: import('./types.js').Store }} options
 */
export async function open(options) {
  const store = options.store ?? (await IndexedDbStore.open(`flotilla/${userId(options.user)}`));
  return FlotillaClient.open({ ...options, store, ownsStore: options.store === undefined });
}
