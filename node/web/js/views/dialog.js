// What all dialogs have in common: the frame, a question with two answers, a field for names.

import { userId } from '../../../../client-js/src/index.js';
import { h, iconButton } from '../dom.js';

/** @param {string} title @param {any[]} content @param {string} [kind] @returns {HTMLDialogElement} */
export function dialog(title, content, kind = '') {
  const el = h('dialog', { class: `dialog ${kind}`, 'aria-labelledby': 'dialog-title', onclose: () => el.remove(), onclick: (/** @type {Event} */ e) => e.target === el && el.close() },
    h('div', { class: 'dialog-box' }, h('header', {}, h('h2', { id: 'dialog-title' }, title), iconButton('close', 'Close', () => el.close())), content));
  document.body.append(el);
  el.showModal();
  return el;
}

/** @param {string} title @param {string} text @param {string} action @returns {Promise<boolean>} */
export function ask(title, text, action) {
  return new Promise(done => {
    const yes = h('button', { class: 'button danger', type: 'button', onclick: () => (done(true), el.close()) }, action);
    const el = dialog(title, [h('p', {}, text), h('div', { class: 'dialog-foot' }, h('button', { class: 'button', type: 'button', onclick: () => el.close() }, 'Cancel'), yes)], 'question');
    el.addEventListener('close', () => done(false));
    yes.focus();
  });
}

/** Names, separated by spaces or commas. @param {string} text */
export function users(text) {
  return [...new Set(text.split(/[\s,;]+/).filter(Boolean).map(userId))];
}
