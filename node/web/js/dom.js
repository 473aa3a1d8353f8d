// Elements, without markup in text: nothing that a person writes is ever parsed as HTML.

/**
 * @param {string} tag @param {Record<string, any>} [props] `on…` are listeners, `class`, `data-…` and `aria-…` attributes;
 *   `false`, `null` and `undefined` leave an attribute out
 * @param {...any} children text, elements, lists of them; empty ones are left out
 * @returns {any}
 */
export function h(tag, props = {}, ...children) {
  const el = /** @type {any} */ (document.createElement(tag));
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) el.addEventListener(name.slice(2), value);
    else if (name === 'value' || name === 'checked' || name === 'disabled' || name === 'hidden') el[name] = value;
    else el.setAttribute(name, value === true ? '' : String(value));
  }
  el.append(...children.flat(Infinity).filter(child => child !== null && child !== undefined && child !== false && child !== ''));
  return el;
}

/** Sets text only if it changes: nothing is laid out anew for nothing. @param {Element} el @param {string} text */
export function setText(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

/** @param {Element} el @param {string} name @param {string | null} value */
export function setAttr(el, name, value) {
  if (value === null) el.removeAttribute(name);
  else if (el.getAttribute(name) !== value) el.setAttribute(name, value);
}

/** Path data on a field of 24 by 24, drawn with a line. @type {Record<string, string>} */
const ICONS = {
  at: 'M12 8.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7zM15.5 8.5v5a2.3 2.3 0 0 0 5 0V12a8.5 8.5 0 1 0-3.5 6.9',
  back: 'M15 5l-7 7 7 7',
  channel: 'M4 10v4h3l9 5V5l-9 5zM8 14.5l1 5h2.5M19 9.5a4 4 0 0 1 0 5',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  checks: 'M2.5 12.5l4.5 4.5L16.5 7.5M11.5 16.5l.5.5L22 7.5',
  clock: 'M12 7v5l3 2M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z',
  close: 'M6 6l12 12M18 6L6 18',
  copy: 'M9 9h10v10H9zM15 9V5H5v10h4',
  down: 'M12 5v14M6 13l6 6 6-6',
  down_to: 'M12 4v11M7 10.5l5 5 5-5M5 20h14',
  edit: 'M4 20h4L19 9l-4-4L4 16zM13 7l4 4',
  eye: 'M2.5 12C5 7.5 8.5 6 12 6s7 1.5 9.5 6c-2.5 4.5-6 6-9.5 6s-7-1.5-9.5-6zM12 9.5a2.5 2.5 0 1 0 0 5 2.5 2.5 0 0 0 0-5z',
  flag: 'M6 21V4h12l-2.5 4.5L18 13H6',
  error: 'M12 7.5v5.5M12 16v.5M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z',
  expand: 'M6 10l6 6 6-6',
  group: 'M9 11a3.5 3.5 0 1 0 0-7 3.5 3.5 0 0 0 0 7zM2.5 20c.5-4 3-6 6.5-6s6 2 6.5 6M16 4.5a3.5 3.5 0 0 1 0 6.5M18 14.5c2 .8 3.2 2.8 3.5 5.5',
  menu: 'M5 7h14M5 12h14M5 17h14',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
  plus: 'M12 5v14M5 12h14',
  react: 'M8.5 14.5c.8 1.2 2 1.8 3.5 1.8s2.7-.6 3.5-1.8M9 9.5v.5M15 9.5v.5M12 3.5a8.5 8.5 0 1 0 0 17 8.5 8.5 0 0 0 0-17z',
  reply: 'M9 6l-5 5 5 5M4 11h9c4 0 7 2.5 7 7',
  search: 'M11 4.5a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM16 16l4.5 4.5',
  person: 'M12 12a4 4 0 1 0 0-8 4 4 0 0 0 0 8zM4.5 20c.5-4 3.5-6 7.5-6s7 2 7.5 6',
  pin: 'M9 4h6l-1 6 3 3H7l3-3zM12 13v7',
  mute: 'M6 10v4h3l4 4V6L9 10zM17 10l4 4M21 10l-4 4',
  archive: 'M4 5h16v4H4zM6 9v10h12V9M10 13h4',
  date: 'M4 6h16v14H4zM4 10.5h16M8.5 3.5V7M15.5 3.5V7',
  device: 'M4 5h16v11H4zM9 20h6M12 16v4',
  book: 'M5 4h11a3 3 0 0 1 3 3v13H8a3 3 0 0 1-3-3zM5 17a3 3 0 0 1 3-3h11',
  keyboard: 'M3 7h18v10H3zM7 11h.01M11 11h.01M15 11h.01M8 14h8',
  out: 'M14 5H5v14h9M10 12h10M16 8l4 4-4 4',
  send: 'M5 12h14M13 6l6 6-6 6',
  trash: 'M5 7h14M10 7V4.5h4V7M7 7l1 13h8l1-13',
  up: 'M6 14l6-6 6 6',
};

/** @param {keyof typeof ICONS} name @param {string} [label] none: decoration */
export function icon(name, label) {
  const ns = 'http://www.w3.org/2000/svg';
  const svg = document.createElementNS(ns, 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', `icon icon-${name}`);
  if (label) {
    svg.setAttribute('role', 'img');
    svg.setAttribute('aria-label', label);
  } else {
    svg.setAttribute('aria-hidden', 'true');
  }
  const path = document.createElementNS(ns, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** @param {string} name @param {string} label @param {(event: any) => void} onclick @param {Record<string, any>} [props] */
export function iconButton(name, label, onclick, props = {}) {
  return h('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, onclick, ...props }, icon(name));
}

/** Text with its links. @param {string} text @returns {(string | HTMLElement)[]} */
export function linked(text) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(/https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]]/g)) {
    parts.push(text.slice(from, match.index));
    parts.push(h('a', { href: match[0], target: '_blank', rel: 'noopener noreferrer' }, match[0]));
    from = /** @type {number} */ (match.index) + match[0].length;
  }
  parts.push(text.slice(from));
  return parts;
}

const COMPLAINT_MS = 6_000;

/** Something did not work, and there is no better place to say so; above dialogs too. @param {string} text */
export function complain(text) {
  announce(text, 'alert');
  const el = h('div', { class: 'toast', popover: 'manual', 'aria-hidden': 'true' }, text);
  document.body.append(el);
  el.showPopover();
  setTimeout(() => el.remove(), COMPLAINT_MS);
}

/** Says something to those who do not see the screen. @param {string} text @param {'live' | 'alert'} [how] */
export function announce(text, how = 'live') {
  const el = /** @type {HTMLElement} */ (document.getElementById(how));
  // The same text again would not be said again.
  el.textContent = el.textContent === text ? `${text}\u00a0` : text;
}
