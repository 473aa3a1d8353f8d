// The entrance without a password: an address, then the digits that were sent there.

import { askForCode, logInByCode } from '../account.js';
import { problem } from '../app.js';
import { CodeLogin, inWords } from '../code.js';
import { announce, h, setText } from '../dom.js';

export class CodeForm {
  #page;
  #done;
  #login;

  /** @param {any} page @param {(client: any) => void} done @param {() => void} leave to the password */
  constructor(page, done, leave) {
    this.#page = page;
    this.#done = done;
    this.#login = new CodeLogin({ ask: address => askForCode(address, page.urls), enter: (address, code) => logInByCode(address, code, page.urls) });
    this.address = h('input', { id: 'address', name: 'address', autocomplete: 'email', autocapitalize: 'none', spellcheck: 'false', maxlength: '254' });
    this.digits = h('input', { id: 'code', name: 'code', inputmode: 'numeric', autocomplete: 'one-time-code', maxlength: '11' });
    this.row = h('div', {}, h('label', { for: 'code' }, 'Code'), this.digits);
    this.said = h('p', { class: 'form-error', id: 'code-error' });
    this.submit = h('button', { class: 'button primary wide', type: 'submit' });
    this.another = h('button', { class: 'link', type: 'button', onclick: () => this.#ask() }, 'Send another code');
    this.el = h('form', { onsubmit: (/** @type {Event} */ e) => this.#onSubmit(e), 'aria-describedby': 'code-error', novalidate: true },
      h('label', { for: 'address' }, 'E-mail or phone'), this.address, this.row, this.said, this.submit,
      h('p', { class: 'form-foot' }, this.another),
      h('p', { class: 'form-foot' }, h('button', { class: 'link', type: 'button', onclick: leave }, 'Use a password')));
    this.address.addEventListener('input', () => {
      this.#login.back();
      this.#say('');
    });
    this.#say('');
  }

  /** @param {string} text what is wrong, or what to do now @param {boolean} [isNews] */
  #say(text, isNews = false) {
    const isSent = this.#login.address !== null;
    this.row.hidden = !isSent;
    this.another.hidden = !isSent;
    setText(this.submit, isSent ? 'Log in' : 'Send a code');
    setText(this.said, text);
    this.said.classList.toggle('news', isNews);
    if (text) announce(text, 'alert');
  }

  /** @param {Event} event */
  #onSubmit(event) {
    event.preventDefault();
    return this.#login.address === null ? this.#ask() : this.#enter();
  }

  #ask() {
    const { address, waitMs } = this.#login;
    if (address !== null && waitMs > 0) return this.#say(`Another code may be asked for ${inWords(waitMs)}.`);
    return this.#try(async () => {
      const wrong = await this.#login.ask(this.address.value);
      const where = this.#page.demo ? 'In this demo it stands in the log of a node.' : 'It is good for five minutes.';
      this.#say(wrong ?? `A code was sent to ${this.#login.address}. ${where}`, wrong === null);
      (this.#login.address === null ? this.address : this.digits).focus();
    });
  }

  #enter() {
    return this.#try(async () => {
      const answer = await this.#login.enter(this.digits.value);
      if ('client' in answer) return this.#done(answer.client);
      this.#say(answer.wrong);
      this.digits.select();
    });
  }

  /** @param {() => Promise<void>} attempt */
  async #try(attempt) {
    if (this.submit.disabled) return;
    this.submit.disabled = true;
    try {
      await attempt();
    } catch (error) {
      this.#say(problem(error));
    } finally {
      this.submit.disabled = false;
    }
  }
}
