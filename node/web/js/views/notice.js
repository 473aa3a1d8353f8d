// A plain word about the connection, over the page and not in its way: nothing moves when it comes and goes.

import { leaveTab } from '../account.js';
import { announce, h, icon, setText } from '../dom.js';

/** Why it stopped, by close code: what to say, and what can be done. @type {Record<number, [string, 'login' | 'here' | 'reload']>} */
const STOPPED = {
  4502: ['You have to log in again.', 'login'],
  4504: ['This chat is open in another copy of this browser’s data.', 'here'],
  4505: ['This device was logged out.', 'login'],
  4506: ['This account is disabled.', 'login'],
  4509: ['There are too many connections from here.', 'here'],
  4510: ['This address may not talk to the cluster.', 'here'],
};

export class Notice {
  #app;
  #shell;
  #said = '';

  /** @param {import('../app.js').App} app @param {import('./shell.js').Shell} shell */
  constructor(app, shell) {
    this.#app = app;
    this.#shell = shell;
    this.text = h('span', {});
    this.action = h('button', { class: 'link', type: 'button', onclick: () => this.#act() });
    this.el = h('div', { class: 'notice', hidden: true }, h('span', { class: 'pulse', 'aria-hidden': 'true' }), icon('error'), this.text, this.action);
  }

  /** @returns {[string, string]} words, and those of the button */
  #words() {
    const { connection, client } = this.#app;
    switch (connection) {
      case 'online': return ['', ''];
      case 'connecting': return ['Reconnecting… What you write is kept and sent then.', 'Now'];
      case 'offline': return ['You are offline. You can read and write; it is sent when you are back.', ''];
      case 'stopped': {
        const [text, action] = STOPPED[client.status.code] ?? [`The chat has stopped: ${client.status.reason}`, 'reload'];
        return [text, { login: 'Log in', here: 'Use it here', reload: 'Reload' }[action]];
      }
    }
  }

  render() {
    const [text, action] = this.#words();
    if (text === this.#said) return;
    announce(text || 'Connected again.', this.#app.connection === 'stopped' ? 'alert' : 'live');
    this.#said = text;
    this.el.hidden = text === '';
    this.el.dataset.state = this.#app.connection;
    if (text === '') return;
    setText(this.text, text);
    setText(this.action, action);
    this.action.hidden = action === '';
  }

  #act() {
    const { client } = this.#app;
    const [, action] = STOPPED[client.status.code] ?? ['', this.#app.connection === 'stopped' ? 'reload' : 'here'];
    if (action === 'here') client.reconnect();
    else {
      if (action === 'login') leaveTab();
      this.#shell.leave();
    }
  }
}
