// Dialogs: a new conversation, a group's members, devices, questions before what cannot be undone.

import { directId, userId } from '../../../../client-js/src/index.js';
import { logOut } from '../account.js';
import { problem } from '../app.js';
import { announce, h, iconButton, setText } from '../dom.js';
import { counted, hue, initials, shortWhen } from '../format.js';

/** @param {string} title @param {any[]} content @param {string} [kind] @returns {HTMLDialogElement} */
function dialog(title, content, kind = '') {
  const el = h('dialog', { class: `dialog ${kind}`, 'aria-labelledby': 'dialog-title', onclose: () => el.remove(), onclick: (/** @type {Event} */ e) => e.target === el && el.close() },
    h('div', { class: 'dialog-box' }, h('header', {}, h('h2', { id: 'dialog-title' }, title), iconButton('close', 'Close', () => el.close())), content));
  document.body.append(el);
  el.showModal();
  return el;
}

/** @param {string} title @param {string} text @param {string} action @returns {Promise<boolean>} */
function ask(title, text, action) {
  return new Promise(done => {
    const yes = h('button', { class: 'button danger', type: 'button', onclick: () => (done(true), el.close()) }, action);
    const el = dialog(title, [h('p', {}, text), h('div', { class: 'dialog-foot' }, h('button', { class: 'button', type: 'button', onclick: () => el.close() }, 'Cancel'), yes)], 'question');
    el.addEventListener('close', () => done(false));
    yes.focus();
  });
}

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

/** Names, separated by spaces or commas. @param {string} text */
function users(text) {
  return [...new Set(text.split(/[\s,;]+/).filter(Boolean).map(userId))];
}

/** @param {import('../app.js').App} app @param {(conv: string) => void} open */
export function newConversation(app, open) {
  const error = h('p', { class: 'form-error', role: 'alert' });
  const people = h('input', { id: 'new-people', autocapitalize: 'none', autocomplete: 'off', spellcheck: 'false', placeholder: 'bob, or bob carol dan', oninput: () => look() });
  const name = h('input', { id: 'new-name', maxlength: '100', autocomplete: 'off', placeholder: 'What is it about?' });
  const all = h('input', { id: 'new-history', type: 'checkbox' });
  const group = h('div', { class: 'new-group', hidden: true }, h('label', { for: 'new-name' }, 'Name of the group'), name, h('label', { class: 'check', for: 'new-history' }, all, 'Who joins later sees earlier messages'));
  const submit = h('button', { class: 'button primary', type: 'submit' }, 'Start');
  const wantsGroup = h('button', { class: 'link', type: 'button', onclick: () => turn(group.hidden) }, 'Make it a group');
  const turn = (/** @type {boolean} */ isGroup) => {
    group.hidden = !isGroup;
    setText(submit, isGroup ? 'Create group' : 'Start');
    setText(wantsGroup, isGroup ? 'No group' : 'Make it a group');
  };
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
    const users = last.length < 2 ? [] : await app.people.find(last.toLowerCase()).catch(() => []);
    if (!people.value.endsWith(last)) return;
    found.replaceChildren(...users.filter((/** @type {string} */ user) => user !== last).map((/** @type {string} */ user) => h('button', { type: 'button', class: 'demo-user', onclick: () => {
      people.value = `${before}${user}`;
      found.replaceChildren();
      people.focus();
    } }, h('span', { class: 'avatar', 'data-hue': hue(user), 'aria-hidden': 'true' }, initials(user)), user)));
  };
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      const conv = group.hidden ? await direct(app, people.value) : await makeGroup(app, users(people.value), name.value.trim(), all.checked);
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
}

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

/** @param {import('../app.js').App} app @param {string[]} members @param {string} name @param {boolean} full */
async function makeGroup(app, members, name, full) {
  const others = members.filter(user => user !== app.user);
  const { conv } = await app.client.createGroup({ name: name || others.join(', ').slice(0, 80) || 'Group', members: others, history: full ? 'full' : 'from_join' });
  app.rooms.make(conv);
  return conv;
}

