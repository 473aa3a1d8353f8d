// Channels, mentions and marks of groups, in Chromium against three real nodes. Needs FLOTILLA_BIN and chromium.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { rest } from '../../../client-js/src/node.js';
import { bubble, stage, until, write } from './support/dev.js';

const { skip, dev, people, client } = stage();

/** Demo users exist from their first request on. @param {string[]} users */
const exist = users => Promise.all(users.map(user => rest({ urls: dev.urls, method: 'GET', path: 'me', token: `dev:${user}` })));
/** @param {any} page @param {string} name */
const room = (page, name) => page.locator('.room', { hasText: name });
/** @param {any} page */
const field = page => page.getByRole('textbox', { name: 'Message', exact: true });

test('a channel: its owner writes, its readers read, and who is made admin writes too', { skip }, async () => {
  const lurker = await client('tove');
  const [rita, sam] = [await people.demo('rita', dev.urls[0]), await people.demo('sam', dev.urls[1])];
  await rita.getByRole('button', { name: /New conversation/ }).first().click();
  await rita.getByLabel('With whom?').fill('sam tove');
  await rita.getByLabel(/A channel/).check();
  await rita.getByLabel('Name of the channel').fill('Harbour news');
  await rita.getByRole('button', { name: 'Create channel' }).click();
  await rita.locator('.bar-name', { hasText: 'Harbour news' }).waitFor();
  await rita.locator('.bar-state', { hasText: 'Channel · 3 members' }).waitFor();
  await rita.locator('.row.event', { hasText: 'You created the channel “Harbour news”' }).waitFor();
  await write(rita, 'The gate closes at eight');
  await room(sam, 'Harbour news').locator('.badge', { hasText: '1' }).waitFor();
  await room(sam, 'Harbour news').locator('.icon-channel').waitFor();
  await room(sam, 'Harbour news').click();
  await bubble(sam, 'The gate closes at eight').waitFor();
  await sam.getByText('Only the owner and admins write in this channel.').waitFor();
  assert.equal(await field(sam).isVisible(), false);
  await bubble(sam, 'The gate closes').hover();
  assert.equal(await bubble(sam, 'The gate closes').getByRole('button', { name: 'Reply' }).count(), 0);
  await bubble(sam, 'The gate closes').getByRole('button', { name: 'React' }).click();
  await sam.locator('.menu.emoji button').first().click();
  await bubble(rita, 'The gate closes').locator('.reaction', { hasText: '👍' }).waitFor();
  // Nobody is told who has got or read it: it was sent.
  await until(async () => (await lurker.entries((await lurker.conversations())[0]?.conv ?? 'c0')).some(e => e.kind === 'message'), 'all have it');
  assert.equal(await bubble(rita, 'The gate closes').getByLabel('Sent').count(), 1);
  assert.equal(await rita.getByLabel(/^(Delivered|Read)$/).count(), 0);

  await rita.getByTitle('Members and settings').click();
  await rita.locator('.people li', { hasText: 'sam' }).getByRole('button', { name: 'Make admin' }).click();
  await rita.locator('.people li', { hasText: 'sam' }).getByText('admin', { exact: true }).waitFor();
  await rita.keyboard.press('Escape');
  await field(sam).waitFor();
  await write(sam, 'and opens at five');
  await bubble(rita, 'and opens at five').waitFor();
  await rita.getByTitle('Members and settings').click();
  await rita.locator('.people li', { hasText: 'sam' }).getByRole('button', { name: 'Make member' }).click();
  await sam.getByText('Only the owner and admins write in this channel.').waitFor();
  await rita.keyboard.press('Escape');

  await sam.getByTitle('Members and settings').click();
  await sam.getByRole('button', { name: 'Leave the channel' }).click();
  await sam.getByRole('button', { name: 'Leave', exact: true }).click();
  await rita.locator('.bar-state', { hasText: 'Channel · 2 members' }).waitFor();
  for (const page of [rita, sam]) await page.context().close();
});

test('a group of 150: written in and read, without asking for each one’s marks', { skip }, async () => {
  const vera = await client('vera');
  const crowd = Array.from({ length: 148 }, (_, n) => `crowd${String(n).padStart(3, '0')}`);
  await exist(['udo', ...crowd]);
  const { conv } = await vera.createGroup({ name: 'Everybody', members: ['udo', ...crowd], history: 'full' });
  const udo = await people.demo('udo', dev.urls[2]);
  await room(udo, 'Everybody').click();
  await udo.locator('.bar-state', { hasText: '150 members' }).waitFor();
  await write(udo, 'hello to all of you');
  await bubble(udo, 'hello to all').getByLabel('Sent').waitFor();
  await (await vera.send({ conv, text: 'hello udo' })).outcome;
  await bubble(udo, 'hello udo').waitFor();
  await udo.getByTitle('Members and settings').click();
  await until(async () => (await udo.locator('.people li').count()) === 100, 'the first hundred');
  await udo.getByRole('button', { name: 'Show more members' }).click();
  await until(async () => (await udo.locator('.people li').count()) === 150, 'all of them');
  await udo.locator('.people li', { hasText: 'vera' }).getByText('owner').waitFor();
  await udo.keyboard.press('Escape');
  // Names of people outside of the first page are found, too.
  await field(udo).pressSequentially('hi @crowd147');
  await udo.getByRole('option', { name: 'crowd147' }).click();
  assert.equal(await field(udo).inputValue(), 'hi @crowd147 ');
  await udo.keyboard.press('Enter');
  await bubble(udo, 'hi @crowd147').locator('.mention').waitFor();
  await udo.context().close();
});

