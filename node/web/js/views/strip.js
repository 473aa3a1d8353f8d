// The cluster strip of a local cluster: which nodes live, who leads this conversation, kill one, start it again, and the counters
// that this page computes itself.

import { announce, h, setAttr, setText } from '../dom.js';
import { mayWrite } from '../rooms.js';

const EVERY_MS = 1_000;
const BURST = 100;

export class Strip {
  #app;
  #control;
  /** @type {any[]} */
  #nodes = [];
  /** @type {any} */
  #timer = 0;
  #isAsking = false;
  /** @type {number | null} */
  #leader = null;
  /** @type {Map<number, { el: HTMLElement, dot: HTMLElement, what: HTMLElement, button: HTMLButtonElement }>} */
  #chips = new Map();

  /** @param {import('../app.js').App} app @param {{ url: string, key: string }} control */
  constructor(app, control) {
    this.#app = app;
    this.#control = control;
    this.list = h('ul', { class: 'nodes', 'aria-label': 'Nodes; the leader of this conversation is marked' });
    const counter = (/** @type {string} */ name, /** @type {string} */ title) => h('span', { class: 'counter', title }, h('span', {}, `${name} `), h('b', {}, '0'));
    this.accepted = counter('accepted', 'Messages of this tab that the cluster has accepted');
    this.delivered = counter('delivered', 'Entries that came to this tab, edits and reactions among them');
    this.lost = counter('lost', 'Holes in a conversation, and accepted messages that did not come');
    this.doubled = counter('doubled', 'Entries or messages that came twice');
    this.burst = h('button', { class: 'button small', type: 'button', title: `Writes ${BURST} messages into this conversation; kill a node meanwhile`, onclick: () => void this.#burst() }, `Send ${BURST}`);
    this.el = h('aside', { class: 'strip', 'aria-label': 'Cluster' }, h('span', { class: 'strip-title' }, 'Cluster'), this.list,
      h('div', { class: 'counters', role: 'status', 'aria-live': 'off' }, this.burst, this.accepted, this.delivered, this.lost, this.doubled));
  }

  start() {
    this.#app.onChange(() => this.#count());
    this.refresh();
  }

  refresh() {
    clearTimeout(this.#timer);
    void this.#look();
  }

  /** @param {string} path @param {string} [method] */
  async #ask(path, method = 'GET') {
    const response = await fetch(`${this.#control.url}${path}`, { method, headers: { 'x-flotilla-dev': this.#control.key }, signal: AbortSignal.timeout(5_000) });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.message ?? response.statusText);
    return answer;
  }

  async #look() {
    if (this.#isAsking) return;
    this.#isAsking = true;
    try {
      if (document.visibilityState === 'visible') {
        const conv = this.#app.current;
        const { nodes, leader } = await this.#ask(`/nodes${conv === null ? '' : `?conv=${encodeURIComponent(conv)}`}`);
        this.#nodes = nodes;
        this.#leader = leader;
        this.el.classList.remove('is-lost');
        this.#draw();
      }
    } catch {
      this.el.classList.add('is-lost');
    } finally {
      this.#isAsking = false;
    }
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#look(), EVERY_MS);
  }

  #draw() {
    const { url } = this.#app.client.status;
    for (const node of this.#nodes) {
      let chip = this.#chips.get(node.node);
      if (!chip) this.#chips.set(node.node, (chip = this.#chip(node.node)));
      const state = node.pid === null ? 'down' : node.ready ? 'up' : 'starting';
      const leads = this.#leader === node.node;
      const here = url === node.url;
      setAttr(chip.el, 'data-state', state);
      chip.el.classList.toggle('leads', leads);
      const words = [state === 'down' ? 'down' : state === 'starting' ? 'starting' : '', leads ? 'leader' : '', here && state === 'up' ? 'you' : ''].filter(Boolean).join(' · ');
      setText(chip.what, words);
      setAttr(chip.el, 'title', `${node.url}${node.pid ? `, process ${node.pid}` : ''}; leads ${node.leads.length} of the groups, ${node.sessions} sessions`);
      setText(chip.button, node.pid === null ? 'Restart' : 'Kill');
      setAttr(chip.button, 'aria-label', `${node.pid === null ? 'Restart' : 'Kill'} node ${node.node}`);
      chip.button.classList.toggle('danger', node.pid !== null);
    }
  }

  /** @param {number} number */
  #chip(number) {
    const dot = h('span', { class: 'dot', 'aria-hidden': 'true' });
    const what = h('span', { class: 'node-what' });
    const button = h('button', { class: 'button small', type: 'button', onclick: () => void this.#turn(number, button) });
    const el = h('li', { class: 'node' }, dot, h('span', { class: 'node-name' }, h('span', { class: 'node-word' }, 'Node '), String(number)), what, button);
    this.list.append(el);
    return { el, dot, what, button };
  }

  /** @param {number} number @param {HTMLButtonElement} button */
  async #turn(number, button) {
    const isUp = this.#nodes.find(n => n.node === number)?.pid !== null;
    button.disabled = true;
    try {
      await this.#ask(`/nodes/${number}/${isUp ? 'kill' : 'start'}`, 'POST');
      announce(`Node ${number} was ${isUp ? 'killed' : 'started'}`);
    } catch (error) {
      announce(`Node ${number}: ${/** @type {Error} */ (error).message}`, 'alert');
    }
    button.disabled = false;
    this.refresh();
  }

  #count() {
    const { audit, current, rooms } = this.#app;
    const room = current === null ? undefined : rooms.get(current);
    for (const name of /** @type {const} */ (['accepted', 'delivered', 'lost', 'doubled'])) setText(/** @type {Element} */ (this[name].lastElementChild), audit[name].toLocaleString());
    this.lost.classList.toggle('is-bad', audit.lost > 0);
    this.doubled.classList.toggle('is-bad', audit.doubled > 0);
    this.burst.disabled = !room || !mayWrite(room);
  }

  async #burst() {
    const { client, rooms, current } = this.#app;
    const peer = current === null ? undefined : rooms.get(current)?.peer;
    if (current === null) return;
    for (let n = 1; n <= BURST; n++) {
      const text = `Message ${n} of ${BURST}`;
      await (peer === undefined ? client.send({ conv: current, text }) : client.send({ to: peer, text }));
      await new Promise(done => setTimeout(done, 60));
    }
  }
}
