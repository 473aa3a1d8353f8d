// Small menus beside a button: what can be done with a message, emoji, the person's own. They close by Escape and by a click elsewhere.

import { leaveTab } from '../account.js';
import { announce, h, icon } from '../dom.js';
import { applyTheme, theme } from '../theme.js';
import { isMuted, settings } from '../rooms.js';
import { contact, exportRoom, goToDate, receipts, report } from './about.js';
import { confirmBlock, confirmLogOut, shortcuts } from './dialogs.js';
import { groupInfo } from './group.js';
import { devices, privacy, profile } from './settings.js';

const EMOJI = ['👍', '❤️', '😂', '😮', '😢', '🙏', '🎉', '🔥', '👀', '✅', '❌', '💯', '😀', '😉', '😍', '🤔', '😎', '🥳', '👏', '🙌', '💪', '🚀', '☕', '⚓', '⛵', '🌊', '🐙', '⏳', '💡', '🛠️'];

/** @param {HTMLElement} at @param {HTMLElement} menu */
function show(at, menu) {
  menu.setAttribute('popover', 'auto');
  (at.closest('nav, main') ?? document.body).append(menu);
  menu.addEventListener('toggle', event => {
    if (/** @type {any} */ (event).newState !== 'closed') return;
    const had = menu.contains(document.activeElement) || document.activeElement === document.body;
    menu.remove();
    if (had && at.isConnected) at.focus({ preventScroll: true });
  });
  menu.showPopover();
  const [button, box] = [at.getBoundingClientRect(), menu.getBoundingClientRect()];
  const left = Math.min(Math.max(8, button.right - box.width), innerWidth - box.width - 8);
  const below = button.bottom + 6;
  menu.style.left = `${left}px`;
  menu.style.top = `${below + box.height < innerHeight - 8 ? below : Math.max(8, button.top - box.height - 6)}px`;
  /** @type {HTMLElement | null} */ (menu.querySelector('button'))?.focus({ preventScroll: true });
}

/** @param {HTMLElement} menu @param {number} columns */
function withKeys(menu, columns) {
  menu.addEventListener('keydown', event => {
    const items = /** @type {HTMLElement[]} */ ([...menu.querySelectorAll('button')]);
    const on = items.indexOf(/** @type {any} */ (document.activeElement));
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    items[(on + step + items.length) % items.length].focus();
  });
  return menu;
}

/** @param {{ label: string, icon?: string, act?: () => void, isDanger?: boolean, isOn?: boolean }[]} items @param {any[]} [foot] */
function list(items, foot = []) {
  const menu = h('div', { class: 'menu', role: 'menu' }, items.map((item, at) => h('button', { type: 'button', role: item.isOn === undefined ? 'menuitem' : 'menuitemradio', 'aria-checked': item.isOn === undefined ? null : String(item.isOn), class: `${item.isDanger ? 'danger' : ''}${at > 0 && (item.isOn === undefined) !== (items[at - 1].isOn === undefined) ? ' first' : ''}`,
    onclick: () => {
      menu.hidePopover();
      item.act?.();
    } }, item.icon ? icon(item.icon) : h('span', { class: 'icon' }), item.label, item.isOn ? icon('check') : null)), foot);
  return withKeys(menu, 1);
}

/** @param {HTMLElement} at @param {(emoji: string) => void} pick */
export function emojiMenu(at, pick) {
  const menu = h('div', { class: 'menu emoji', 'aria-label': 'Emoji', role: 'group' }, EMOJI.map(emoji => h('button', { type: 'button', onclick: () => {
    menu.hidePopover();
    pick(emoji);
  } }, emoji)));
  show(at, withKeys(menu, 6));
}

/**
 * @param {HTMLElement} at @param {{ text: string, reply?: () => void, edit?: () => void, remove?: () => void, receipts?: { app: import('../app.js').App, room: import('../rooms.js').Room, seq: number, words: string },
 *   report?: { app: import('../app.js').App, conv: string, user: string, seq: number } }} of
 */
