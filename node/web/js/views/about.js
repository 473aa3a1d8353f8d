// What can be asked of one conversation, message or person: who has it, a day, an export, a contact, a report.

import { problem } from '../app.js';
import { announce, h, setText } from '../dom.js';
import { counted, hue, initials } from '../format.js';
import { dialog } from './dialog.js';

/** Who has got and read a message of a group, as it changes. @param {import('../app.js').App} app @param {import('../rooms.js').Room} room @param {number} seq */
export function receipts(app, room, seq) {
  const parts = h('div', { class: 'receipts' });
  const said = h('p', { class: 'visually-hidden', role: 'status' });
  const person = (/** @type {any} */ { user }) => h('li', {}, h('span', { class: 'avatar', 'data-hue': hue(user), 'aria-hidden': 'true' }, initials(app.people.name(user))), h('span', { class: 'person-name' }, app.people.name(user)));
  let shown = '';
  const fill = () => {
    // They are asked for anew when somebody comes or goes.
    if (room.members === null) return;
    const others = app.rooms.others(room);
    const read = others.filter(m => m.read >= seq);
    const got = others.filter(m => m.read < seq && m.delivered >= seq);
    const open = others.filter(m => m.read < seq && m.delivered < seq);
    const now = JSON.stringify([read, got, open].map(part => part.map(m => app.people.name(m.user))));
    if (now === shown) return;
    const part = (/** @type {string} */ title, /** @type {any[]} */ members) => (members.length === 0 ? [] : [h('h3', {}, `${title} (${members.length})`), h('ul', { class: 'people', 'aria-label': title }, members.map(person))]);
    parts.replaceChildren(...part('Read', read), ...part('Delivered', got), ...part('Not delivered yet', open));
    if (shown !== '') setText(said, `Read by ${read.length}, delivered to ${read.length + got.length} of ${others.length}`);
    shown = now;
  };
  fill();
  const off = app.onChange(fill);
  dialog('Who has it', [parts, said]).addEventListener('close', off);
  app.rooms.members(room.conv).then(fill, () => {});
}

const DAY = /^(\d{4})-(\d\d)-(\d\d)$/;

/** @param {import('../app.js').App} app @param {string} conv @param {(seq: number) => void} jump */
export function goToDate(app, conv, jump) {
  const error = h('p', { class: 'form-error', role: 'alert' });
  const now = new Date();
  const today = `${now.getFullYear()}-${String(now.getMonth() + 1).padStart(2, '0')}-${String(now.getDate()).padStart(2, '0')}`;
  const day = h('input', { id: 'go-day', type: 'date', required: true, max: today, value: today });
  const submit = h('button', { class: 'button primary', type: 'submit' }, 'Go there');
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    const [, year, month, date] = (DAY.exec(day.value) ?? []).map(Number);
    if (!year) return setText(error, 'Which day?');
    submit.disabled = true;
    try {
      const seq = await app.client.seqAt(conv, new Date(year, month - 1, date).getTime());
      if (seq === undefined) return setText(error, 'Nothing was written on this day or later.');
      el.close();
      jump(seq);
    } catch (failure) {
      setText(error, problem(failure));
    } finally {
      submit.disabled = false;
    }
  };
  const el = dialog('Go to a day', [h('form', { onsubmit, novalidate: true }, h('label', { for: 'go-day' }, 'The first message of this day, or after it'), day, error, h('div', { class: 'dialog-foot' }, submit))]);
  day.focus();
}

const LINES_PER_PART = 500;

