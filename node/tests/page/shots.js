// Pictures of every screen of the page, from the page itself: `FLOTILLA_BIN=… node node/tests/page/shots.js DIR [NAME…]`.

import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { directId } from '../../../client-js/src/node.js';
import { Stage, bubble, pause, until, write } from './support/dev.js';

const [dir = 'shots', ...only] = process.argv.slice(2);
const WIDE = { width: 1120, height: 700 };
const NARROW = { width: 390, height: 760 };

const set = new Stage();
const { dev, people } = set;
await set.start();
await mkdir(dir, { recursive: true });

/** @type {Map<string, any>} */
const clients = new Map();
/** @param {string} user */
async function client(user) {
  const known = clients.get(user);
  if (known) return known;
  const made = await set.client(user);
  clients.set(user, made);
  await until(() => made.status.state === 'online', `${user} is online`);
  return made;
}

/** @param {string} user @param {any} message @returns {Promise<number>} its seq */
async function say(user, message) {
  const { outcome } = await (await client(user)).send(message);
  const answer = await outcome;
  if (answer.state !== 'accepted') throw new Error(JSON.stringify(answer));
  return answer.accepted.seq;
}
/** @param {string} user @param {string} conv @param {number} seq @param {string} emoji */
const react = async (user, conv, seq, emoji) => (await (await client(user)).react({ conv, seq, emoji })).outcome;

const users = ['alice', 'bob', 'carol', 'dan', 'erin', 'farid', 'noor'];
for (const user of users) await client(user);
const alice = await client('alice');
const { conv: crew } = await alice.createGroup({ name: 'Harbour crew', members: ['bob', 'carol', 'dan'], history: 'full' });
const { conv: regatta } = await (await client('erin')).createGroup({ name: 'Regatta 2027', members: ['alice', 'farid', 'noor'], history: 'full' });
const { conv: office } = await (await client('noor')).createChannel({ name: 'Harbour office', members: users.filter(user => user !== 'noor'), history: 'full' });
const notes = directId('alice', 'alice');
const bob = directId('alice', 'bob');

await say('alice', { to: 'alice', text: 'Ask dan for the spare key of the boathouse' });
await say('farid', { to: 'alice', text: 'Thanks for the tow yesterday! ⛵' });
await say('erin', { conv: regatta, text: 'Starting list is out. We are number 14.' });
await say('noor', { conv: regatta, text: 'Fourteen has always been good to us' });
await say('noor', { conv: office, text: 'Gate closed tonight from eight to five. Who comes later calls the watch: +49 30 123456.' });
const tide = await say('noor', { conv: office, text: 'High water at 03:40, 40 cm above the mean. Please look after your lines.' });
await react('carol', office, tide, '🙏');
await react('dan', office, tide, '👍');
await say('dan', { to: 'alice', text: 'Engine is back together. It no longer coughs.' });
await say('alice', { to: 'dan', text: 'You are a magician' });
const storm = await say('carol', { conv: crew, text: 'Morning! The forecast has the front coming through tonight, gusts up to 40 knots after ten.' });
await say('carol', { conv: crew, text: 'Should we move the three boats to the inner basin?' });
const yes = await say('bob', { conv: crew, text: 'Yes, and double the stern lines. I can be there at five.', reply_to: storm + 1 });
await react('alice', crew, yes, '👍');
await react('dan', crew, yes, '👍');
await react('carol', crew, yes, '🙏');
await say('alice', { conv: crew, text: 'I bring the long lines and coffee ☕' });
await say('dan', { conv: crew, text: 'Inner basin berths 4 to 6 are free until Sunday, I asked the harbour master. The gate closes at eight, so nobody should be late.' });
const plan = await say('alice', { conv: crew, text: 'Plan: five o’clock at the boathouse. Kestrel first, then Tern, then the old one. Notes are at https://example.org/storm-plan' });
await react('bob', crew, plan, '✅');
await react('carol', crew, plan, '✅');
await say('carol', { conv: crew, text: '🚀' });
const hello = await say('bob', { to: 'alice', text: 'Did you see the new cluster page?' });
await say('bob', { to: 'alice', text: 'You can kill the node that leads this very conversation, and it just goes on.' });
const show = await say('alice', { to: 'bob', text: 'Show me', reply_to: hello + 1 });
await react('bob', bob, show, '👀');
await say('bob', { to: 'alice', text: 'Watch the counters at the bottom while I press “Kill”.' });
await alice.call(`PATCH conversations/${crew}/settings`, { pinned: true });
await alice.call(`PATCH conversations/${regatta}/settings`, { muted_until: Date.UTC(2100, 0) });
for (const user of ['bob', 'carol', 'dan']) {
  const reader = await client(user);
  await until(async () => (await reader.entries(crew, { limit: 1 })).at(-1)?.seq >= plan + 3, 'they have it');
  await reader.read(crew, plan + 3);
}

