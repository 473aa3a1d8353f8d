// Who uses this tab: accounts that this browser knows, logging in, the client of the chosen one, logging out.
//
// A tab stays with its person (sessionStorage), so that two windows may be two people; a new tab takes the last one.

import { FlotillaClient, IndexedDbStore, Session, register, requestCode, userId } from '../../../client-js/src/index.js';

const ABOUT_LIMIT_MS = 4_000;

/** @param {string} key @param {any} otherwise */
function kept(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key) ?? '') ?? otherwise;
  } catch {
    return otherwise;
  }
}
/** @param {string} key @param {any} value */
const keep = (key, value) => localStorage.setItem(key, JSON.stringify(value));

/** What the node that served this page says of itself; without it, what was true the last time. */
export async function about() {
  try {
    const response = await fetch('/v1/page', { signal: AbortSignal.timeout(ABOUT_LIMIT_MS) });
    const page = await response.json();
    keep('flotilla.page', { urls: page.urls, demo: page.demo, methods: page.methods });
    // In this tab only: the node that served this page may be the one that was killed from here.
    sessionStorage.setItem('flotilla.control', JSON.stringify(page.control ?? null));
    return { control: null, ...page };
  } catch {
    const control = JSON.parse(sessionStorage.getItem('flotilla.control') ?? 'null');
    return { urls: [], demo: false, methods: [], ...kept('flotilla.page', {}), control };
  }
}

/** `db`: where the store of who came by code is; the user's id was not known when it was made.
 * @typedef {{ user: string, demo: boolean, db?: string }} Account */

/** @returns {Account[]} the last one first */
export const accounts = () => kept('flotilla.accounts', []);

/** @param {string} user @param {boolean} demo @param {string} [db] */
function remember(user, demo, db) {
  keep('flotilla.accounts', [{ user, demo, db }, ...accounts().filter(a => a.user !== user)].slice(0, 8));
  sessionStorage.setItem('flotilla.user', user);
}

/** @returns {Account | undefined} */
export function current() {
  const user = sessionStorage.getItem('flotilla.user');
  return user === null ? accounts()[0] : accounts().find(a => a.user === user);
}

/** This tab shows the entrance again; nothing is deleted. */
export const leaveTab = () => sessionStorage.setItem('flotilla.user', '');

/** @param {string[]} urls */
const nodes = urls => [...new Set([location.origin, ...urls])];
/** @param {string} user */
const dbOf = user => accounts().find(a => a.user === user)?.db ?? `flotilla/${userId(user)}`;
/** @param {string} user */
const openStore = user => IndexedDbStore.open(dbOf(user));

/** @param {{ user: string, password: string, isNew: boolean, urls: string[] }} form */
export async function logIn({ user, password, isNew, urls }) {
  const id = userId(user);
  const all = nodes(urls);
  if (isNew) await register({ urls: all, user: id, password });
  const store = await openStore(id);
  const session = await Session.logIn({ urls: all, user: id, password, store, name: deviceName() });
  remember(id, false);
  return client(id, all, session.token, store);
}

/** Has a code sent. @param {string} address @param {string[]} urls */
export const askForCode = (address, urls) => requestCode({ urls: nodes(urls), address });

/** @param {string} address @param {string} code @param {string[]} urls */
export async function logInByCode(address, code, urls) {
  const all = nodes(urls);
  // The same address, the same store: it is the same device when its person comes back.
  const db = `flotilla/@${address.toLowerCase()}`;
  const store = await IndexedDbStore.open(db);
  const session = await Session.logInByCode({ urls: all, address, code, store, name: deviceName() });
  remember(session.user, false, db);
  return client(session.user, all, session.token, store);
}

/** A demo user: a name, and nothing else. @param {string} user @param {string[]} urls */
export async function enter(user, urls) {
  const id = userId(user);
  remember(id, true);
  return client(id, nodes(urls), `dev:${id}`, await openStore(id));
}

/** The person of an earlier visit; null: who are you? @param {string[]} urls */
export async function restore(urls) {
  const account = current();
  if (!account) return null;
  if (account.demo) return enter(account.user, urls);
  const store = await openStore(account.user);
  const session = await Session.restore({ urls: nodes(urls), store });
  if (!session) return null;
  remember(account.user, false, account.db);
  return client(account.user, nodes(urls), session.token, store);
}

/** @param {string} user @param {string[]} urls @param {any} token @param {IndexedDbStore} store */
const client = (user, urls, token, store) =>
  FlotillaClient.open({ urls, user, token, store, ownsStore: true, client: { name: 'Flotilla page', version: '0.1.0', platform: deviceName() } });

function deviceName() {
  const agent = navigator.userAgent;
  const browser = ['Edg', 'Firefox', 'Chrome', 'Safari'].find(name => agent.includes(name)) ?? 'Browser';
  const system = ['Android', 'iPhone', 'iPad', 'Windows', 'Mac', 'Linux'].find(name => agent.includes(name));
  return `${browser === 'Edg' ? 'Edge' : browser}${system ? ` on ${system}` : ''}`;
}

/** Ends this device's session and deletes what it has stored. @param {any} client */
export async function logOut(client) {
  const { user } = client;
  const account = accounts().find(a => a.user === user);
  if (account && !account.demo) {
    const store = await openStore(user);
    const session = await Session.restore({ urls: nodes(kept('flotilla.page', { urls: [] }).urls), store });
    // Without network the tokens end by themselves.
    await session?.logOut().catch(() => {});
    await store.close();
  }
  await client.close();
  indexedDB.deleteDatabase(dbOf(user));
  keep('flotilla.accounts', accounts().filter(a => a.user !== user));
  for (const key of Object.keys(localStorage)) if (key.startsWith(`flotilla.${user}.`)) localStorage.removeItem(key);
  leaveTab();
}

/** A drawer of this person in this browser: drafts, names, what was dismissed. @param {string} user @param {string} name @param {any} otherwise */
export function drawer(user, name, otherwise) {
  const key = `flotilla.${user}.${name}`;
  const value = kept(key, otherwise);
  return { value, save: () => keep(key, value) };
}