/** As JSON lines, from the server: everything that this person may read. @param {import('../app.js').App} app @param {import('../rooms.js').Room} room */
export function exportRoom(app, room) {
  const said = h('p', { role: 'status' }, 'Fetching…');
  let isOver = false;
  const el = dialog('Export', [h('p', { class: 'muted' }, `Everything of ${app.titleOf(room)} that you may read: one JSON object a line, oldest first, bodies in base64url.`), said]);
  el.addEventListener('close', () => (isOver = true));
  const run = async () => {
    /** Blobs may lie on disk: not all of a long conversation has to be in memory. @type {Blob[]} */
    const parts = [];
    /** @type {string[]} */
    let lines = [];
    let entries = 0;
    for await (const line of app.client.export(room.conv)) {
      if (isOver) return;
      entries += 1;
      if (lines.push(`${JSON.stringify(line)}\n`) < LINES_PER_PART) continue;
      parts.push(new Blob(lines));
      lines = [];
      setText(said, `${counted(entries, 'entry', 'entries')}…`);
    }
    const url = URL.createObjectURL(new Blob([...parts, ...lines], { type: 'application/x-ndjson' }));
    const link = h('a', { class: 'button primary', href: url, download: `${app.titleOf(room).replace(/[^\p{L}\p{N}]+/gu, '-')}.jsonl` }, 'Save');
    el.addEventListener('close', () => URL.revokeObjectURL(url));
    setText(said, counted(entries, 'entry', 'entries'));
    said.after(h('div', { class: 'dialog-foot' }, link));
    link.focus();
  };
  run().catch(failure => setText(said, `It was not fetched whole: ${problem(failure)}`));
}

/** @param {import('../app.js').App} app @param {string} user */
export function contact(app, user) {
  const error = h('p', { class: 'form-error', role: 'alert' });
  const isKnown = app.people.isContact(user);
  const name = h('input', { id: 'contact-name', maxlength: '64', autocomplete: 'off', value: app.people.name(user) });
  const attempt = async (/** @type {() => Promise<any>} */ act) => {
    try {
      await act();
      el.close();
    } catch (failure) {
      setText(error, problem(failure));
    }
  };
  const onsubmit = (/** @type {Event} */ event) => {
    event.preventDefault();
    void attempt(() => app.people.keepContact(user, name.value.trim() || user));
  };
  const remove = h('button', { class: 'link danger', type: 'button', onclick: () => void attempt(() => app.people.dropContact(user)) }, 'Remove from contacts');
  const el = dialog(isKnown ? 'Contact' : 'Add to contacts', [h('form', { onsubmit, novalidate: true }, h('p', { class: 'muted' }, `What do you call ${user}? Only you see it.`), h('label', { for: 'contact-name' }, 'Name'), name, error,
    h('div', { class: 'dialog-foot' }, isKnown ? remove : null, h('button', { class: 'button primary', type: 'submit' }, 'Save')))]);
  name.select();
}

const REASONS = [['spam', 'Spam'], ['abuse', 'Abuse'], ['illegal', 'Something illegal'], ['other', 'Something else']];

/** To whoever runs this cluster. @param {import('../app.js').App} app @param {string} what how it is called @param {{ user?: string, conv?: string, seq?: number }} about */
export function report(app, what, about) {
  const error = h('p', { class: 'form-error', role: 'alert' });
  const choices = REASONS.map(([value, label], at) => h('label', { class: 'check', for: `reason-${value}` }, h('input', { type: 'radio', name: 'reason', id: `reason-${value}`, value, checked: at === 0 }), label));
  const text = h('textarea', { id: 'report-text', rows: '3', maxlength: '600' });
  const submit = h('button', { class: 'button danger', type: 'submit' }, 'Report');
  const onsubmit = async (/** @type {Event} */ event) => {
    event.preventDefault();
    submit.disabled = true;
    try {
      await app.client.call('POST reports', { ...about, reason: el.querySelector('input:checked')?.getAttribute('value'), text: text.value.trim() });
      el.close();
      announce('Reported.');
    } catch (failure) {
      setText(error, problem(failure));
    } finally {
      submit.disabled = false;
    }
  };
  const el = dialog(`Report ${what}`, [h('form', { onsubmit, novalidate: true }, h('p', { class: 'muted' }, 'Whoever runs this server is told. Nobody else is.'), h('fieldset', {}, h('legend', {}, 'What is it?'), choices),
    h('label', { for: 'report-text' }, 'In your words'), text, error, h('div', { class: 'dialog-foot' }, submit))]);
}
