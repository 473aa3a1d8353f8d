// flotilla-client/node: the same client with its store in files and a WebSocket where Node has none of its own.

export * from './index.js';
export { FileStore } from './store/file.js';

import { FlotillaClient } from './client.js';
import { FileStore } from './store/file.js';

/** Node's own WebSocket (Node 22 and newer), or the package `ws`. @returns {Promise<import('./types.js').WebSocketClass>} */
export async function nodeWebSocket() {
  if (globalThis.WebSocket) return globalThis.WebSocket;
  try {
    return /** @type {any} */ (await import('ws')).WebSocket;
  } catch {
    throw new Error('Node below 22 has no WebSocket: npm install ws');
  }
}

/**
 * Opens a client. `dir`: a directory of this device alone, made if needed; or a `store` of another kind.
 * @param {Omit<import('./types.js').Options, 'store'> & { dir?: string, store?: import('./types.js').Store }} options
 */
export async function open({ dir, ...options }) {
  if ((dir === undefined) === (options.store === undefined)) throw new TypeError('exactly one of `dir` and `store`');
  const WebSocket = options.WebSocket ?? (await nodeWebSocket());
  const store = options.store ?? (await FileStore.open(/** @type {string} */ (dir)));
  try {
    return await FlotillaClient.open({ ...options, WebSocket, store, ownsStore: dir !== undefined });
  } catch (error) {
    if (dir !== undefined) await store.close();
    throw error;
  }
}