/** @type {[string, 'light' | 'dark', { width: number, height: number }][]} */
const looks = [['wide-dark', 'dark', WIDE], ['narrow-light', 'light', NARROW], ['narrow-dark', 'dark', NARROW], ['wide-light', 'light', WIDE]];
/** With whom a hundred messages are written: what is pictured later stays as it was. @type {Record<string, string>} */
const PEERS = { 'wide-dark': 'farid', 'narrow-light': 'dan', 'narrow-dark': 'noor', 'wide-light': 'bob' };

/** @type {Record<string, string>} */
const ASKED = {
  'wide-dark': '@alice can you bring the second jib?',
  'narrow-light': 'And @alice, is the radio charged?',
  'narrow-dark': '@alice we start at ten, not at eleven',
  'wide-light': 'Last question, @alice: who takes the helm?',
};

/** @param {any} page @param {string} name */
async function shot(page, name) {
  await pause(450);
  await page.screenshot({ path: join(dir, `${name}.png`) });
  console.log(name);
}
/** @param {any} page @param {string} conv */
async function go(page, conv) {
  await page.evaluate((/** @type {string} */ conv) => (location.hash = `#c=${encodeURIComponent(conv)}`), conv);
  await page.locator('.row.message').last().waitFor();
  await pause(300);
}

