// Search in one conversation: what this device holds of it, newest first, and on demand what the server has before.

import { fold } from '../../../../client-js/src/index.js';
import { announce, h, iconButton, setText } from '../dom.js';

const PAGE = 1_000;
const FOUND_MAX = 2_000;
const TYPING_PAUSE_MS = 180;
/** Pages that one click fetches from further back. */
const BACK_PAGES = 5;

export class Search {
  #app;
  #thread;
  #on;
  /** Seqs, newest first. @type {number[]} */
  #found = [];
  #at = -1;
  #needle = '';
  #run = 0;
  /** @type {any} */
  #timer = 0;

  /** @param {import('../app.js').App} app @param {import('../thread.js').Thread} thread @param {{ show: (seq: number, needle: string) => void, close: () => void }} on */
  constructor(app, thread, on) {
    this.#app = app;
    this.#thread = thread;
    this.#on = on;
    this.input = h('input', { type: 'search', placeholder: 'Search in this conversation', 'aria-label': 'Search in this conversation',
      oninput: () => this.#later(), onkeydown: (/** @type {KeyboardEvent} */ e) => this.#onKey(e) });
    this.count = h('span', { class: 'search-count', role: 'status' });
    this.back = h('button', { class: 'link', type: 'button', onclick: () => void this.#further() }, 'Search further back');
    this.el = h('div', { class: 'search', role: 'search', hidden: true }, this.input, this.count, this.back,
      iconButton('up', 'Older hit', () => this.#step(1)), iconButton('expand', 'Newer hit', () => this.#step(-1)), iconButton('close', 'End the search', () => this.close()));
  }

  get isOpen() {
    return !this.el.hidden;
  }

  open() {
    this.el.hidden = false;
    this.input.focus();
    this.input.select();
    this.#later();
  }

  close() {
    this.el.hidden = true;
    this.#run += 1;
    this.#on.close();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === 'Enter') {
      event.preventDefault();
      this.#step(event.shiftKey ? -1 : 1);
    } else if (event.key === 'Escape') {
      event.preventDefault();
      this.close();
    }
  }

  #later() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#search(), TYPING_PAUSE_MS);
  }

  /** @param {boolean} [isSecond] what the server has was fetched */
  async #search(isSecond = false) {
    const run = ++this.#run;
    this.#needle = this.input.value.trim().toLowerCase();
    this.#found = [];
    this.#at = -1;
    if (this.#needle !== '') {
      for (let before; ; ) {
        /** @type {any[]} */
        const page = await this.#app.client.entries(this.#thread.conv, { before, limit: PAGE });
        if (run !== this.#run) return;
        this.#found.push(...this.#hits(page));
        if (page.length < PAGE || this.#found.length >= FOUND_MAX) break;
        before = page[0].seq;
      }
    }
    if (this.#found.length === 0 && this.#needle !== '' && this.#canGoBack() && !isSecond) {
      setText(this.count, 'Searching…');
      await this.#back();
      if (run === this.#run) await this.#search(true);
      return;
    }
    this.#show();
    if (this.#found.length > 0) this.#step(1);
    else this.#on.show(0, this.#needle);
  }

  #canGoBack() {
    return this.#thread.more && this.#app.connection === 'online';
  }

  async #back() {
    for (let page = 0; page < BACK_PAGES && this.#canGoBack(); page++) await this.#thread.older();
  }

  /** @param {any[]} entries ascending */
  #hits(entries) {
    const hits = fold(entries).filter(m => m.kind === 'message' && !m.deleted && m.text.toLowerCase().includes(this.#needle));
    return hits.map(m => m.seq).reverse();
  }

  #show() {
    const count = this.#found.length;
    const text = this.#needle === '' ? '' : count === 0 ? 'Nothing found' : `${this.#at + 1} of ${count >= FOUND_MAX ? `${FOUND_MAX}+` : count}`;
    setText(this.count, text);
    this.back.hidden = this.#needle === '' || !this.#canGoBack();
  }

  /** @param {1 | -1} step 1: older */
  #step(step) {
    if (this.#found.length === 0) return;
    this.#at = (this.#at + step + this.#found.length) % this.#found.length;
    this.#show();
    announce(`${this.#at + 1} of ${this.#found.length}`);
    this.#on.show(this.#found[this.#at], this.#needle);
  }

  async #further() {
    this.back.disabled = true;
    await this.#back();
    this.back.disabled = false;
    await this.#search(true);
  }
}
