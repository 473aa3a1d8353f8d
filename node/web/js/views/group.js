// A group or channel: who is in it, who joins and leaves, roles, its name.

import { problem } from '../app.js';
import { h, setText } from '../dom.js';
import { hue, initials } from '../format.js';
import { isAdmin } from '../rooms.js';
import { ask, dialog, users } from './dialog.js';

/** @param {import('../app.js').App} app @param {import('../rooms.js').Room} room @param {import('./shell.js').Shell} shell */
export function groupInfo(app, room, shell) {
  const { conv } = room;
  const kind = room.kind === 'channel' ? 'channel' : 'group';
  const list = h('ul', { class: 'people', 'aria-label': 'Members' }, h('li', { class: 'muted' }, 'Loading…'));
  const more = h('button', { class: 'link', type: 'button', hidden: true, onclick: () => void attempt(async () => {}, true) }, 'Show more members');
  const error = h('p', { class: 'form-error', role: 'alert' });
  const mayManage = () => isAdmin(room);
  const manage = h('div', {});
  const attempt = async (/** @type {() => Promise<any>} */ act, isMore = false) => {
    setText(error, '');
    try {
      await act();
      await fill(isMore);
    } catch (failure) {
      setText(error, problem(failure));
    }
  };
  const button = (/** @type {string} */ label, /** @type {() => Promise<any>} */ act, isDanger = false) => h('button', { class: `link${isDanger ? ' danger' : ''}`, type: 'button', onclick: () => attempt(act) }, label);
  const handOver = async (/** @type {string} */ user) => {
    if (await ask(`Make ${app.people.name(user)} the owner?`, 'You stay as an admin, and cannot take it back.', 'Hand over')) await app.client.setRole(conv, user, 'owner');
  };
  // Roles are the owner's to give.
  const roles = (/** @type {any} */ m) => (room.state?.role !== 'owner' ? [] : [
    button(m.role === 'admin' ? 'Make member' : 'Make admin', () => app.client.setRole(conv, m.user, m.role === 'admin' ? 'member' : 'admin')),
    m.role === 'admin' ? button('Make owner', () => handOver(m.user)) : null]);
  const person = (/** @type {any} */ m) => h('li', {}, h('span', { class: 'avatar', 'data-hue': hue(m.user), 'aria-hidden': 'true' }, initials(app.people.name(m.user))),
    h('span', { class: 'person-name' }, app.people.name(m.user), m.user === app.user ? ' (you)' : '', app.people.name(m.user) === m.user ? null : h('small', { class: 'muted' }, ` ${m.user}`)), h('span', { class: 'muted' }, m.role === 'member' ? '' : m.role),
    mayManage() && m.user !== app.user && m.role !== 'owner' ? [roles(m), m.role === 'member' || room.state?.role === 'owner' ? button('Remove', () => app.client.removeMember(conv, m.user), true) : null] : null);
  /** Of the last one that is listed. @type {string | undefined} */
  let last;
  let asked = 0;
  const fill = async (isMore = false) => {
    const turn = ++asked;
    const page = await app.rooms.members(conv, isMore ? last : undefined);
    // Asked for again since then: what was then is not listed over what is now.
    if (turn !== asked) return;
    if (!isMore) list.replaceChildren();
    list.append(...page.members.map(person));
    last = page.members.at(-1)?.user;
    more.hidden = !page.more;
  };
  const name = h('input', { id: 'group-name', value: room.name, maxlength: '100', 'aria-label': `Name of the ${kind}` });
  const add = h('input', { id: 'group-add', placeholder: 'Names of people to add', 'aria-label': 'People to add', autocapitalize: 'none' });
  const form = (/** @type {any} */ input, /** @type {string} */ label, /** @type {() => Promise<any>} */ act) => h('form', { class: 'inline-form', onsubmit: (/** @type {Event} */ e) => (e.preventDefault(), attempt(act)) }, input, h('button', { class: 'button', type: 'submit' }, label));
  const leave = async () => {
    if (!(await ask(`Leave this ${kind}?`, 'You keep what you have read, and get nothing new.', 'Leave'))) return;
    try {
      await app.client.leave(conv);
      el.close();
      shell.close();
    } catch (failure) {
      setText(error, /** @type {any} */ (failure)?.code === 'conflict' ? 'It has so many members that you must make somebody else the owner first.' : problem(failure));
    }
  };
  const forms = [form(name, 'Rename', () => app.client.rename(conv, name.value.trim())),
    form(add, 'Add', () => app.client.addMembers(conv, users(add.value)).then((/** @type {any} */ done) => ((add.value = ''), done)))];
  // The role in a group that was made just now is told a moment later than its first messages, and it may change.
  let role = room.state?.role;
  const off = app.onChange(() => {
    if (room.state?.role === role) return;
    role = room.state?.role;
    manage.replaceChildren(...(mayManage() ? forms : []));
    void attempt(async () => {});
  });
  manage.replaceChildren(...(mayManage() ? forms : []));
  const el = dialog(room.name || (kind === 'channel' ? 'Channel' : 'Group'), [
    manage, list, more, error, room.state?.member === false ? null : h('div', { class: 'dialog-foot' }, h('button', { class: 'button danger', type: 'button', onclick: () => void leave() }, `Leave the ${kind}`))].filter(Boolean));
  el.addEventListener('close', off);
  fill().catch(failure => list.replaceChildren(h('li', { class: 'muted' }, problem(failure))));
}
