// The frame of the chat: the list at the left, a conversation at the right, the cluster strip below. On a narrow screen one of the two.

import { h } from '../dom.js';
import { dialogs, fetchRest, use } from '../later.js';
import { Conversation } from './conversation.js';
import { Notice } from './notice.js';
import { Sidebar } from './sidebar.js';

export class Shell {
  #app;
  /** @type {Conversation | null} */
  #conversation = null;

  /** @param {import('../app.js').App} app @param {() => void} leave back to the entrance */
  constructor(app, leave) {
    this.#app = app;
    this.leave = leave;
    this.sidebar = new Sidebar(app, this);
    this.notice = new Notice(app, this);
    /** @type {import('./strip.js').Strip | null} */
    this.strip = null;
    this.empty = h('div', { class: 'empty' }, h('span', { class: 'splash-mark', 'aria-hidden': 'true' }), h('h2', {}, 'No conversation open'), h('p', {}, 'Choose one from the list, or start a new one.'),
      h('button', { class: 'button primary', onclick: () => use(dialogs, d => d.newConversation(app, (/** @type {string} */ conv) => this.open(conv))) }, 'New conversation'));
    this.main = h('main', { class: 'main' }, this.empty);
    this.el = h('div', { class: 'shell' }, h('header', { class: 'visually-hidden' }, h('h1', {}, 'Flotilla')), this.sidebar.el, this.main, this.notice.el);
  }

  start() {
    window.addEventListener('hashchange', () => this.#route());
    document.addEventListener('keydown', event => this.#onKey(event));
    document.addEventListener('visibilitychange', () => this.#onVisible());
    window.addEventListener('focus', () => this.#conversation?.markRead());
    this.#app.onChange(() => this.#render());
    void this.#addStrip().catch(() => {});
    fetchRest();
    this.#route();
    this.#onVisible();
  }

  /** Only nodes of a local cluster let it be worked. */
  async #addStrip() {
    const { control } = this.#app.page;
    if (!control) return;
    const { Strip } = await import('./strip.js');
    this.strip = new Strip(this.#app, control);
    this.notice.el.before(this.strip.el);
    this.strip.start();
  }

  #onVisible() {
    this.#app.client.setActivity(document.visibilityState === 'visible' ? 'active' : 'background');
    // What a page in the background is not told is asked for when somebody looks again.
    if (document.visibilityState !== 'visible') this.#app.rooms.forget();
    this.#conversation?.markRead();
    this.#app.changed();
  }

  #render() {
    this.sidebar.render();
    this.notice.render();
    this.#conversation?.render();
    const unread = this.#app.rooms.unreadInAll;
    const title = `${unread > 0 ? `(${unread > 99 ? '99+' : unread}) ` : ''}Flotilla`;
    if (document.title !== title) document.title = title;
  }

  /** @param {string} conv */
  open(conv) {
    location.hash = `#c=${encodeURIComponent(conv)}`;
  }

  /** In the conversation that is open. @param {number} seq */
  jump(seq) {
    void this.#conversation?.jump(seq);
  }

  close() {
    location.hash = '';
  }

  #route() {
    const found = /^#c=(.+)$/.exec(location.hash);
    const conv = found ? decodeURIComponent(found[1]) : null;
    if (conv === this.#app.current) return this.#render();
    this.#conversation?.end();
    this.#app.current = conv;
    this.#conversation = conv === null ? null : new Conversation(this.#app, conv, this);
    this.main.replaceChildren(this.#conversation?.el ?? this.empty);
    this.el.classList.toggle('has-conversation', conv !== null);
    this.#render();
    void this.#conversation?.start();
    this.strip?.refresh();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (document.querySelector('dialog[open]')) return;
    const command = event.ctrlKey || event.metaKey;
    if (command && event.key === 'k') {
      event.preventDefault();
      this.sidebar.focusFilter();
    } else if (command && event.key === 'f' && this.#conversation) {
      event.preventDefault();
      this.#conversation.search();
    } else if (event.altKey && (event.key === 'ArrowDown' || event.key === 'ArrowUp')) {
      event.preventDefault();
      const next = this.sidebar.neighbour(event.key === 'ArrowDown' ? 1 : -1);
      if (next) this.open(next);
    } else if (event.key === '?' && !isField(event.target)) {
      void use(dialogs, d => d.shortcuts());
    } else if (event.key === 'Escape' && !event.defaultPrevented) {
      this.#conversation?.escape();
    }
  }
}

/** @param {any} target */
const isField = target => target instanceof HTMLInputElement || target instanceof HTMLTextAreaElement;
