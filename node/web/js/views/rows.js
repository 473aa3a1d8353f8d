// Rows of a conversation: from what a thread holds to elements. Decides nothing; what the person does goes to `actions`.

import { textOf } from '../../../../client-js/src/index.js';
import { h, icon, iconButton, linked } from '../dom.js';
import { counted, dayName, eventText, exact, hue, initials, listed, time } from '../format.js';
import { mayWrite } from '../rooms.js';

/** @typedef {import('../thread.js').Row} Row */

const WORDS = { waiting: 'Sending', sent: 'Sent', delivered: 'Delivered', read: 'Read', accepted: 'Sent' };
const QUOTE_CHARS = 180;

/**
 * @typedef {object} Context
 * @property {import('../app.js').App} app
 * @property {import('../thread.js').Thread} thread
 * @property {import('../rooms.js').Room} room
 * @property {{ react: (seq: number, emoji: string) => void, pick: (seq: number, at: HTMLElement) => void, reply: (seq: number) => void,
 *   more: (seq: number, at: HTMLElement) => void, jump: (seq: number) => void, unhide: (seq: number) => void, resend: (cid: string) => void, dismiss: (cid: string) => void,
 *   restore: (cid: string) => void, older: () => void }} actions
 * @property {string} needle what is searched for
 * @property {number} marked the seq that the search or a jump stands on
 */

/** Changes when the row looks different. @param {Row} row @param {Context} context @returns {string} */
export function signature(row, context) {
  const { app, thread, room, needle, marked } = context;
  const shape = `${row.type}${row.lead ? 'l' : ''}${row.day ? `d${dayName(row.ts)}` : ''}${row.isNew ? 'n' : ''}${row.tail ? 't' : ''}`;
  if (row.type === 'top') return `top ${thread.isLoading} ${thread.more} ${thread.trouble} ${app.titleOf(room)}`;
  if (row.type === 'pending') return `${shape} ${row.pending?.state} ${row.pending?.why}`;
  if (row.seq === undefined || row.type !== 'message') return shape;
  const message = thread.message(row.seq);
  const tick = row.from === app.user ? tickWords(app, room, row.seq) : '';
  const reactions = Object.entries(message?.reactions ?? {}).map(([emoji, users]) => `${emoji}${users.join()}`).join(' ');
  const quoted = message?.reply_to === undefined ? '' : quoted_(message.reply_to, context);
  const name = room.kind === 'direct' ? '' : `${app.people.name(row.from ?? '')} ${isHidden(row, app, thread, room)} ${mayWrite(room)} ${message?.mentions?.map(app.people.name, app.people)}`;
  return `${shape} ${name} ${message?.edited} ${message?.deleted} ${tick} ${reactions} ${message?.edited ? message.text : ''} ${quoted} ${marked === row.seq} ${needle}`;
}

/** How high it may be, in pixels. @param {Row} row @param {number} width @param {import('../thread.js').Thread} thread */
export function estimate(row, width, thread) {
  const extra = (row.day ? 48 : 0) + (row.isNew ? 40 : 0) + (row.lead ? 8 : 0);
  if (row.type !== 'message' || row.seq === undefined) return 34 + extra;
  const bytes = thread.entry(row.seq)?.body?.length ?? 0;
  const perLine = Math.max(20, Math.min(width * 0.68, 560) / 7.4);
  return 17 + 21.75 * Math.max(1, Math.ceil(bytes / perLine)) + extra;
}

/** @param {Row} row @param {Context} context @returns {HTMLElement} */
export function render(row, context) {
  const inner = { top, gap, event, message, pending }[row.type](row, context);
  if (row.type === 'top') return inner;
  if (row.isNew) inner.prepend(h('div', { class: 'new-mark', role: 'separator' }, h('span', {}, 'New messages')));
  if (row.day) inner.prepend(h('div', { class: 'day', role: 'separator' }, h('span', {}, dayName(row.ts))));
  return inner;
}

/** In a group what blocked people write is there, and only on demand in sight. @param {Pick<Row, 'from' | 'seq'>} row @param {Context['app']} app @param {Context['thread']} thread @param {Context['room']} room */
const isHidden = ({ from, seq = 0 }, app, thread, room) => room.kind !== 'direct' && app.people.isBlocked(from) && !thread.unhidden.has(seq);