test('who is named is told, finds it, and goes from one to the next', { skip }, async () => {
  const wim = await client('wim');
  await exist(['xenia', 'yan']);
  const { conv } = await wim.createGroup({ name: 'Watch', members: ['xenia', 'yan'], history: 'full' });
  const yan = await people.demo('yan', dev.urls[1]);
  await room(yan, 'Watch').click();
  await field(yan).pressSequentially('who is there, @');
  await yan.getByRole('listbox').waitFor();
  await until(async () => (await yan.getByRole('option').count()) === 2, 'wim and xenia');
  await yan.keyboard.type('xe');
  await until(async () => (await yan.getByRole('option').count()) === 1, 'xenia');
  await yan.keyboard.press('Enter');
  assert.equal(await field(yan).inputValue(), 'who is there, @xenia ');
  await yan.keyboard.type('or @w');
  await yan.getByRole('option', { name: 'wim' }).waitFor();
  await yan.keyboard.press('Escape');
  await yan.getByRole('listbox').waitFor({ state: 'hidden' });
  await yan.keyboard.type('hoever?');
  await yan.keyboard.press('Enter');
  await bubble(yan, 'who is there').locator('.mention', { hasText: '@xenia' }).waitFor();
  assert.equal(await bubble(yan, 'who is there').locator('.mention').count(), 1, 'whoever is nobody');

  for (let n = 1; n <= 110; n++) {
    const mentions = n === 40 || n === 80 ? ['xenia'] : undefined;
    await (await wim.send({ conv, text: mentions ? `@xenia, look at ${n}` : `line ${n}`, mentions })).outcome;
  }
  const xenia = await people.demo('xenia', dev.urls[2]);
  await room(xenia, 'Watch').locator('.named', { hasText: '@3' }).waitFor();
  await room(xenia, 'Watch').locator('.badge', { hasText: '111' }).waitFor();
  await room(xenia, 'Watch').click();
  await xenia.locator('.names-me .own-name', { hasText: '@xenia' }).first().waitFor();
  const next = xenia.getByRole('button', { name: 'To the next message that names you' });
  for (const n of [40, 80]) {
    await next.click();
    await xenia.locator('.row.marked .own-name').waitFor();
    await bubble(xenia, `look at ${n}`).waitFor();
    await until(async () => xenia.locator('.row', { hasText: `look at ${n}` }).evaluate((/** @type {any} */ el) => el.getBoundingClientRect().top > 0 && el.getBoundingClientRect().bottom < innerHeight), `${n} is in view`);
  }
  await next.waitFor({ state: 'hidden' });
  await xenia.getByRole('button', { name: 'To the newest message' }).click();
  await room(xenia, 'Watch').locator('.named').waitFor({ state: 'hidden' });

  // Another one, while the conversation is open somewhere else on the screen.
  await xenia.evaluate("location.hash = ''");
  await (await wim.send({ conv, text: '@xenia again', mentions: ['xenia'] })).outcome;
  await room(xenia, 'Watch').locator('.named', { hasText: '@1' }).waitFor();
  for (const page of [yan, xenia]) await page.context().close();
});