for (const [look, colorScheme, viewport] of looks) {
  if (only.length > 0 && !only.some(name => look.includes(name))) continue;
  const isWide = viewport === WIDE;
  const options = { colorScheme, viewport, hasTouch: !isWide, isMobile: !isWide };
  const door = await people.tab(await people.browserOf(options), dev.urls[0]);
  await door.getByRole('heading', { name: 'Log in' }).waitFor();
  await shot(door, `login-${look}`);
  await door.getByRole('button', { name: 'Use a one-time code' }).click();
  await door.getByLabel('E-mail or phone').fill(`ann-${look}@example.org`);
  await door.getByRole('button', { name: 'Send a code' }).click();
  await door.locator('#code-error', { hasText: 'A code was sent' }).waitFor();
  await shot(door, `code-${look}`);
  await door.context().close();

  const page = await people.demo('alice', dev.urls[0], options);
  await page.locator('.room', { hasText: 'Regatta' }).waitFor();
  await say('erin', { conv: regatta, text: ASKED[look], mentions: ['alice'] });
  await page.locator('.room .named').filter({ hasText: '@' }).waitFor();
  (await client('carol')).typing(crew);
  await until(async () => (await page.locator('.room-line', { hasText: 'No messages yet' }).count()) === 0, 'all lines are there');
  await shot(page, `list-${look}`);
  await go(page, crew);
  await page.getByLabel(/^Read by/).first().waitFor().catch(() => {});
  (await client('dan')).typing(crew);
  await page.locator('.typing.on').waitFor().catch(() => {});
  await shot(page, `group-${look}`);
  await go(page, bob);
  await shot(page, `direct-${look}`);
  await go(page, office);
  await page.locator('.bar-state', { hasText: 'members' }).waitFor();
  await shot(page, `channel-${look}`);
  await go(page, regatta);
  await page.locator('.names-me').first().waitFor();
  await page.getByRole('textbox', { name: 'Message', exact: true }).pressSequentially('I am on it, and @n');
  await page.getByRole('listbox').waitFor();
  await shot(page, `mention-${look}`);
  await page.keyboard.press('Escape');
  await page.getByRole('textbox', { name: 'Message', exact: true }).fill('');
  await go(page, bob);
  await page.getByRole('button', { name: 'Search in this conversation' }).click();
  await page.getByRole('searchbox', { name: 'Search in this conversation' }).fill('the');
  await page.locator('.search-count', { hasText: ' of ' }).waitFor();
  await shot(page, `search-${look}`);
  await page.keyboard.press('Escape');
  if (isWide) {
    await go(page, crew);
    await bubble(page, 'double the stern lines').hover();
    await bubble(page, 'double the stern lines').getByRole('button', { name: 'React' }).click();
    await shot(page, `react-${look}`);
    await page.keyboard.press('Escape');
    await page.getByTitle('Members and settings').click();
    await page.locator('.people li', { hasText: 'carol' }).waitFor();
    await shot(page, `members-${look}`);
    await page.keyboard.press('Escape');
    await bubble(page, 'I bring the long lines').hover();
    await bubble(page, 'I bring the long lines').getByRole('button', { name: 'More' }).click();
    await page.getByRole('menuitem', { name: 'Read by' }).click();
    await shot(page, `receipts-${look}`);
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: 'Options' }).click();
    await shot(page, `options-${look}`);
    await page.keyboard.press('Escape');
    await page.getByRole('button', { name: /Menu/ }).click();
    await shot(page, `menu-${look}`);
    await page.keyboard.press('Escape');
  }
  const peer = PEERS[look];
  if (peer === 'noor') await say('noor', { to: 'alice', text: 'Fourteen! Did you see?' });
  await go(page, directId('alice', peer));
  for (const node of [1, 2, 3]) await dev.turn(page, node, 'Kill');
  await page.locator('.notice', { hasText: 'Reconnecting' }).waitFor();
  await write(page, 'This waits on my device until a node is back.');
  await shot(page, `reconnecting-${look}`);
  for (const node of [1, 2, 3]) await dev.turn(page, node, 'Restart');
  await people.online(page);
  await page.locator('.notice').waitFor({ state: 'hidden' });
  await page.locator('.node[data-state="up"]').nth(2).waitFor();

  // The picture of README: a hundred messages, and the leader dies in the middle.
  const strip = page.locator('.strip');
  await strip.locator('.node.leads').waitFor();
  const leader = Number((await strip.locator('.node.leads .node-name').textContent()).replace(/\D/g, ''));
  await page.getByRole('button', { name: 'Send 100' }).click();
  await bubble(page, 'Message 20 of 100').waitFor();
  await dev.turn(page, leader, 'Kill');
  await until(async () => (await page.locator('.counter').first().textContent()).includes('101'), 'all are accepted');
  await page.locator('.row.message', { hasText: 'Message 100 of 100' }).waitFor();
  await strip.locator('.node.leads').waitFor();
  await say(peer, { to: 'alice', text: 'And? Did you lose anything?' });
  await write(page, 'Nothing lost, nothing doubled.');
  await bubble(page, 'Nothing lost').getByLabel(/Delivered|Read/).waitFor();
  await shot(page, `killed-${look}`);
  await dev.turn(page, leader, 'Restart');
  await strip.locator('.node[data-state="up"]').nth(2).waitFor();
  await page.context().close();
}
if (people.errors.length > 0) console.log(people.errors);
await set.end();
process.exit(0);