/** @param {import('../app.js').App} app @param {import('../rooms.js').Room} room @param {import('./shell.js').Shell} shell */
export function groupInfo(app, room, shell) {
  const { conv } = room;
  const list = h('ul', { class: 'people', 'aria-label': 'Members' }, h('li', { class: 'muted' }, 'Loading…'));
  const error = h('p', { class: 'form-error', role: 'alert' });
  const mayManage = () => ['admin', 'owner'].includes(room.state?.role) && room.state?.member !== false;
  const attempt = async (/** @type {() => Promise<any>} */ act) => {
    setText(error, '');
    try {
      await act();
      await fill();
    } catch (failure) {
      setText(error, problem(failure));
    }
  };
  const person = (/** @type {any} */ m) => h('li', {}, h('span', { class: 'avatar', 'data-hue': hue(m.user), 'aria-hidden': 'true' }, initials(m.user)),
    h('span', { class: 'person-name' }, app.people.name(m.user), m.user === app.user ? ' (you)' : '', app.people.name(m.user) === m.user ? null : h('small', { class: 'muted' }, ` ${m.user}`)), h('span', { class: 'muted' }, m.role === 'member' ? '' : m.role),
    mayManage() && m.user !== app.user && m.role !== 'owner' ? [
      h('button', { class: 'link', type: 'button', onclick: () => attempt(() => app.client.setRole(conv, m.user, m.role === 'admin' ? 'member' : 'admin')) }, m.role === 'admin' ? 'Make member' : 'Make admin'),
      h('button', { class: 'link danger', type: 'button', onclick: () => attempt(() => app.client.removeMember(conv, m.user)) }, 'Remove')] : null);
  const fill = async () => list.replaceChildren(...(await app.rooms.members(conv)).map(person));
  const name = h('input', { id: 'group-name', value: room.name, maxlength: '100', 'aria-label': 'Name of the group' });
  const add = h('input', { id: 'group-add', placeholder: 'Names of people to add', 'aria-label': 'People to add', autocapitalize: 'none' });
  const form = (/** @type {any} */ input, /** @type {string} */ label, /** @type {() => Promise<any>} */ act) => h('form', { class: 'inline-form', onsubmit: (/** @type {Event} */ e) => (e.preventDefault(), attempt(act)) }, input, h('button', { class: 'button', type: 'submit' }, label));
  const leave = async () => {
    if (!(await ask('Leave this group?', 'You keep what you have read, and get nothing new.', 'Leave'))) return;
    await attempt(() => app.client.leave(conv).then(() => {
      el.close();
      shell.close();
    }));
  };
  const el = dialog(room.name || 'Group', [
    mayManage() ? form(name, 'Rename', () => app.client.rename(conv, name.value.trim())) : null,
    mayManage() ? form(add, 'Add', () => app.client.addMembers(conv, users(add.value)).then((/** @type {any} */ done) => ((add.value = ''), done))) : null,
    list, error, room.state?.member === false ? null : h('div', { class: 'dialog-foot' }, h('button', { class: 'button danger', type: 'button', onclick: () => void leave() }, 'Leave the group'))].filter(Boolean));
  fill().catch(failure => list.replaceChildren(h('li', { class: 'muted' }, problem(failure))));
}

/** @param {import('../app.js').App} app */
export function devices(app) {
  const list = h('ul', { class: 'people', 'aria-label': 'Devices' }, h('li', { class: 'muted' }, 'Loading…'));
  const revoke = async (/** @type {string} */ device) => {
    await app.client.call(`DELETE devices/${device}`).catch((/** @type {any} */ failure) => announce(problem(failure), 'alert'));
    await fill();
  };
  const row = (/** @type {any} */ d) => h('li', {}, h('span', { class: 'person-name' }, d.name || 'Device'), h('span', { class: 'muted' }, d.current ? 'this one' : d.logged_in ? `since ${shortWhen(d.created)}` : 'logged out'),
    d.current ? null : h('button', { class: 'link danger', type: 'button', onclick: () => void revoke(d.device) }, 'Log out'));
  const fill = async () => list.replaceChildren(...(await app.client.call('GET devices')).devices.map(row));
  dialog('Devices', [h('p', { class: 'muted' }, 'Where you are logged in. Each has its own copy of what came.'), list]);
  fill().catch(failure => list.replaceChildren(h('li', { class: 'muted' }, problem(failure))));
}

/** @param {import('../app.js').App} app */
export function profile(app) {
  const error = h('p', { class: 'form-error', role: 'alert' });
  const name = h('input', { id: 'profile-name', maxlength: '64', autocomplete: 'name', placeholder: app.user });
  const about = h('textarea', { id: 'profile-about', rows: '3', maxlength: '300' });
  const submit = h('button', { class: 'button primary', type: 'submit' }, 'Save');
  // What the person wrote stays, and only that is sent: what is stored may arrive later, or not at all.
  /** @type {Map<HTMLInputElement | HTMLTextAreaElement, 'name' | 'about'>} */
  const untouched = new Map([[name, 'name'], [about, 'about']]);
  for (const field of [name, about]) field.addEventListener('input', () => untouched.delete(field));
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    /** @type {{ name?: string, about?: string }} */
    const written = {};
    if (!untouched.has(name)) written.name = name.value.trim();
    if (!untouched.has(about)) written.about = about.value.trim();
    try {
      if (Object.keys(written).length > 0) await app.people.introduce(written);
      el.close();
    } catch (failure) {
      setText(error, problem(failure));
    }
  };
  const el = dialog('Profile', [h('form', { onsubmit, novalidate: true }, h('p', { class: 'muted' }, `People find you as ${app.user}, and see this:`), h('label', { for: 'profile-name' }, 'Name'), name, h('label', { for: 'profile-about' }, 'About'), about, error, h('div', { class: 'dialog-foot' }, submit))]);
  app.client.call(`GET users/${app.user}`).then(
    (/** @type {any} */ mine) => {
      for (const [field, key] of untouched) field.value = mine[key] ?? '';
    },
    (/** @type {any} */ failure) => setText(error, problem(failure)),
  );
}

const KEYS = [
  ['Enter', 'send'], ['Shift Enter', 'new line'], ['↑ in an empty field', 'edit the last own message'], ['Shift ↑ in an empty field', 'go to the messages'],
  ['↑ ↓', 'from message to message'], ['r  e  +  Delete', 'on a message: reply, edit, react, delete'], ['Alt ↑  Alt ↓', 'the next conversation'], ['Ctrl K', 'find a conversation'], ['Ctrl F', 'search in this one'], ['Esc', 'back to writing'],
];

export function shortcuts() {
  dialog('Keyboard', [h('dl', { class: 'keys' }, KEYS.map(([key, what]) => [h('dt', {}, key.split(/ {2}/).map(k => h('kbd', {}, k))), h('dd', {}, what)]))]);
}
