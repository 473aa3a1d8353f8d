// Times and names as a person reads them. Pure, but for the clock that "today" needs.

const TIME = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const WEEKDAY = new Intl.DateTimeFormat(undefined, { weekday: 'long' });
const SHORT_WEEKDAY = new Intl.DateTimeFormat(undefined, { weekday: 'short' });
const DATE = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long' });
const FULL_DATE = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long', year: 'numeric' });
const SHORT_DATE = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'short' });
const EXACT = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'medium' });
const DAY_MS = 86_400_000;

/** Days since 1970 where the person is. @param {number} ts */
export function dayOf(ts) {
  const date = new Date(ts);
  return Math.floor((ts - date.getTimezoneOffset() * 60_000) / DAY_MS);
}

/** @param {number} ts */
export const time = ts => TIME.format(ts);
/** @param {number} ts */
export const exact = ts => EXACT.format(ts);

/** The text of a day separator. @param {number} ts @param {number} [now] */
export function dayName(ts, now = Date.now()) {
  const ago = dayOf(now) - dayOf(ts);
  if (ago === 0) return 'Today';
  if (ago === 1) return 'Yesterday';
  if (ago > 1 && ago < 7) return WEEKDAY.format(ts);
  return new Date(ts).getFullYear() === new Date(now).getFullYear() ? DATE.format(ts) : FULL_DATE.format(ts);
}

/** When something happened, in little room. @param {number} ts @param {number} [now] */
export function shortWhen(ts, now = Date.now()) {
  if (!ts) return '';
  const ago = dayOf(now) - dayOf(ts);
  if (ago === 0) return TIME.format(ts);
  if (ago === 1) return 'Yesterday';
  return ago > 1 && ago < 7 ? SHORT_WEEKDAY.format(ts) : SHORT_DATE.format(ts);
}

/** @param {string} name */
export function initials(name) {
  const words = name.split(/[\s._-]+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words[1]].map(w => [...w][0]) : [...(words[0] ?? '?')].slice(0, 2);
  return letters.join('').toUpperCase();
}

/** One of twelve colours, always the same for a name. @param {string} name */
export function hue(name) {
  let hash = 0x811c9dc5;
  for (const char of name) hash = Math.imul(hash ^ (char.codePointAt(0) ?? 0), 0x01000193) >>> 0;
  // Short names differ in the low bits only.
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d) >>> 0;
  return (hash >>> 12) % 12;
}

/** @param {number} count @param {string} one @param {string} [many] */
export const counted = (count, one, many = `${one}s`) => `${count.toLocaleString()} ${count === 1 ? one : many}`;

/** `a, b and c` @param {string[]} names */
export const listed = names => (names.length < 2 ? names.join('') : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`);

/** What an entry of a group says that is no message. @param {any} entry @param {string} me @param {(user: string) => string} [nameOf] */
export function eventText(entry, me, nameOf = user => user) {
  const group = entry.conv?.startsWith('c') ? 'channel' : 'group';
  const who = (/** @type {string} */ user) => (user === me ? 'you' : nameOf(user));
  const from = entry.from === me ? 'You' : nameOf(entry.from);
  switch (entry.kind) {
    case 'create': return `${from} created the ${group} “${entry.name}”`;
    case 'add': return entry.users?.length === 1 && entry.users[0] === entry.from ? `${from} joined` : `${from} added ${listed((entry.users ?? []).map(who))}`;
    case 'remove': return `${from} removed ${who(entry.user)}`;
    case 'leave': return `${from} left`;
    case 'role': return `${from} made ${who(entry.user)} ${entry.role === 'member' ? 'a member' : `an ${entry.role}`}`.replace('an owner', 'the owner');
    case 'rename': return `${from} named the ${group} “${entry.name}”`;
    case 'history': return entry.history === 'full' ? `${from} let new members see earlier messages` : `${from} hid earlier messages from new members`;
    default: return `${from} sent something that this page does not know`;
  }
}