/** Of an own message; in a group with how many have read it. @param {Context['app']} app @param {Context['room']} room @param {number} seq */
function tickWords({ rooms }, room, seq) {
  const tick = rooms.progress(room, seq);
  const read = rooms.readBy(room, seq);
  if (read === '') return WORDS[tick];
  return tick === 'read' ? `R${read.slice(1)}` : `${WORDS[tick]}, ${read}`;
}

/** The beginning, or the way to it. @param {Row} _row @param {Context} context */
function top(_row, { app, thread, room, actions }) {
  if (!thread.isLoaded || (thread.isLoading && thread.more)) return h('div', { class: 'row top', role: 'article', 'aria-label': 'The beginning' }, h('span', { class: 'spinner', 'aria-hidden': 'true' }), h('span', { class: 'visually-hidden' }, 'Loading earlier messages'));
  if (thread.trouble) {
    const text = app.connection === 'online' ? 'Earlier messages could not be loaded.' : 'Earlier messages are loaded when you are back online.';
    return h('div', { class: 'row top', role: 'article', 'aria-label': 'The beginning' }, h('p', { class: 'muted' }, text), h('button', { class: 'button small', type: 'button', onclick: actions.older }, 'Try again'));
  }
  if (thread.more) return h('div', { class: 'row top', role: 'article', 'aria-label': 'The beginning' }, h('button', { class: 'button small', type: 'button', onclick: actions.older }, 'Earlier messages'));
  const name = app.titleOf(room);
  const text = room.kind === 'direct' ? (room.peer === app.user ? 'Only you see what you write here.' : `This is the beginning of your conversation with ${name}.`) : thread.first === 1 ? `This is the beginning of ${name}.` : `You joined ${name} here.`;
  return h('div', { class: 'row top start', role: 'article' }, h('span', { class: 'avatar large', 'data-hue': hue(room.peer ?? room.conv), 'aria-hidden': 'true' }, room.kind === 'direct' ? initials(name) : icon(room.kind)), h('h3', {}, name), h('p', { class: 'muted' }, text));
}

/** @param {Row} row */
function gap({ gap: [from, to] = [0, 0] }) {
  return h('div', { class: 'row event', role: 'article' }, h('p', {}, `${counted(to - from + 1, 'entry is', 'entries are')} not available here.`));
}

/** @param {Row} row @param {Context} context */
function event({ seq, ts }, { app, thread }) {
  return h('div', { class: 'row event', role: 'article', title: exact(ts) }, h('p', {}, eventText(thread.entry(/** @type {number} */ (seq)), app.user, user => app.people.name(user))));
}

/** @param {Row} row @param {Context} context */
function message(row, context) {
  const { app, thread, room, actions, needle, marked } = context;
  const seq = /** @type {number} */ (row.seq);
  const one = /** @type {import('../../../../client-js/src/index.js').Message} */ (thread.message(seq));
  const own = one.from === app.user;
  const tick = own && !one.deleted ? app.rooms.progress(room, seq) : '';
  const words = tick && tickWords(app, room, seq);
  const isBlocked = isHidden(row, app, thread, room);
  const text = isBlocked ? h('p', { class: 'text deleted' }, 'You have blocked this person. ', h('button', { class: 'link', type: 'button', onclick: () => actions.unhide(seq) }, 'Show'), meta(row, one, tick, words)) : one.deleted ? h('p', { class: 'text deleted' }, own ? 'You deleted this message.' : 'This message was deleted.', meta(row, one, tick, words)) : h('p', { class: `text${isJumbo(one.text) ? ' jumbo' : ''}` }, marked_(withNames(linked(one.text), one.mentions, app), needle), meta(row, one, tick, words));
  const bubble = h('div', { class: 'bubble' }, room.kind !== 'direct' && !own && row.lead ? h('span', { class: 'sender', 'data-hue': hue(one.from) }, app.people.name(one.from)) : null, one.reply_to !== undefined && !one.deleted && !isBlocked ? quote(one.reply_to, context) : null, text);
  const reactions = Object.entries(one.reactions);
  const namesMe = !own && one.mentions?.includes(app.user);
  const said = [own ? 'You' : app.people.name(one.from), one.deleted ? 'message deleted' : isBlocked ? 'blocked' : one.text, time(row.ts), one.edited ? 'edited' : '', namesMe ? 'names you' : '', words, reactions.map(([emoji, users]) => `${emoji} ${listed(users)}`).join(', ')];
  return h('div', { class: `row message${own ? ' own' : ''}${namesMe ? ' names-me' : ''}${row.lead ? ' lead' : ''}${row.tail ? ' tail' : ''}${marked === seq ? ' marked' : ''}`, role: 'article', tabindex: '-1', 'data-seq': seq, 'aria-label': said.filter(Boolean).join(', ') },
    h('div', { class: 'line' },
      room.kind !== 'direct' && !own ? h('span', { class: 'avatar small', 'data-hue': hue(one.from), 'aria-hidden': 'true' }, row.tail ? initials(app.people.name(one.from)) : '') : null,
      h('div', { class: 'body' }, bubble, reactions.length > 0 ? reactionChips(seq, reactions, context) : null),
      one.deleted ? null : tools(seq, actions, mayWrite(room))));
}

