// Where messages are written: new ones, replies, edits. What is written stays, also when the page is closed.

import { limits, textOf } from '../../../../client-js/src/index.js';
import { problem } from '../app.js';
import { announce, h, icon, iconButton, setText } from '../dom.js';
import { listed } from '../format.js';
import { menus, suggest, use } from '../later.js';
import { mayWrite } from '../rooms.js';
import { named, quoteText } from './rows.js';

const HEIGHT_MAX = 180;

/** Bytes of a text on the wire. @param {string} text */
const utf8Length = text => new TextEncoder().encode(text).length;

export class Composer {
  #app;
  #conv;
  #thread;
  #on;
  /** @type {{ kind: 'reply' | 'edit', seq: number } | null} */
  #about = null;
  /** Why nothing can be written here; none: it can. */
  #closed = '';
  /** @type {import('./suggest.js').Suggest | null} */
  #suggest = null;

  /** @param {import('../app.js').App} app @param {string} conv @param {import('../thread.js').Thread} thread
   * @param {{ sent: () => void, editLast: () => void, toList: () => void }} on */
  constructor(app, conv, thread, on) {
    this.#app = app;
    this.#conv = conv;
    this.#thread = thread;
    this.#on = on;
    this.input = h('textarea', { rows: '1', placeholder: 'Write a message', 'aria-label': 'Message', enterkeyhint: 'send', autocomplete: 'off',
      oninput: () => this.#onInput(), onkeydown: (/** @type {KeyboardEvent} */ e) => this.#onKey(e) });
    this.button = iconButton('send', 'Send', () => void this.#submit(), { class: 'icon-button send' });
    this.aboutText = h('span', {});
    this.aboutBar = h('div', { class: 'about', hidden: true }, icon('reply'), h('div', {}, h('strong', {}), this.aboutText), iconButton('close', 'Cancel', () => this.cancel()));
    this.typingLine = h('p', { class: 'typing', 'aria-hidden': 'true' });
    this.error = h('p', { class: 'form-error composer-error', hidden: true });
    this.gone = h('p', { class: 'composer-gone', hidden: true });
    const pick = (/** @type {any} */ { currentTarget }) => use(menus, m => m.emojiMenu(currentTarget, emoji => this.#insert(emoji)));
    this.row = h('div', { class: 'composer-row' }, iconButton('react', 'Insert an emoji', pick), this.input, this.button);
    this.el = h('footer', { class: 'composer' }, this.typingLine, this.aboutBar, this.error, this.row, this.gone);
    this.#set(app.draft(conv));
  }

  focus() {
    this.input.focus({ preventScroll: true });
  }

  end() {
    this.#save();
  }

  /** @param {import('../rooms.js').Room} room */
  render(room) {
    const closed = room.state?.member === false ? 'You are not a member of this conversation any more. You can still read what you had.' : mayWrite(room) ? '' : 'Only the owner and admins write in this channel.';
    if (closed === this.#closed) return;
    this.#closed = closed;
    if (closed) this.cancel();
    this.row.hidden = closed !== '';
    this.gone.hidden = closed === '';
    setText(this.gone, closed);
  }

  /** @param {string[]} users @param {boolean} withNames */
  typing(users, withNames) {
    const text = users.length === 0 ? '' : withNames ? `${listed(users.slice(0, 3))} ${users.length === 1 ? 'is' : 'are'} typing…` : 'typing…';
    setText(this.typingLine, text);
    this.typingLine.classList.toggle('on', text !== '');
  }

  /** @param {string} text */
  #set(text) {
    this.input.value = text;
    this.#grow();
  }

  #grow() {
    this.input.style.height = 'auto';
    if (this.input.scrollHeight > 0) this.input.style.height = `${Math.min(this.input.scrollHeight, HEIGHT_MAX)}px`;
    this.el.classList.toggle('has-text', this.input.value.trim() !== '');
  }

  #save() {
    if (this.#about?.kind !== 'edit') this.#app.keepDraft(this.#conv, this.input.value);
  }

  #onInput() {
    this.#grow();
    this.#say('');
    this.#save();
    if (this.#suggest) this.#suggest.look();
    else if (this.input.value.includes('@') && this.#app.rooms.get(this.#conv)?.peer === undefined) this.#offer();
    if (this.input.value.trim() !== '' && this.#about?.kind !== 'edit') this.#app.client.typing(this.#conv);
  }

  /** Members, behind an at sign. */
  #offer() {
    void use(suggest, ({ Suggest }) => {
      this.#suggest ??= new Suggest(this.#app, this.#conv, this.input, () => this.#onInput());
      if (!this.#suggest.el.isConnected) this.el.prepend(this.#suggest.el);
      this.#suggest.look();
    });
  }

  /** @param {string} text */
  #insert(text) {
    const { selectionStart, selectionEnd } = this.input;
    this.input.setRangeText(text, selectionStart, selectionEnd, 'end');
    this.#onInput();
    this.focus();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.isComposing || this.#suggest?.onKey(event)) return;
    if (event.key === 'Enter' && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      void this.#submit();
    } else if (event.key === 'ArrowUp' && this.input.value === '' && !event.altKey) {
      event.preventDefault();
      if (event.shiftKey) this.#on.toList();
      else this.#on.editLast();
    } else if (event.key === 'Escape' && this.#about) {
      event.preventDefault();
      this.cancel();
    }
  }

  /** @param {string} text */
  #say(text) {
    setText(this.error, text);
    this.error.hidden = text === '';
    if (text) announce(text, 'alert');
  }

  /** @param {number} seq */
  reply(seq) {
    if (this.#about?.kind === 'edit') this.cancel();
    this.#turn({ kind: 'reply', seq });
    const quoted = this.#thread.message(seq);
    this.#show(`Reply to ${quoted?.from === this.#app.user ? 'yourself' : this.#app.people.name(quoted?.from ?? '')}`, quoteText(this.#thread, seq));
  }

  /** @param {number} seq */
  edit(seq) {
    const message = this.#thread.message(seq);
    if (!message || message.deleted) return;
    this.#save();
    this.#turn({ kind: 'edit', seq });
    this.#show('Edit', quoteText(this.#thread, seq));
    this.#set(message.text);
    this.input.setSelectionRange(message.text.length, message.text.length);
  }

  /** A message that was not sent. @param {any} content */
  restore(content) {
    this.#set(textOf({ body: content.body }));
    if (content.reply_to !== undefined) this.reply(content.reply_to);
    this.#save();
    this.focus();
  }

  /** @param {{ kind: 'reply' | 'edit', seq: number }} about */
  #turn(about) {
    this.#about = about;
    this.aboutBar.hidden = false;
    this.focus();
  }

  /** @param {string} what @param {string} text */
  #show(what, text) {
    setText(/** @type {Element} */ (this.aboutBar.querySelector('strong')), what);
    setText(this.aboutText, text);
  }

  /** False: there was nothing to cancel. */
  cancel() {
    if (!this.#about) return false;
    const wasEdit = this.#about.kind === 'edit';
    this.#about = null;
    this.aboutBar.hidden = true;
    if (wasEdit) this.#set(this.#app.draft(this.#conv));
    this.focus();
    return true;
  }

  /** Members who are named behind an at sign; in a big group those who were chosen from the list. @param {string} text */
  #mentions(text) {
    const room = this.#app.rooms.get(this.#conv);
    if (!room || room.peer !== undefined) return [];
    const isKnown = (/** @type {string} */ name) => room.members?.some(m => m.user === name) || this.#suggest?.chosen.has(name);
    return named(text).filter(isKnown).slice(0, limits.MENTIONS_MAX);
  }

  async #submit() {
    const text = this.input.value.trim();
    if (text === '') return;
    if (utf8Length(text) > limits.BODY_BYTES_MAX) return this.#say(`This is too long for one message (at most ${limits.BODY_BYTES_MAX / 1024} KiB).`);
    const about = this.#about;
    const { client, rooms } = this.#app;
    const conv = this.#conv;
    const room = rooms.get(conv);
    try {
      if (about?.kind === 'edit') {
        if (text !== this.#thread.message(about.seq)?.text) await client.edit({ conv, seq: about.seq, text });
        this.cancel();
        return;
      }
      const mentions = this.#mentions(text);
      const more = { text, ...(about ? { reply_to: about.seq } : {}), ...(mentions.length > 0 ? { mentions } : {}) };
      // Stored before it is shown as sent; the field is free at once, for whoever writes fast.
      const stored = room?.peer !== undefined ? client.send({ to: room.peer, ...more }) : client.send({ conv, ...more });
      this.#set('');
      this.cancel();
      this.#save();
      this.#on.sent();
      await stored;
    } catch (error) {
      if (this.input.value === '') this.#set(text);
      this.#say(problem(error));
    }
  }
}
