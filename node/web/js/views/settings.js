// What is the person's own: devices, profile, who may see them.

import { problem } from '../app.js';
import { complain, h, setText } from '../dom.js';
import { shortWhen } from '../format.js';
import { ask, dialog } from './dialog.js';

/** @param {import('../app.js').App} app */
export function devices(app) {
  const list = h('ul', { class: 'people', 'aria-label': 'Devices' }, h('li', { class: 'muted' }, 'Loading…'));
  const attempt = async (/** @type {() => Promise<any>} */ act) => {
    await act().catch((/** @type {any} */ failure) => complain(problem(failure)));
    await fill().catch(() => {});
  };
  const revoke = async (/** @type {any} */ d) => {
    if (await ask(`Log out ${d.name || 'this device'}?`, 'It is disconnected at once, and has to log in again as a new device.', 'Log out')) await attempt(() => app.client.call(`DELETE devices/${d.device}`));
  };
  const rename = (/** @type {any} */ d, /** @type {HTMLElement} */ at) => {
    const name = h('input', { value: d.name, maxlength: '60', 'aria-label': 'Name of the device' });
    const form = h('form', { class: 'inline-form', onsubmit: (/** @type {Event} */ e) => (e.preventDefault(), attempt(() => app.client.call(`PATCH devices/${d.device}`, { name: name.value.trim() }))) }, name, h('button', { class: 'button small', type: 'submit' }, 'Save'));
    at.replaceChildren(form);
    name.select();
  };
  const row = (/** @type {any} */ d) => {
    const el = h('li', {}, h('span', { class: 'person-name' }, d.name || 'Device'), h('span', { class: 'muted' }, d.current ? 'this one' : d.logged_in ? `since ${shortWhen(d.created)}` : 'logged out'),
      h('button', { class: 'link', type: 'button', onclick: () => rename(d, el) }, 'Rename'),
      d.current ? null : h('button', { class: 'link danger', type: 'button', onclick: () => void revoke(d) }, 'Log out'));
    return el;
  };
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

const AUDIENCES = [['everyone', 'Everyone'], ['contacts', 'My contacts'], ['nobody', 'Nobody']];

/** @param {import('../app.js').App} app */
export function privacy(app) {
  const said = h('p', { class: 'form-error', role: 'status' });
  const settle = async (/** @type {any} */ change) => {
    try {
      show(await app.client.call('PATCH me/privacy', change));
      setText(said, '');
    } catch (failure) {
      setText(said, problem(failure));
      await load().catch(() => {});
    }
  };
  const choices = AUDIENCES.map(([value, label]) => {
    const input = h('input', { type: 'radio', name: 'presence', id: `presence-${value}`, value, onchange: () => void settle({ presence: value }) });
    return { input, el: h('label', { class: 'check', for: `presence-${value}` }, input, label) };
  });
  const hide = h('input', { type: 'checkbox', role: 'switch', id: 'hide-read', disabled: true, 'aria-describedby': 'hide-read-note', onchange: () => void settle({ hide_read: hide.checked }) });
  const marks = h('fieldset', { class: 'note', hidden: true }, h('legend', {}, 'What you have read'), h('label', { class: 'check', for: 'hide-read' }, hide, 'Hide my read marks in all conversations'),
    h('p', { class: 'muted', id: 'hide-read-note' }, 'Nobody sees what you read from now on, and you do not see what others read. That a message has arrived is shown to both. What was shown before is not taken back.'));
  const show = (/** @type {{ presence: string, hide_read?: boolean }} */ { presence, hide_read }) => {
    for (const { input } of choices) input.checked = input.value === presence;
    // A server that does not know it says nothing of it.
    marks.hidden = hide_read === undefined;
    hide.disabled = false;
    hide.checked = hide_read === true;
  };
  const load = async () => show(await app.client.call('GET me/privacy'));
  dialog('Privacy', [h('fieldset', {}, h('legend', {}, 'Who may see whether you are there, and when you were last'), choices.map(c => c.el)), marks,
    h('p', { class: 'muted note' }, 'For one conversation alone it is settled under its Options.'), said]);
  load().catch(failure => setText(said, problem(failure)));
}