/** @param {number} seq @param {Context['actions']} actions @param {boolean} mayReply */
function tools(seq, actions, mayReply) {
  const on = (/** @type {(seq: number, at: HTMLElement) => void} */ act) => (/** @type {any} */ event) => act(seq, event.currentTarget);
  return h('div', { class: 'tools', role: 'group', 'aria-label': 'Actions' }, iconButton('react', 'React', on(actions.pick)), mayReply ? iconButton('reply', 'Reply', on(actions.reply)) : null, iconButton('more', 'More', on(actions.more), { 'aria-haspopup': 'menu' }));
}

/** @param {Row} row @param {any} one @param {string} tick @param {string} words */
function meta(row, one, tick, words) {
  return h('span', { class: 'meta', title: exact(row.ts) }, one.edited ? 'edited ' : '', h('time', { datetime: new Date(row.ts).toISOString() }, time(row.ts)),
    tick ? h('span', { class: 'tick', 'data-tick': tick, title: words }, icon(tick === 'sent' ? 'check' : 'checks', words)) : null);
}

/** @param {number} seq @param {[string, string[]][]} reactions @param {Context} context */
function reactionChips(seq, reactions, { app, actions }) {
  return h('div', { class: 'reactions' }, reactions.map(([emoji, ids]) => {
    const mine = ids.includes(app.user);
    const users = ids.map(user => (user === app.user ? 'you' : app.people.name(user)));
    return h('button', { type: 'button', class: 'reaction', 'aria-pressed': String(mine), title: listed(users), 'aria-label': `${emoji}, ${listed(users)}`, onclick: () => actions.react(seq, emoji) }, emoji, users.length > 1 ? h('span', {}, String(users.length)) : null);
  }));
}

/** @param {number} seq @param {Context} context */
function quoted_(seq, { app, thread, room }) {
  return isHidden({ from: thread.message(seq)?.from, seq }, app, thread, room) ? 'a message of somebody you have blocked' : quoteText(thread, seq);
}

/** @param {import('../thread.js').Thread} thread @param {number} seq */
export function quoteText(thread, seq) {
  const quoted = thread.message(seq);
  if (!quoted) return 'an earlier message';
  return quoted.deleted ? 'a deleted message' : quoted.text.slice(0, QUOTE_CHARS);
}

/** @param {number} seq @param {Context} context */
function quote(seq, context) {
  const { app, thread, actions } = context;
  const text = quoted_(seq, context);
  const quoted = thread.message(seq);
  const who = quoted ? (quoted.from === app.user ? 'You' : app.people.name(quoted.from)) : 'Reply to';
  return h('button', { type: 'button', class: 'quote', 'aria-label': `In reply to ${who}: ${text}. Go there`, onclick: () => actions.jump(seq) }, h('strong', { 'data-hue': quoted ? hue(quoted.from) : '' }, who), h('span', {}, text));
}