export function messageMenu(at, { text, reply, edit, remove, receipts: marks, report: wrong }) {
  const copy = () => navigator.clipboard?.writeText(text).then(() => announce('Copied'), () => announce('It could not be copied'));
  /** @type {{ label: string, icon: string, act: () => void, isDanger?: boolean }[]} */
  const items = [{ label: 'Copy text', icon: 'copy', act: copy }];
  if (reply) items.unshift({ label: 'Reply', icon: 'reply', act: reply });
  if (edit) items.push({ label: 'Edit', icon: 'edit', act: edit });
  if (marks) items.push({ label: marks.words, icon: 'checks', act: () => receipts(marks.app, marks.room, marks.seq) });
  if (wrong) items.push({ label: 'Report', icon: 'flag', act: () => report(wrong.app, 'this message', { user: wrong.user, conv: wrong.conv, seq: wrong.seq }) });
  if (remove) items.push({ label: 'Delete', icon: 'trash', act: remove, isDanger: true });
  show(at, list(items));
}

/** Muted for good: until this. */
const FOR_EVER = Date.UTC(2100, 0);

/** @param {import('../app.js').App} app @param {import('../rooms.js').Room} room @param {import('./shell.js').Shell} shell @param {HTMLElement} at */
export function roomMenu(app, room, shell, at) {
  const { pinned, archived, unread, hide_read: hidden } = settings(room);
  const muted = isMuted(room);
  const settle = (/** @type {any} */ change) => () => void app.run(() => app.rooms.settle(room, change)).catch(() => {});
  const markUnread = () => {
    if (app.current === room.conv) shell.close();
    settle({ unread: true })();
  };
  /** @type {{ label: string, icon: string, act: () => void }[]} */
  const items = [
    { label: pinned ? 'Unpin' : 'Pin to the top', icon: 'pin', act: settle({ pinned: !pinned }) },
    { label: muted ? 'Unmute' : 'Mute', icon: 'mute', act: settle({ muted_until: muted ? 0 : FOR_EVER }) },
    { label: archived ? 'Take out of the archive' : 'Archive', icon: 'archive', act: settle({ archived: !archived }) },
  ];
  if (!unread && app.rooms.unread(room) === 0) items.push({ label: 'Mark as unread', icon: 'check', act: markUnread });
  if (room.kind !== 'direct') items.push({ label: 'Members and settings', icon: 'group', act: () => groupInfo(app, room, shell) });
  if (room.kind !== 'channel' && room.peer !== app.user) items.push({ label: hidden ? 'Show others what I have read' : 'Hide what I have read', icon: 'eye', act: settle({ hide_read: !hidden }) });
  if (app.current === room.conv) items.push({ label: 'Go to a day', icon: 'date', act: () => goToDate(app, room.conv, seq => shell.jump(seq)) });
  items.push({ label: 'Export', icon: 'down_to', act: () => exportRoom(app, room) });
  const { peer } = room;
  if (peer !== undefined && peer !== app.user) {
    const isBlocked = app.people.isBlocked(peer);
    const turn = async () => {
      if (isBlocked || (await confirmBlock(app.people.name(peer)))) await app.run(() => app.people.block(peer, !isBlocked)).catch(() => {});
    };
    items.push({ label: app.people.isContact(peer) ? 'Contact' : 'Add to contacts', icon: 'person', act: () => contact(app, peer) });
    items.push({ label: 'Report', icon: 'flag', act: () => report(app, app.people.name(peer), { user: peer, conv: room.conv }) });
    return show(at, list([...items, { label: isBlocked ? 'Unblock' : 'Block', icon: 'close', act: () => void turn(), isDanger: !isBlocked }]));
  }
  show(at, list(items));
}

/** @param {import('../app.js').App} app @param {import('./shell.js').Shell} shell @param {HTMLElement} at */
export function ownMenu(app, shell, at) {
  const choice = theme();
  const leave = () => {
    leaveTab();
    shell.leave();
  };
  show(at, list([
    { label: 'Light', act: () => applyTheme('light'), isOn: choice === 'light' },
    { label: 'Dark', act: () => applyTheme('dark'), isOn: choice === 'dark' },
    { label: 'As the system', act: () => applyTheme('system'), isOn: choice === 'system' },
    { label: 'Profile', icon: 'edit', act: () => profile(app) },
    { label: 'Privacy', icon: 'eye', act: () => privacy(app) },
    { label: 'Devices', icon: 'device', act: () => devices(app) },
    { label: 'Keyboard', icon: 'keyboard', act: shortcuts },
    { label: 'API', icon: 'book', act: () => void open('/docs', '_blank', 'noopener') },
    { label: 'Another account in this window', icon: 'group', act: leave },
    { label: 'Log out', icon: 'out', act: () => void confirmLogOut(app, shell), isDanger: true },
  ]));
}