test('each member’s mark of a message in a group, in its tick and in the list that is open', { skip }, async t => {
  const abe = await people.demo('abe', dev.urls[0]);
  const bea = await client('bea');
  const cleo = await client('cleo');
  await exist(['bea', 'cleo', 'dirk']);
  const conv = await abe.evaluate(async () => (await /** @type {any} */ (window).flotilla.client.createGroup({ name: 'Marks', members: ['bea', 'cleo', 'dirk'] })).conv);
  await room(abe, 'Marks').click();
  await write(abe, 'who has it?');
  const message = bubble(abe, 'who has it?');
  await message.getByLabel('Sent', { exact: true }).waitFor();
  const got = async (/** @type {any} */ one) => (await one.entries(conv)).find((/** @type {any} */ e) => e.kind === 'message');
  await until(async () => (await got(bea)) !== undefined && (await got(cleo)) !== undefined, 'both have it');
  const { seq } = await got(bea);
  await bea.read(conv, seq);
  await message.getByLabel('Sent, read by 1 of 3').waitFor();
  const list = async (/** @type {string} */ words) => {
    await message.hover();
    await message.getByRole('button', { name: 'More' }).click();
    await abe.getByRole('menuitem', { name: words }).click();
    await abe.getByRole('list', { name: 'Read', exact: true }).getByText('bea').waitFor();
    await abe.getByRole('list', { name: 'Delivered', exact: true }).getByText('cleo').waitFor();
  };
  await list('Read by 1 of 3');
  await abe.getByRole('list', { name: 'Not delivered yet' }).getByText('dirk').waitFor();
  await abe.keyboard.press('Escape');

  await abe.evaluate((/** @type {string} */ conv) => /** @type {any} */ (window).flotilla.client.removeMember(conv, 'dirk'), conv);
  await message.getByLabel('Delivered, read by 1 of 2').waitFor();
  assert.equal(await message.locator('.tick').getAttribute('title'), 'Delivered, read by 1 of 2');
  // Where the node tells marks as they move, nothing is asked from here on.
  const isLive = await abe.evaluate((/** @type {string} */ conv) => {
    const { rooms } = /** @type {any} */ (window).flotilla.app;
    const isLive = rooms.isLive(conv);
    if (isLive) Object.assign(rooms, { members: () => Promise.reject(new Error('asked')) });
    return isLive;
  }, conv);
  t.diagnostic(isLive ? 'marks come by themselves' : 'marks are asked for');
  await list('Read by 1 of 2');
  await cleo.read(conv, seq);
  await abe.getByRole('list', { name: 'Read', exact: true }).getByText('cleo').waitFor();
  await abe.getByRole('status').filter({ hasText: 'Read by 2, delivered to 2 of 2' }).waitFor({ state: 'attached' });
  await abe.getByRole('list', { name: 'Delivered', exact: true }).waitFor({ state: 'detached' });
  await abe.keyboard.press('Escape');
  await message.getByLabel('Read by 2 of 2').waitFor();
  assert.equal(await message.locator('.tick').getAttribute('data-tick'), 'read');
  await abe.context().close();
});

test('a node that does not tell marks as they move is asked for them, and the page is told them when it comes to one that does', { skip }, async () => {
  const dina = await people.demo('dina', dev.urls[1]);
  const egon = await client('egon');
  await exist(['egon']);
  // Both kinds of nodes, whichever these are.
  const conv = await dina.evaluate(async () => {
    const { client } = /** @type {any} */ (window).flotilla;
    client.watchReceipts = () => Promise.reject(Object.assign(new Error('unknown request receipts'), { code: 'unsupported', retryable: false }));
    return (await client.createGroup({ name: 'Elder', members: ['egon'] })).conv;
  });
  await room(dina, 'Elder').click();
  await write(dina, 'asked for');
  const got = async () => (await egon.entries(conv)).find((/** @type {any} */ e) => e.kind === 'message');
  await until(async () => (await got()) !== undefined, 'egon has it');
  const { seq } = /** @type {any} */ (await got());
  await egon.read(conv, seq);
  await bubble(dina, 'asked for').getByLabel('Read by 1 of 1').waitFor();
  await write(dina, 'told');
  await until(async () => (await egon.entries(conv)).some((/** @type {any} */ e) => e.seq === seq + 1), 'egon has that, too');
  await bubble(dina, 'told').getByLabel('Delivered', { exact: true }).waitFor();
  await dina.evaluate((/** @type {any} */ [conv, seq]) => {
    const { app } = /** @type {any} */ (window).flotilla;
    app.rooms.members = () => Promise.reject(new Error('asked'));
    app.rooms.onReceipts({ conv, members: [{ user: 'egon', delivered: seq, read: seq }, { user: 'nobody', delivered: 0 }] });
  }, [conv, seq + 1]);
  await bubble(dina, 'told').getByLabel('Read by 1 of 1').waitFor();
  await dina.context().close();
});

test('a dialog that was opened before this person’s role was known lets them manage once it is', { skip }, async () => {
  const fay = await people.demo('fay', dev.urls[2]);
  await exist(['gus']);
  await fay.evaluate(async () => {
    const { client, app } = /** @type {any} */ (window).flotilla;
    const onConv = app.rooms.onConv.bind(app.rooms);
    app.rooms.onConv = (/** @type {any} */ state) => ((/** @type {any} */ (window).late = () => onConv(state)), undefined);
    await client.createGroup({ name: 'Early', members: [] });
  });
  await room(fay, 'Early').click();
  await fay.getByTitle('Members and settings').click();
  await fay.locator('.people li', { hasText: 'fay' }).waitFor();
  assert.equal(await fay.getByLabel('People to add').count(), 0);
  await until(() => fay.evaluate("typeof window.late === 'function'"), 'its state has come');
  await fay.evaluate('window.late()');
  await fay.getByLabel('People to add').fill('gus');
  await fay.getByRole('button', { name: 'Add', exact: true }).click();
  await fay.locator('.people li', { hasText: 'gus' }).getByRole('button', { name: 'Make admin' }).waitFor();
  await fay.context().close();
});

test('no page met an error', { skip }, () => {
  assert.deepEqual(people.errors, []);
});