/** Not in the log yet, or never. @param {Row} row @param {Context} context */
function pending(row, context) {
  const { app, actions } = context;
  const { command, state, why, code } = /** @type {import('../thread.js').Pending} */ (row.pending);
  const { content, cid } = command;
  const isBad = state === 'rejected' || state === 'unknown';
  const tick = state === 'accepted' ? 'check' : isBad ? 'error' : 'clock';
  const text = textOf({ body: content.body });
  const words = { rejected: `Not sent: ${rejection(code, why)}`, unknown: 'Perhaps not sent: nobody can tell any more.', waiting: '', accepted: '' }[state];
  const said = `You, ${text}, ${isBad ? words : WORDS[/** @type {keyof typeof WORDS} */ (state)]}`;
  return h('div', { class: `row message own pending${isBad ? ' failed' : ''}${row.lead ? ' lead' : ''}${row.tail ? ' tail' : ''}`, role: 'article', tabindex: '-1', 'aria-label': said },
    h('div', { class: 'line' }, h('div', { class: 'body' },
      h('div', { class: 'bubble' }, content.reply_to !== undefined ? h('span', { class: 'quote' }, h('span', {}, quoted_(content.reply_to, context))) : null,
        h('p', { class: `text${isJumbo(text) ? ' jumbo' : ''}` }, withNames(linked(text), content.mentions, app), h('span', { class: 'meta' }, h('time', {}, time(command.saved_ms)), h('span', { class: 'tick', 'data-tick': state }, icon(tick, isBad ? 'Not sent' : WORDS[/** @type {keyof typeof WORDS} */ (state)]))))),
      isBad ? h('p', { class: 'failure' }, words, ' ',
        state === 'unknown' ? h('button', { class: 'link', type: 'button', onclick: () => actions.resend(cid) }, 'Send again') : h('button', { class: 'link', type: 'button', onclick: () => actions.restore(cid) }, 'Write it again'), ' ',
        h('button', { class: 'link', type: 'button', onclick: () => actions.dismiss(cid) }, 'Remove')) : null)));
}

/** @param {string | undefined} code @param {string | undefined} why */
function rejection(code, why) {
  switch (code) {
    case 'not_found': return 'there is nobody of this name.';
    case 'not_member': return 'you are not a member any more.';
    case 'blocked': return 'this person does not take messages from you.';
    default: return `${why ?? code}.`;
  }
}

/** Who is named behind an at sign. @param {string} text @returns {string[]} */
export function named(text) {
  return [...new Set([...text.toLowerCase().matchAll(NAMED)].map(m => m[1].replace(/[.-]+$/, '')))];
}

const NAMED = /(?<=^|\s)@([a-z0-9_.-]+)/gi;

/** Those who are told of it stand out. @param {(string | HTMLElement)[]} parts @param {string[] | undefined} mentions @param {Context['app']} app */
function withNames(parts, mentions, app) {
  if (!mentions?.length) return parts;
  return parts.flatMap(part => {
    if (typeof part !== 'string') return [part];
    const found = [];
    let from = 0;
    for (const match of part.matchAll(NAMED)) {
      const user = match[1].toLowerCase().replace(/[.-]+$/, '');
      if (!mentions.includes(user)) continue;
      const to = match.index + 1 + user.length;
      found.push(part.slice(from, match.index), h('span', { class: `mention${user === app.user ? ' own-name' : ''}`, title: user }, `@${app.people.name(user)}`));
      from = to;
    }
    return [...found, part.slice(from)];
  });
}

/** One to three emoji and nothing else. @param {string} text */
const isJumbo = text => text.length <= 24 && /^(\p{Extended_Pictographic}(\u{FE0F}|\u{200D}\p{Extended_Pictographic}|\p{Emoji_Modifier})*\s?){1,3}$/u.test(text);

/** What is searched for stands out. @param {(string | HTMLElement)[]} parts @param {string} needle */
function marked_(parts, needle) {
  if (needle === '') return parts;
  return parts.flatMap(part => {
    if (typeof part !== 'string') return [part];
    const found = [];
    const low = part.toLowerCase();
    let from = 0;
    // Letters whose lower case has another length would shift what follows: then nothing is marked.
    if (low.length !== part.length) return [part];
    for (let at = low.indexOf(needle); at >= 0; at = low.indexOf(needle, from)) {
      found.push(part.slice(from, at), h('mark', {}, part.slice(at, at + needle.length)));
      from = at + needle.length;
    }
    return [...found, part.slice(from)];
  });
}
