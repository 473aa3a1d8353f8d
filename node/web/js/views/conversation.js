// One conversation on the screen: its head, its rows, what is written. Reads when the person looks, loads when they scroll.

import { announce, h, icon, iconButton, setAttr, setText } from '../dom.js';
import { counted, hue, initials, shortWhen } from '../format.js';
import { dialogs, group, menus, search, use } from '../later.js';
import { isAdmin, isBig, mayWrite, settings } from '../rooms.js';
import { VirtualList } from '../virtual.js';
import { Composer } from './composer.js';
import { estimate, render, signature } from './rows.js';

/** Older ones are fetched before the reader is there. */
const NEAR_TOP_ROWS = 25;
const READ_AFTER_MS = 200;
/** How often a group's marks are asked for while somebody looks; where they come by themselves, once in so many times, for one may be lost. */
const MARKS_EVERY_MS = 4_000;
const LIVE_ROUNDS = 10;

export class Conversation {
  #app;
  #thread;
  #room;
  #list;
  /** @type {any} */
  #readTimer = 0;
  /** @type {any} */
  #marksTimer = 0;
  #marksRound = 0;
  /** @type {import('./search.js').Search | null} */
  #search = null;
  #needle = '';
  #marked = 0;
  /** The row that the keyboard is on. @type {string | null} */
  #active = null;
  #announced = 0;
  #isOver = false;

