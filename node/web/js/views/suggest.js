// Whom an at sign may name: a list above the field, as long as a name is being typed. The field keeps the focus.

import { h, setAttr } from '../dom.js';
import { hue, initials } from '../format.js';

const SHOWN_MAX = 6;
const TYPING_PAUSE_MS = 200;

export class Suggest {
  #app;
  #conv;
  #input;
  #onChange;
  /** Where the at sign stands; -1: no name is being typed. */
  #from = -1;
  /** @type {string[]} */
  #users = [];
  #on = 0;
  /** The name that Escape was pressed at. */
  #dismissed = -1;
  /** @type {any} */
  #timer = 0;
  /** Who was put in from here: members, also where not all are known. @type {Set<string>} */
  chosen = new Set();

  /** @param {import('../app.js').App} app @param {string} conv @param {HTMLTextAreaElement} input @param {() => void} onChange */
  constructor(app, conv, input, onChange) {
    this.#app = app;
    this.#conv = conv;
    this.#input = input;
    this.#onChange = onChange;
    this.el = h('ul', { class: 'suggest', id: 'suggest', role: 'listbox', 'aria-label': 'Members to name', hidden: true });
    setAttr(input, 'aria-controls', 'suggest');
    setAttr(input, 'aria-autocomplete', 'list');
    input.addEventListener('blur', () => this.#show([]));
    input.addEventListener('click', () => this.look());
  }

  /** The text or the place in it has changed. */
  look() {
    const { value, selectionStart, selectionEnd } = this.#input;
    const typed = selectionStart === selectionEnd ? /(?:^|\s)@([a-z0-9_.-]*)$/i.exec(value.slice(0, selectionStart)) : null;
    this.#from = typed ? selectionStart - typed[1].length - 1 : -1;
    if (this.#from !== this.#dismissed) this.#dismissed = -1;
    if (!typed || this.#dismissed >= 0) return this.#show([]);
    const begin = typed[1].toLowerCase();
    const { members } = this.#app.rooms.get(this.#conv) ?? {};
    clearTimeout(this.#timer);
    if (members) return this.#show(members.map(m => m.user).filter(user => user !== this.#app.user && this.#isLike(user, begin)));
    this.#timer = setTimeout(() => void this.#ask(begin), TYPING_PAUSE_MS);
  }

  /** @param {string} user @param {string} begin */
  #isLike(user, begin) {
    return user.startsWith(begin) || this.#app.people.name(user).toLowerCase().split(/\s+/).some(word => word.startsWith(begin));
  }

  /** In a group of very many the cluster is asked: for its first members, or for people whose names begin like this. @param {string} begin */
  async #ask(begin) {
    const from = this.#from;
    try {
      const { rooms, people, user } = this.#app;
      const found = begin.length < 2 ? (await rooms.members(this.#conv)).members.map(m => m.user).filter(id => id !== user && this.#isLike(id, begin)) : await people.find(begin);
      if (from === this.#from && from >= 0) this.#show(found);
    } catch {
      // Names can be written without help.
    }
  }

  /** @param {string[]} users */
  #show(users) {
    this.#users = users.slice(0, SHOWN_MAX);
    this.#on = 0;
    this.#draw();
  }

  #draw() {
    const { people } = this.#app;
    this.el.hidden = this.#users.length === 0;
    this.el.replaceChildren(...this.#users.map((user, at) => h('li', { id: `suggest-${at}`, role: 'option', 'aria-selected': String(at === this.#on), onmousedown: (/** @type {Event} */ e) => (e.preventDefault(), this.#take(at)) },
      h('span', { class: 'avatar small', 'data-hue': hue(user), 'aria-hidden': 'true' }, initials(people.name(user))), h('strong', {}, people.name(user)), people.name(user) === user ? null : h('span', { class: 'muted' }, user))));
    setAttr(this.#input, 'aria-activedescendant', this.el.hidden ? null : `suggest-${this.#on}`);
  }

  /** True: the key was for the list. @param {KeyboardEvent} event */
  onKey(event) {
    if (this.el.hidden || event.altKey || event.ctrlKey || event.metaKey) return false;
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step !== undefined) {
      this.#on = (this.#on + step + this.#users.length) % this.#users.length;
      this.#draw();
    } else if ((event.key === 'Enter' && !event.shiftKey) || event.key === 'Tab') {
      this.#take(this.#on);
    } else if (event.key === 'Escape') {
      this.#dismissed = this.#from;
      this.#show([]);
    } else {
      return false;
    }
    event.preventDefault();
    return true;
  }

  /** @param {number} at */
  #take(at) {
    const user = this.#users[at];
    this.chosen.add(user);
    this.#input.setRangeText(`@${user} `, this.#from, this.#input.selectionEnd, 'end');
    this.#show([]);
    this.#onChange();
  }
}
