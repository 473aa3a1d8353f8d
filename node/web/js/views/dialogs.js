// Dialogs: a new conversation, questions before what cannot be undone, keys.

import { directId } from '../../../../client-js/src/index.js';
import { logOut } from '../account.js';
import { problem } from '../app.js';
import { h, setText } from '../dom.js';
import { counted, hue, initials } from '../format.js';
import { ask, dialog, users } from './dialog.js';

/** @param {string} name */
export const confirmBlock = name => ask(`Block ${name}?`, 'What they write to you directly is refused, and they do not see whether you are there. In groups nothing changes.', 'Block');

export const confirmDelete = () => ask('Delete this message?', 'It goes for everybody. That it was there stays visible.', 'Delete');

/** @param {import('../app.js').App} app @param {import('./shell.js').Shell} shell */
export async function confirmLogOut(app, shell) {
  const waiting = (await app.client.outbox()).length;
  const text = waiting > 0 ? `${counted(waiting, 'message is', 'messages are')} not sent yet and will be lost. ` : '';
  if (!(await ask('Log out?', `${text}What this browser has stored of your conversations is deleted; the conversations stay.`, 'Log out'))) return;
  await logOut(app.client);
  shell.leave();
}

/** @param {import('../app.js').App} app @param {(conv: string) => void} open */
export function newConversation(app, open) {
  const error = h('p', { class: 'form-error', role: 'alert' });
  const people = h('input', { id: 'new-people', autocapitalize: 'none', autocomplete: 'off', spellcheck: 'false', placeholder: 'bob, or bob carol dan', oninput: () => look() });
  const name = h('input', { id: 'new-name', maxlength: '100', autocomplete: 'off', placeholder: 'What is it about?' });
  const all = h('input', { id: 'new-history', type: 'checkbox' });
  const isChannel = h('input', { id: 'new-channel', type: 'checkbox', onchange: () => turn(true) });
  const nameLabel = h('label', { for: 'new-name' });
  const group = h('div', { class: 'new-group', hidden: true }, nameLabel, name, h('label', { class: 'check', for: 'new-history' }, all, 'Who joins later sees earlier messages'), h('label', { class: 'check', for: 'new-channel' }, isChannel, 'A channel: only you, and whom you make admin, write'));
  const submit = h('button', { class: 'button primary', type: 'submit' }, 'Start');
  const wantsGroup = h('button', { class: 'link', type: 'button', onclick: () => turn(group.hidden) }, 'Make it a group');
  const turn = (/** @type {boolean} */ isGroup) => {
    const kind = isChannel.checked ? 'channel' : 'group';
    group.hidden = !isGroup;
    setText(nameLabel, `Name of the ${kind}`);
    setText(submit, isGroup ? `Create ${kind}` : 'Start');
    setText(wantsGroup, isGroup ? 'No group' : 'Make it a group');
  };
  turn(false);
  const found = h('div', { class: 'found', 'aria-label': 'People of this name', role: 'group' });
  let timer = /** @type {any} */ (0);
  const look = () => {
    setText(error, '');
    if (people.value.trim().split(/[\s,;]+/).length > 1) turn(true);
    clearTimeout(timer);
    timer = setTimeout(() => void suggest(), 250);
  };
  /** Those whose names begin like the last one that is typed. */
  const suggest = async () => {
    const [, before, last] = /** @type {any} */ (/^(.*?)([^\s,;]*)$/s.exec(people.value));
    const contacts = app.people.contacts().filter(user => isLike(user, last.toLowerCase())).slice(0, OFFERED_MAX);
    const users = last.length < 2 ? [] : await app.people.find(last.toLowerCase()).catch(() => []);
    if (!people.value.endsWith(last)) return;
    const offered = [...new Set([...contacts, ...users])].filter(user => user !== last && !before.split(/[\s,;]+/).includes(user));
    found.replaceChildren(...offered.map(user => h('button', { type: 'button', class: 'demo-user', onclick: () => {
      people.value = `${before}${user}`;
      found.replaceChildren();
      people.focus();
    } }, h('span', { class: 'avatar', 'data-hue': hue(user), 'aria-hidden': 'true' }, initials(app.people.name(user))), app.people.name(user), app.people.name(user) === user ? null : h('small', { class: 'muted' }, user))));
  };
  const isLike = (/** @type {string} */ user, /** @type {string} */ begin) => user.startsWith(begin) || app.people.name(user).toLowerCase().startsWith(begin);
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      const conv = group.hidden ? await direct(app, people.value) : await makeGroup(app, users(people.value), name.value.trim(), all.checked, isChannel.checked);
      el.close();
      open(conv);
    } catch (failure) {
      setText(error, failure instanceof TypeError ? 'A name has letters a to z, digits, “.”, “_” and “-”.' : problem(failure));
    } finally {
      submit.disabled = false;
    }
  };
  const el = dialog('New conversation', [h('form', { onsubmit, novalidate: true }, h('label', { for: 'new-people' }, 'With whom?'), people, found, group, error, h('div', { class: 'dialog-foot' }, wantsGroup, submit))]);
  people.focus();
  void suggest();
}

/** Contacts in sight before a name is typed. */
const OFFERED_MAX = 8;

/** @param {import('../app.js').App} app @param {string} text */
async function direct(app, text) {
  const [user] = users(text);
  if (!user) throw new TypeError('a name');
  const conv = directId(app.user, user);
  // Without network it is found out when the first message is sent.
  if (!app.rooms.get(conv) && app.client.status.state === 'online') await app.client.call(`GET users/${user}`);
  app.rooms.make(conv);
  return conv;
}

/** @param {import('../app.js').App} app @param {string[]} members @param {string} name @param {boolean} full @param {boolean} isChannel */
async function makeGroup(app, members, name, full, isChannel) {
  const others = members.filter(user => user !== app.user);
  const group = { name: name || others.join(', ').slice(0, 80) || (isChannel ? 'Channel' : 'Group'), members: others, history: full ? 'full' : 'from_join' };
  const { conv } = await (isChannel ? app.client.createChannel(group) : app.client.createGroup(group));
  app.rooms.make(conv);
  return conv;
}

const KEYS = [
  ['Enter', 'send'], ['Shift Enter', 'new line'], ['↑ in an empty field', 'edit the last own message'], ['Shift ↑ in an empty field', 'go to the messages'],
  ['↑ ↓', 'from message to message'], ['r  e  +  Delete', 'on a message: reply, edit, react, delete'], ['Alt ↑  Alt ↓', 'the next conversation'], ['Ctrl K', 'find a conversation'], ['Ctrl F', 'search in this one'], ['Esc', 'back to writing'],
];

export function shortcuts() {
  dialog('Keyboard', [h('dl', { class: 'keys' }, KEYS.map(([key, what]) => [h('dt', {}, key.split(/ {2}/).map(k => h('kbd', {}, k))), h('dd', {}, what)]))]);
}
