// The list of conversations: latest activity first, unread counts, presence, a filter, and the person's own menu.

import { directId } from '../../../../client-js/src/index.js';
import { h, icon, iconButton, setAttr, setText } from '../dom.js';
import { counted, hue, initials, shortWhen } from '../format.js';
import { dialogs, menus, use } from '../later.js';
import { isMuted, settings } from '../rooms.js';

/** @typedef {import('../rooms.js').Room} Room */

export class Sidebar {
  #app;
  #shell;
  /** @type {Map<string, ReturnType<typeof makeRow>>} */
  #rows = new Map();
  /** As shown, top down. @type {string[]} */
  #order = [];
  #withArchived = false;

  /** @param {import('../app.js').App} app @param {import('./shell.js').Shell} shell */
  constructor(app, shell) {
    this.#app = app;
    this.#shell = shell;
    const name = app.user;
    const open = (/** @type {string} */ conv) => shell.open(conv);
    this.me = h('button', { class: 'me', type: 'button', 'aria-haspopup': 'menu', onclick: () => use(menus, m => m.ownMenu(app, shell, this.me)) },
      h('span', { class: 'avatar', 'data-hue': hue(name), 'aria-hidden': 'true' }, initials(name)), (this.name = h('span', { class: 'me-name' }, name)), h('span', { class: 'me-state' }, (this.state = h('span', { class: 'visually-hidden' }))), h('span', { class: 'visually-hidden' }, 'Menu'));
    this.filter = h('input', { type: 'search', placeholder: 'Find a conversation', 'aria-label': 'Find a conversation', oninput: () => this.render(), onkeydown: (/** @type {KeyboardEvent} */ e) => this.#onFilterKey(e) });
    this.list = h('ul', { class: 'rooms', 'aria-label': 'Conversations', onkeydown: (/** @type {KeyboardEvent} */ e) => this.#onListKey(e) });
    this.archived = h('button', { class: 'archived', type: 'button', hidden: true, onclick: () => ((this.#withArchived = !this.#withArchived), this.render()) });
    this.empty = h('div', { class: 'rooms-empty', hidden: true });
    this.el = h('nav', { class: 'sidebar', 'aria-label': 'Conversations' },
      h('header', { class: 'bar' }, this.me, iconButton('plus', 'New conversation (direct, group or channel)', () => use(dialogs, d => d.newConversation(app, open)))),
      h('div', { class: 'filter' }, icon('search'), this.filter), h('div', { class: 'rooms-frame' }, this.list, this.archived), this.empty);
  }

  focusFilter() {
    this.#shell.close();
    this.filter.focus();
    this.filter.select();
  }

  /** @param {number} step @returns {string | undefined} */
  neighbour(step) {
    const at = this.#order.indexOf(this.#app.current ?? '');
    return this.#order[at < 0 ? 0 : at + step];
  }

  /** @param {KeyboardEvent} event */
  #onFilterKey(event) {
    if (event.key === 'Escape' && this.filter.value !== '') {
      event.preventDefault();
      this.filter.value = '';
      this.render();
    } else if (event.key === 'ArrowDown') {
      event.preventDefault();
      this.#focus(0);
    } else if (event.key === 'Enter' && this.#order.length > 0) {
      this.#shell.open(this.#order[0]);
      this.filter.value = '';
      this.render();
    }
  }

  /** @param {KeyboardEvent} event */
  #onListKey(event) {
    const at = this.#order.indexOf(/** @type {any} */ (document.activeElement)?.dataset?.conv ?? '');
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.#order.length - 1 }[event.key];
    if (to === undefined || event.altKey) return;
    event.preventDefault();
    if (to < 0) this.filter.focus();
    else this.#focus(to);
  }

  /** @param {number} at */
  #focus(at) {
    const conv = this.#order[Math.min(at, this.#order.length - 1)];
    this.#rows.get(conv)?.link.focus();
  }

  render() {
    const { rooms, current } = this.#app;
    const wanted = this.filter.value.trim().toLowerCase();
    const all = rooms.list();
    const isShown = (/** @type {Room} */ room) => (wanted === '' ? this.#withArchived || !settings(room).archived || room.conv === current : this.#isLike(room, wanted));
    const shown = all.filter(isShown);
    const archived = all.filter(room => settings(room).archived).length;
    this.archived.hidden = archived === 0 || wanted !== '';
    setText(this.archived, this.#withArchived ? 'Hide archived conversations' : `Archived (${archived})`);
    this.#order = shown.map(room => room.conv);
    let next = this.list.firstElementChild;
    for (const room of shown) {
      let row = this.#rows.get(room.conv);
      if (!row) this.#rows.set(room.conv, (row = this.#makeRow(room)));
      this.#fill(row, room, room.conv === current);
      if (row.el === next) next = next.nextElementSibling;
      else this.list.insertBefore(row.el, next);
    }
    while (next) {
      const gone = next;
      next = next.nextElementSibling;
      gone.remove();
    }
    this.#renderEmpty(shown.length === 0, wanted);
    setAttr(this.me, 'data-state', this.#app.connection);
    setText(this.name, this.#app.people.name(this.#app.user));
    setText(this.state, { online: 'connected', connecting: 'reconnecting', offline: 'offline', stopped: 'stopped' }[this.#app.connection]);
  }

  /** @param {Room} room @param {string} wanted */
  #isLike(room, wanted) {
    return `${this.#app.titleOf(room)} ${room.peer ?? ''}`.toLowerCase().includes(wanted);
  }

  /** @param {Room} room */
  #makeRow(room) {
    const row = makeRow(room.conv);
    row.link.addEventListener('contextmenu', (/** @type {Event} */ event) => {
      event.preventDefault();
      void use(menus, m => m.roomMenu(this.#app, room, this.#shell, row.link));
    });
    return row;
  }

  /** @param {boolean} isEmpty @param {string} wanted */
  #renderEmpty(isEmpty, wanted) {
    this.empty.hidden = !isEmpty;
    if (!isEmpty) return;
    if (wanted === '') {
      this.empty.replaceChildren(h('p', {}, 'No conversations yet.'), h('p', { class: 'muted' }, 'Write to somebody whose name you know.'));
      return;
    }
    const canWrite = /^[a-z0-9_.-]{1,64}$/.test(wanted);
    const write = () => {
      this.filter.value = '';
      this.#shell.open(directId(this.#app.user, wanted));
    };
    this.empty.replaceChildren(h('p', {}, 'Nothing of this name here.'), canWrite ? h('button', { class: 'button', type: 'button', onclick: write }, `Write to ${wanted}`) : '');
  }

  /** @param {ReturnType<typeof makeRow>} row @param {Room} room @param {boolean} isCurrent */
  #fill(row, room, isCurrent) {
    const { rooms, people, user } = this.#app;
    const name = this.#app.titleOf(room);
    const unread = rooms.unread(room);
    const draft = isCurrent ? '' : this.#app.draft(room.conv);
    const typing = people.typing(room.conv);
    if (row.name.textContent !== name) {
      setText(row.name, name);
      setText(row.avatar, room.kind === 'direct' ? initials(name) : '');
      if (room.kind !== 'direct') row.avatar.replaceChildren(icon(room.kind));
      row.avatar.dataset.hue = String(hue(room.peer ?? room.conv));
    }
    setText(row.when, shortWhen(room.ts));
    row.link.setAttribute('aria-current', isCurrent ? 'page' : 'false');
    row.line.classList.toggle('is-draft', draft !== '');
    row.line.classList.toggle('is-typing', typing.length > 0);
    setText(row.line, typing.length > 0 ? 'typing…' : draft !== '' ? `Draft: ${draft}` : preview(room, user, people));
    const { pinned, unread: isMarked } = settings(room);
    const muted = isMuted(room);
    const named = rooms.mentions(room);
    setText(row.named, named > 0 ? `@${named > 99 ? '99+' : named}` : '');
    row.named.hidden = named === 0;
    setText(row.badge, unread > 0 ? (unread > 999 ? '999+' : String(unread)) : '');
    row.badge.hidden = unread === 0 && !isMarked;
    row.badge.classList.toggle('is-muted', muted);
    const marks = `${pinned ? 'pin ' : ''}${muted ? 'mute' : ''}`;
    if (row.marks.dataset.marks !== marks) {
      row.marks.dataset.marks = marks;
      row.marks.replaceChildren(...marks.split(' ').filter(Boolean).map(name => icon(name)));
    }
    const { last } = room;
    const tick = last && last.from === user && !last.isEvent && draft === '' ? (last.waiting ? 'clock' : rooms.progress(room, last.seq)) : '';
    if (row.tick.dataset.tick !== tick) {
      row.tick.dataset.tick = tick;
      row.tick.replaceChildren(...(tick === '' ? [] : [icon(tick === 'clock' ? 'clock' : tick === 'sent' ? 'check' : 'checks')]));
    }
    const presence = people.presence(room.peer);
    setAttr(row.avatar, 'data-presence', presence?.state ?? null);
    setText(row.more, [room.kind === 'channel' ? 'channel' : '', named > 0 ? `names you ${counted(named, 'time')}` : '', unread > 0 ? 'unread' : isMarked ? 'marked as unread' : '', pinned ? 'pinned' : '', muted ? 'muted' : '', presence ? presence.state : ''].filter(Boolean).join(', '));
    row.el.classList.toggle('is-unread', unread > 0 || isMarked === true);
  }
}

/** @param {string} conv */
function makeRow(conv) {
  const avatar = h('span', { class: 'avatar', 'aria-hidden': 'true' });
  const name = h('span', { class: 'room-name' });
  const when = h('span', { class: 'room-when' });
  const tick = h('span', { class: 'tick' });
  const line = h('span', { class: 'room-line' });
  const marks = h('span', { class: 'room-marks' });
  const named = h('span', { class: 'named', hidden: true });
  const badge = h('span', { class: 'badge' });
  const more = h('span', { class: 'visually-hidden' });
  const link = h('a', { href: `#c=${encodeURIComponent(conv)}`, 'data-conv': conv }, avatar, h('span', { class: 'room-top' }, name, marks, when), h('span', { class: 'room-bottom' }, tick, line, named, badge, more));
  return { el: h('li', { class: 'room' }, link), link, avatar, name, marks, when, tick, line, named, badge, more };
}

/** @param {Room} room @param {string} me @param {import('../people.js').People} people */
function preview({ last, kind }, me, people) {
  if (!last) return 'No messages yet';
  const text = last.text.replace(/\s+/g, ' ').slice(0, 160);
  if (last.isEvent || last.from === me) return text;
  if (kind !== 'direct' && people.isBlocked(last.from)) return 'Somebody you have blocked wrote';
  return kind !== 'group' ? text : `${people.name(last.from)}: ${text}`;
}
