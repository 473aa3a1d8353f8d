// What the first load does without: fetched when somebody wants it, and, once the chat stands, in a quiet moment before anybody
// does, so that it is there when the node that served the page is not.

import { complain } from './dom.js';

export const dialogs = () => import('./views/dialogs.js');
export const group = () => import('./views/group.js');
export const menus = () => import('./views/menus.js');
export const search = () => import('./views/search.js');
export const suggest = () => import('./views/suggest.js');

const QUIET_MS = 2_000;

/** @template T @param {() => Promise<T>} part @param {(part: T) => void} act */
export async function use(part, act) {
  let there;
  try {
    there = await part();
  } catch {
    return complain('This part of the page could not be fetched. Try again when a node answers.');
  }
  act(there);
}

/** What could not be fetched now is fetched when it is wanted. */
export function fetchRest() {
  setTimeout(async () => {
    for (const part of [menus, search, suggest]) await part().catch(() => {});
  }, QUIET_MS);
}
