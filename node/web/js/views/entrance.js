// The entrance: log in, register, or by a one-time code or as a demo user where the node allows it.

import { userId } from '../../../../client-js/src/index.js';
import { accounts, enter, logIn } from '../account.js';
import { problem } from '../app.js';
import { announce, h, setText } from '../dom.js';
import { hue, initials } from '../format.js';

export class Entrance {
  #page;
  #done;
  #isNew = false;
  #isBusy = false;

  /** @param {any} page @param {(client: any) => void} done */
  constructor(page, done) {
    this.#page = page;
    this.#done = done;
    this.user = h('input', { id: 'user', name: 'username', autocomplete: 'username', autocapitalize: 'none', spellcheck: 'false', required: true, maxlength: '64' });
    this.password = h('input', { id: 'password', name: 'password', type: 'password', autocomplete: 'current-password', required: true, minlength: '8' });
    this.error = h('p', { class: 'form-error', id: 'login-error' });
    this.submit = h('button', { class: 'button primary wide', type: 'submit' });
    this.toggle = h('button', { class: 'link', type: 'button', onclick: () => this.#turn(!this.#isNew) });
    this.title = h('h1', {});
    const form = h('form', { onsubmit: (/** @type {Event} */ e) => this.#onSubmit(e), 'aria-describedby': 'login-error', novalidate: true },
      h('label', { for: 'user' }, 'Name'), this.user,
      h('label', { for: 'password' }, 'Password'), this.password,
      this.error, this.submit, h('p', { class: 'form-foot' }, this.toggle));
    this.form = form;
    if (page.methods?.includes('code')) form.append(h('p', { class: 'form-foot' }, h('button', { class: 'link', type: 'button', onclick: () => this.#byCode() }, 'Use a one-time code')));
    this.el = h('main', { class: 'entrance' }, h('div', { class: 'card' },
      h('div', { class: 'brand' }, h('span', { class: 'splash-mark', 'aria-hidden': 'true' }), 'Flotilla'),
      this.title, page.demo ? this.#demo() : null, form));
    this.#turn(false);
  }

  /** Few want it: fetched when somebody does. */
  async #byCode() {
    const { CodeForm } = await import('./code.js');
    const back = () => {
      code.el.replaceWith(this.form);
      this.#turn(this.#isNew);
    };
    const code = new CodeForm(this.#page, this.#done, back);
    this.form.replaceWith(code.el);
    setText(this.title, 'Log in with a code');
    code.address.focus();
  }

  /** Names that work without a password, on the machine of a developer. */
  #demo() {
    const known = accounts().filter(a => a.demo).map(a => a.user);
    const names = [...new Set([...known, 'alice', 'bob', 'carol'])].slice(0, 4);
    const one = (/** @type {string} */ name) =>
      h('button', { type: 'button', class: 'demo-user', onclick: () => this.#enter(name) }, h('span', { class: 'avatar', 'data-hue': hue(name), 'aria-hidden': 'true' }, initials(name)), name);
    return h('section', { class: 'demo', 'aria-label': 'Demo users' }, h('p', {}, 'This is a demo cluster. Walk in without a password:'), h('div', { class: 'demo-users' }, names.map(one)), h('p', { class: 'or' }, h('span', {}, 'or with an account')));
  }

  /** @param {boolean} isNew */
  #turn(isNew) {
    this.#isNew = isNew;
    setText(this.title, isNew ? 'Create an account' : 'Log in');
    setText(this.submit, isNew ? 'Create account' : 'Log in');
    setText(this.toggle, isNew ? 'I have an account already' : 'Create an account');
    this.password.autocomplete = isNew ? 'new-password' : 'current-password';
    this.#say('');
  }

  /** @param {string} text */
  #say(text) {
    setText(this.error, text);
    if (text) announce(text, 'alert');
  }

  /** @param {Event} event */
  async #onSubmit(event) {
    event.preventDefault();
    const [user, password] = [this.user.value.trim(), this.password.value];
    try {
      userId(user);
    } catch {
      this.user.focus();
      return this.#say('A name has letters a to z, digits, “.”, “_” and “-”, at most 64.');
    }
    if (password.length < 8) {
      this.password.focus();
      return this.#say('A password has at least 8 characters.');
    }
    await this.#try(() => logIn({ user, password, isNew: this.#isNew, urls: this.#page.urls }));
  }

  /** @param {string} user */
  #enter(user) {
    return this.#try(() => enter(user, this.#page.urls));
  }

  /** @param {() => Promise<any>} attempt */
  async #try(attempt) {
    if (this.#isBusy) return;
    this.#isBusy = true;
    this.#say('');
    this.el.classList.add('busy');
    this.submit.disabled = true;
    try {
      this.#done(await attempt());
    } catch (error) {
      this.#say(problem(error));
    } finally {
      this.#isBusy = false;
      this.el.classList.remove('busy');
      this.submit.disabled = false;
    }
  }
}
