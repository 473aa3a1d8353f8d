// Starts the page: who is it, then the chat; else the entrance.

import { about, enter, restore } from './account.js';
import { App } from './app.js';
import { announce, h } from './dom.js';
import { applyTheme } from './theme.js';
import { Entrance } from './views/entrance.js';
import { Shell } from './views/shell.js';

const root = /** @type {HTMLElement} */ (document.getElementById('app'));

/** @param {any} client @param {any} page */
async function chat(client, page) {
  const app = new App(client, page);
  const shell = new Shell(app, () => location.reload());
  await app.start();
  root.replaceChildren(shell.el);
  shell.start();
  // For tests and for the curious.
  Object.assign(window, { flotilla: { client, app } });
}

/** @param {any} page */
function entrance(page) {
  root.replaceChildren(new Entrance(page, client => chat(client, page).catch(failed)).el);
}

/** @param {unknown} error */
function failed(error) {
  const message = /** @type {any} */ (error)?.message ?? String(error);
  announce(message, 'alert');
  root.replaceChildren(
    h('div', { class: 'splash' }, h('h1', {}, 'This page could not start'), h('p', {}, message), h('button', { class: 'button primary', onclick: () => location.reload() }, 'Try again')),
  );
}

/** A link like `/?as=alice` opens a demo user's window. @param {any} page */
async function demoUser(page) {
  const user = new URLSearchParams(location.search).get('as');
  if (!user || !page.demo) return null;
  history.replaceState(null, '', `/${location.hash}`);
  return enter(user, page.urls);
}

async function start() {
  applyTheme();
  if ('serviceWorker' in navigator) navigator.serviceWorker.register('/sw.js').catch(() => {});
  const page = await about();
  const client = (await demoUser(page)) ?? (await restore(page.urls));
  if (client) await chat(client, page);
  else entrance(page);
}

start().catch(failed);