  /** @param {import('../app.js').App} app @param {string} conv @param {import('./shell.js').Shell} shell */
  constructor(app, conv, shell) {
    this.#app = app;
    this.conv = conv;
    this.#room = app.rooms.get(conv) ?? app.rooms.make(conv);
    this.#thread = app.thread(conv);
    this.composer = new Composer(app, conv, this.#thread, { sent: () => this.#list.toEnd(), editLast: () => this.#editLast(), toList: () => this.#focusList() });
    this.name = h('h2', { class: 'bar-name' });
    this.state = h('p', { class: 'bar-state' });
    this.avatar = h('span', { class: 'avatar', 'aria-hidden': 'true', 'data-hue': hue(this.#room.peer ?? conv) });
    const isGroup = this.#room.kind !== 'direct';
    const head = isGroup ? h('button', { class: 'bar-title', type: 'button', title: 'Members and settings', onclick: () => use(group, g => g.groupInfo(app, this.#room, shell)) }, this.avatar, h('span', {}, this.name, this.state)) : h('div', { class: 'bar-title' }, this.avatar, h('span', {}, this.name, this.state));
    this.viewport = h('div', { class: 'messages', role: 'feed', tabindex: '0', 'aria-label': 'Messages', onkeydown: (/** @type {KeyboardEvent} */ e) => this.#onKey(e) });
    this.down = h('button', { class: 'to-end', type: 'button', hidden: true, 'aria-label': 'To the newest message', onclick: () => this.#toEnd() }, icon('down'), h('span', { class: 'badge', hidden: true }));
    this.atMe = h('button', { class: 'to-end at-me', type: 'button', hidden: true, 'aria-label': 'To the next message that names you', onclick: () => this.#toMention() }, icon('at'), h('span', { class: 'badge' }));
    const options = (/** @type {any} */ { currentTarget }) => use(menus, m => m.roomMenu(app, this.#room, shell, currentTarget));
    this.el = h('section', { class: 'conversation', 'aria-label': 'Conversation' },
      h('header', { class: 'bar' }, iconButton('back', 'Back to the list', () => shell.close(), { class: 'icon-button back' }), head, iconButton('search', 'Search in this conversation', () => this.search()), iconButton('more', 'Options', options, { 'aria-haspopup': 'menu' })),
      h('div', { class: 'messages-frame' }, this.viewport, this.atMe, this.down), this.composer.el);
    this.#list = new VirtualList(this.viewport, {
      render: row => render(row, this.#context()),
      signature: row => signature(row, this.#context()),
      estimate: (row, width) => estimate(row, width, this.#thread),
      onMove: () => this.#onMove(),
    });
    this.#thread.onChange = () => app.changed();
  }

  async start() {
    const { readN } = this.#room;
    const unread = this.#app.rooms.unread(this.#room);
    this.#announced = this.#thread.last ?? 0;
    if (!this.#thread.isLoaded) await this.#thread.open(readN, unread);
    else this.#thread.markNew(unread > 0 ? readN : Infinity);
    if (this.#isOver) return;
    this.#announced = this.#thread.last ?? 0;
    this.#draw();
    const first = this.#thread.rows().find(row => row.isNew);
    if (first) this.#list.toKey(first.key, 0.25);
    else this.#list.toEnd();
    if (settings(this.#room).unread) void this.#app.rooms.settle(this.#room, { unread: false }).catch(() => {});
    this.markRead();
    if (matchMedia('(hover: hover)').matches) this.composer.focus();
    if (this.#room.kind !== 'direct') void this.#marks();
    this.#app.people.watch(this.#room.peer ? [this.#room.peer] : []);
  }

  end() {
    this.#isOver = true;
    clearTimeout(this.#readTimer);
    clearTimeout(this.#marksTimer);
    void this.#app.rooms.follow(null);
    this.#thread.onChange = () => {};
    this.composer.end();
    this.#list.end();
  }

  /** Who has got and read what, in a group. */
  async #marks() {
    const { rooms, client } = this.#app;
    if (this.#room.size === null && client.status.state === 'online') await rooms.learn(this.conv).catch(() => {});
    if (this.#isOver) return;
    if (client.status.state === 'online' && document.visibilityState === 'visible') {
      void rooms.follow(isBig(this.#room) ? null : this.conv);
      if (this.#wantsMarks()) await rooms.members(this.conv).catch(() => {});
    }
    if (!this.#isOver) this.#marksTimer = setTimeout(() => this.#marks(), MARKS_EVERY_MS);
  }

  /** As long as somebody has not read what was written last here. */
  #wantsMarks() {
    const { rooms } = this.#app;
    if (isBig(this.#room)) return false;
    if (this.#room.members === null) return true;
    this.#marksRound += 1;
    if (rooms.isLive(this.conv) && this.#marksRound % LIVE_ROUNDS !== 0) return false;
    const lastOwn = this.#thread.lastOwn();
    return lastOwn !== undefined && rooms.progress(this.#room, lastOwn) !== 'read';
  }

  /** @returns {import('./rows.js').Context} */
  #context() {
    return { app: this.#app, thread: this.#thread, room: this.#room, needle: this.#needle, marked: this.#marked, actions: this.#actions };
  }

  #actions = {
    react: (/** @type {number} */ seq, /** @type {string} */ emoji) => this.#react(seq, emoji),
    pick: (/** @type {number} */ seq, /** @type {HTMLElement} */ at) => use(menus, m => m.emojiMenu(at, emoji => this.#react(seq, emoji))),
    reply: (/** @type {number} */ seq) => this.composer.reply(seq),
    more: (/** @type {number} */ seq, /** @type {HTMLElement} */ at) => this.#more(seq, at),
    jump: (/** @type {number} */ seq) => void this.jump(seq),
    unhide: (/** @type {number} */ seq) => {
      this.#thread.unhidden.add(seq);
      this.#app.changed();
    },
    resend: (/** @type {string} */ cid) => void this.#app.run(() => this.#app.client.resend(cid)),
    dismiss: (/** @type {string} */ cid) => this.#app.dismiss(this.conv, cid),
    restore: (/** @type {string} */ cid) => {
      const row = this.#thread.rows().find(r => r.key === cid);
      if (row?.pending) this.composer.restore(row.pending.command.content);
      this.#app.dismiss(this.conv, cid);
    },
    older: () => void this.#thread.older(),
  };

  /** Something may have changed. */
  render() {
    this.#renderHead();
    this.composer.render(this.#room);
    this.#draw();
    this.#renderMentions();
  }

  #draw() {
    const rows = this.#thread.rows();
    if (rows !== this.#list.items) this.#list.set(rows);
    else this.#list.update();
    this.#announceNew();
    const { connection } = this.#app;
    if (connection === 'online' && this.#thread.trouble === 'offline' && this.#thread.first === undefined) void this.#thread.older();
  }

  #renderHead() {
    const room = this.#room;
    const name = this.#app.titleOf(room);
    setText(this.name, name);
    if (room.kind === 'direct') setText(this.avatar, initials(name));
    else if (!this.avatar.firstChild) this.avatar.append(icon(room.kind));
    const presence = this.#app.people.presence(room.peer);
    setAttr(this.avatar, 'data-presence', presence?.state ?? null);
    setText(this.state, this.#stateText(presence));
    this.composer.typing(this.#app.people.typing(this.conv).map(user => this.#app.people.name(user)), room.kind !== 'direct');
  }

  /** @param {{ state: string, at?: number } | undefined} presence */
  #stateText(presence) {
    const room = this.#room;
    if (room.state?.member === false) return 'You are not a member any more';
    if (room.kind !== 'direct') {
      const size = room.size === null ? '' : counted(room.size, 'member');
      return room.kind === 'group' ? size || 'Group' : `Channel${size && ` · ${size}`}`;
    }
    if (room.peer === this.#app.user) return 'Only you';
    if (this.#app.people.isBlocked(room.peer)) return 'Blocked by you';
    if (presence?.state === 'online') return 'Online';
    if (presence?.state === 'away') return 'Away';
    if (presence?.at) return `Last seen ${shortWhen(presence.at)}`;
    return presence ? 'Offline' : 'Direct conversation';
  }

  /** New ones of others are read out, unless there are many. */
  #announceNew() {
    const last = this.#thread.last ?? 0;
    if (last <= this.#announced) return;
    const fresh = this.#thread.rows().filter(row => row.type === 'message' && (row.seq ?? 0) > this.#announced && row.from !== this.#app.user && !this.#app.people.isBlocked(row.from));
    this.#announced = last;
    if (fresh.length === 0) return;
    if (fresh.length > 3) announce(`${fresh.length} new messages`);
    else announce(fresh.map(row => `${this.#app.people.name(row.from ?? '')}: ${this.#thread.message(row.seq ?? 0)?.text}`).join('. '));
  }

  // Scrolling and reading.

  #onMove() {
    const [first] = this.#list.inView();
    // Not while a page that has come is not shown yet: the next one would be asked for at once.
    const isShown = this.#list.items === this.#thread.rows();
    if (isShown && first < NEAR_TOP_ROWS && this.#thread.isLoaded && this.#thread.more && !this.#thread.isLoading && !this.#thread.trouble) void this.#thread.older();
    this.#renderMentions();
    const unread = this.#app.rooms.unread(this.#room);
    this.down.hidden = this.#list.isAtEnd;
    const badge = /** @type {HTMLElement} */ (this.down.lastElementChild);
    badge.hidden = unread === 0;
    setText(badge, String(unread));
    this.markRead();
  }

  /** What is in view is read, if the person looks. */
  markRead() {
    if (this.#readTimer !== 0) return;
    this.#readTimer = setTimeout(() => {
      this.#readTimer = 0;
      if (this.#isOver || document.visibilityState !== 'visible' || !document.hasFocus()) return;
      const [, last] = this.#list.inView();
      const rows = /** @type {import('../thread.js').Row[]} */ (this.#list.items);
      let at = last;
      while (at >= 0 && rows[at]?.seq === undefined) at -= 1;
      // At the end also what shows nothing of its own is read: edits, reactions.
      const seq = this.#list.isAtEnd ? this.#thread.last : rows[at]?.seq;
      if (seq === undefined || seq <= (this.#room.state?.read ?? 0)) return;
      const entry = this.#thread.entry(seq);
      void this.#app.client.read(this.conv, seq);
      if (entry) this.#app.rooms.onRead(this.conv, seq, entry.n);
    }, READ_AFTER_MS);
  }

  /** How many unread messages name this person, as long as they are not all in view. */
  #renderMentions() {
    const count = this.#app.rooms.mentions(this.#room);
    const seq = count > 0 ? this.#app.rooms.nextMention(this.#room) : undefined;
    const [, last] = this.#list.inView();
    const at = this.#list.items[last];
    this.atMe.hidden = seq === undefined || (/** @type {any} */ (at)?.seq ?? 0) >= seq;
    setText(/** @type {HTMLElement} */ (this.atMe.lastElementChild), String(count));
  }

  #toMention() {
    const seq = this.#app.rooms.nextMention(this.#room);
    if (seq !== undefined) void this.jump(seq);
  }

  #toEnd() {
    this.#list.toEnd();
    this.composer.focus();
  }

  /** @param {number} seq */
  async jump(seq) {
    if (!(await this.#thread.reach(seq)) || this.#isOver) return announce('This message is not here.');
    this.#draw();
    const row = this.#thread.rows().find(r => r.seq === seq);
    if (!row) return;
    this.#marked = seq;
    this.#list.toKey(row.key);
    setTimeout(() => {
      if (this.#marked !== seq || this.#needle !== '') return;
      this.#marked = 0;
      this.#app.changed();
    }, 1_800);
  }

  // Search.

  search() {
    void use(search, ({ Search }) => {
      if (this.#isOver) return;
      if (!this.#search) {
        this.#search = new Search(this.#app, this.#thread, { show: (seq, needle) => this.#showFound(seq, needle), close: () => this.#endSearch() });
        this.el.firstElementChild?.after(this.#search.el);
      }
      this.#search.open();
    });
  }

  /** @param {number} seq @param {string} needle */
  async #showFound(seq, needle) {
    this.#needle = needle;
    if (seq > 0) await this.jump(seq);
    else this.#app.changed();
  }

  #endSearch() {
    this.#needle = '';
    this.#marked = 0;
    this.#app.changed();
    this.composer.focus();
  }

  // What is done with messages.

  /** @param {number} seq @param {string} emoji */
  #react(seq, emoji) {
    const mine = this.#thread.message(seq)?.reactions[emoji]?.includes(this.#app.user);
    void this.#app.run(() => this.#app.client.react({ conv: this.conv, seq, emoji, on: !mine }));
  }

  /** @param {number} seq @param {HTMLElement} at */
  #more(seq, at) {
    const message = this.#thread.message(seq);
    if (!message) return;
    const own = message.from === this.#app.user;
    const others = own ? this.#app.rooms.others(this.#room) : [];
    const words = `Read by ${others.filter(m => m.read >= seq).length} of ${others.length}`;
    void use(menus, m => m.messageMenu(at, {
      text: message.text,
      reply: mayWrite(this.#room) ? () => this.composer.reply(seq) : undefined,
      edit: own && mayWrite(this.#room) ? () => this.composer.edit(seq) : undefined,
      remove: own || isAdmin(this.#room) ? () => this.#remove(seq) : undefined,
      receipts: others.length > 0 ? { app: this.#app, room: this.#room, seq, words } : undefined,
      report: own ? undefined : { app: this.#app, conv: this.conv, user: message.from, seq },
    }));
  }

  /** @param {number} seq */
  #remove(seq) {
    void use(dialogs, async d => {
      if (await d.confirmDelete()) void this.#app.run(() => this.#app.client.delete({ conv: this.conv, seq }));
    });
  }

  #editLast() {
    const seq = this.#thread.lastOwn();
    if (seq !== undefined) this.composer.edit(seq);
  }

  escape() {
    if (this.#search?.isOpen) this.#search.close();
    else if (!this.composer.cancel()) this.composer.focus();
  }

  // The keyboard among the messages.

  #focusList() {
    const rows = this.#thread.rows();
    this.#activate(rows.length - 1);
  }

  /** @param {number} at */
  #activate(at) {
    const rows = this.#thread.rows();
    const row = rows[Math.min(Math.max(at, 1), rows.length - 1)];
    if (!row) return;
    this.#active = row.key;
    this.#list.reveal(row.key);
    const el = this.#list.row(row.key);
    if (el) {
      el.tabIndex = -1;
      el.focus({ preventScroll: true });
    }
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const target = /** @type {HTMLElement} */ (event.target);
    if (event.altKey || event.ctrlKey || event.metaKey || target.closest('.tools, .reactions, .quote, .failure')) return;
    const rows = this.#thread.rows();
    const on = rows.findIndex(row => row.key === this.#active);
    const row = rows[on];
    const isOn = target !== this.viewport;
    const done = () => event.preventDefault();
    switch (event.key) {
      case 'ArrowUp': return done(), this.#activate(isOn ? on - 1 : rows.length - 1);
      case 'ArrowDown': return done(), isOn && on === rows.length - 1 ? this.composer.focus() : this.#activate(isOn ? on + 1 : rows.length - 1);
      case 'End': return done(), this.#list.toEnd(), this.#activate(rows.length - 1);
      default:
    }
    if (!isOn || row?.seq === undefined || row.type !== 'message' || this.#thread.message(row.seq)?.deleted) return;
    const { seq } = row;
    const own = row.from === this.#app.user;
    const el = /** @type {HTMLElement} */ (this.#list.row(row.key)?.querySelector('.bubble') ?? this.viewport);
    switch (event.key) {
      case 'r': return mayWrite(this.#room) ? (done(), this.composer.reply(seq)) : undefined;
      case 'e': return own && mayWrite(this.#room) ? (done(), this.composer.edit(seq)) : undefined;
      case '+': return done(), this.#actions.pick(seq, el);
      case 'Enter': return done(), this.#more(seq, el);
      case 'Delete': return own ? (done(), this.#remove(seq)) : undefined;
      default:
    }
  }
}
