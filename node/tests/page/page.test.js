// The page in Chromium against three real nodes: people, tabs, kills, no network, late joiners. Needs FLOTILLA_BIN and chromium.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { bubble, counters, firstLoad, holds, openDirect, shown, stage, until, write } from './support/dev.js';

const { skip, dev, people } = stage();

/** @param {any} page */
const close = page => page.context().close();

test('the first load is small: what few want comes later', { skip }, async () => {
  const { files, bytes } = await firstLoad(people, dev.urls[0]);
  assert.ok(files.length > 40, `all of it is counted: ${files.length} requests`);
  const names = files.map(f => f.url.split('/node/web/').at(-1));
  for (const later of ['dialogs', 'menus', 'search', 'strip']) assert.ok(!names.includes(`js/views/${later}.js`), `${later} waits`);
  // Bytes, not KiB, with all headers.
  assert.ok(bytes < 100_000, `${bytes} bytes`);
  console.log(`    first load: ${files.length} requests, ${bytes} bytes`);
});

test('two people register, write to each other, and see how far their messages came', { skip }, async () => {
  const pages = [];
  for (const [at, user] of ['anna', 'ben'].entries()) {
    const page = await people.tab(await people.browserOf(), dev.urls[at]);
    await page.getByRole('button', { name: 'Create an account' }).click();
    await page.getByLabel('Name').fill(user);
    await page.getByLabel('Password').fill('correct horse');
    await page.getByRole('button', { name: 'Create account' }).click();
    await people.online(page);
    pages.push(page);
  }
  const [anna, ben] = pages;
  await openDirect(anna, 'ben');
  await write(anna, 'hello ben');
  await bubble(anna, 'hello ben').getByLabel(/Sent|Delivered/).waitFor();
  await ben.locator('.room', { hasText: 'anna' }).locator('.badge', { hasText: '1' }).waitFor();
  await bubble(anna, 'hello ben').getByLabel('Delivered').waitFor();
  await until(async () => (await ben.title()).startsWith('(1)'), 'the title counts');
  await ben.locator('.room', { hasText: 'anna' }).click();
  await bubble(ben, 'hello ben').waitFor();
  await ben.locator('.new-mark').waitFor();
  await bubble(anna, 'hello ben').getByLabel('Read').waitFor();
  await ben.locator('.room .badge').waitFor({ state: 'hidden' });

  await write(ben, 'hello anna <b>not bold</b> https://example.org/x');
  await bubble(anna, 'not bold').locator('a[href="https://example.org/x"]').waitFor();
  assert.ok((await shown(anna)).includes('hello anna <b>not bold</b> https://example.org/x'), 'text is text');

  // Reply, react, edit, delete: by pointer and by keyboard.
  await bubble(ben, 'hello ben').hover();
  await bubble(ben, 'hello ben').getByRole('button', { name: 'Reply' }).click();
  await write(ben, 'I say it again');
  await bubble(anna, 'I say it again').locator('.quote', { hasText: 'hello ben' }).waitFor();
  await bubble(anna, 'I say it again').hover();
  await bubble(anna, 'I say it again').getByRole('button', { name: 'React' }).click();
  await anna.locator('.menu.emoji button').first().click();
  await bubble(ben, 'I say it again').locator('.reaction', { hasText: '👍' }).waitFor();
  await bubble(ben, 'I say it again').locator('.reaction').click();
  await bubble(anna, 'I say it again').locator('.reaction', { hasText: '2' }).waitFor();
  await bubble(anna, 'I say it again').locator('.reaction').click();
  await bubble(ben, 'I say it again').locator('.reaction', { hasText: '2' }).waitFor({ state: 'hidden' });
  await ben.getByRole('textbox', { name: 'Message', exact: true }).focus();
  await ben.keyboard.press('ArrowUp');
  await ben.getByRole('textbox', { name: 'Message', exact: true }).fill('I say it differently');
  await ben.keyboard.press('Enter');
  await bubble(anna, 'I say it differently').getByText('edited').waitFor();
  await write(ben, 'nonsense');
  await bubble(anna, 'nonsense').waitFor();
  await ben.keyboard.press('Shift+ArrowUp');
  await ben.keyboard.press('Delete');
  await ben.getByRole('button', { name: 'Delete', exact: true }).click();
  await anna.getByText('This message was deleted.').waitFor();
  assert.ok(!(await shown(anna)).includes('nonsense'));

  // Nobody of this name.
  await anna.getByRole('button', { name: /New conversation/ }).first().click();
  await anna.getByLabel('With whom?').fill('nobody-here');
  await anna.getByRole('button', { name: 'Start' }).click();
  await anna.getByText('There is nobody of this name.').waitFor();
  await anna.keyboard.press('Escape');

  // A reload keeps the person; logging out takes what was stored along.
  await anna.reload();
  await people.online(anna);
  await bubble(anna, 'hello ben').waitFor();
  await anna.getByRole('button', { name: /Menu/ }).click();
  await anna.getByRole('menuitem', { name: 'Log out' }).click();
  await anna.getByRole('button', { name: 'Log out', exact: true }).click();
  await anna.getByRole('heading', { name: 'Log in' }).waitFor();
  await until(async () => (await anna.evaluate('indexedDB.databases()')).length === 0, 'the store is gone');
  await anna.getByLabel('Name').fill('anna');
  await anna.getByLabel('Password').fill('wrong horse');
  await anna.getByRole('button', { name: 'Log in' }).click();
  await anna.locator('#login-error', { hasText: 'The name or the password is wrong.' }).waitFor();
  await anna.getByLabel('Password').fill('correct horse');
  await anna.getByRole('button', { name: 'Log in' }).click();
  await people.online(anna);
  await anna.locator('.room', { hasText: 'ben' }).click();
  await bubble(anna, 'hello ben').waitFor();
  for (const page of [anna, ben]) await close(page);
});

test('two tabs of one person show the same, both can write, and what one reads is read in the other', { skip }, async () => {
  const one = await people.demo('clara', dev.urls[0]);
  const two = await people.tab(one.context(), dev.urls[0]);
  await people.online(two);
  const dan = await people.demo('dan', dev.urls[1]);
  await openDirect(one, 'dan');
  await write(one, 'from the first tab');
  await two.locator('.room', { hasText: 'dan' }).click();
  await bubble(two, 'from the first tab').waitFor();
  await write(two, 'from the second tab');
  await bubble(one, 'from the second tab').getByLabel(/Sent|Delivered/).waitFor();
  await one.evaluate("location.hash = ''");
  await two.evaluate("location.hash = ''");
  await dan.locator('.room', { hasText: 'clara' }).click();
  await write(dan, 'to both');
  for (const page of [one, two]) await page.locator('.room .badge', { hasText: '1' }).waitFor();
  await one.locator('.room', { hasText: 'dan' }).click();
  await two.locator('.room .badge').waitFor({ state: 'hidden' });
  await bubble(dan, 'to both').getByLabel('Read').waitFor();
  // The first tab holds the connection; the second goes on without it.
  await one.close();
  await holds(two, 'window.flotilla.client.isLeader');
  await people.online(two);
  await two.locator('.room', { hasText: 'dan' }).click();
  await write(two, 'alone now');
  await bubble(dan, 'alone now').waitFor();
  await close(two);
  await close(dan);
});

test('the node that leads the conversation is killed while messages fly: lost 0, doubled 0', { skip }, async () => {
  const [emma, finn] = [await people.demo('emma', dev.urls[0]), await people.demo('finn', dev.urls[1])];
  await openDirect(emma, 'finn');
  await write(emma, 'ready?');
  await finn.locator('.room', { hasText: 'emma' }).click();
  await bubble(finn, 'ready?').waitFor();
  const strip = emma.locator('.strip');
  await strip.locator('.node.leads').waitFor();
  const leader = Number((await strip.locator('.node.leads .node-name').textContent()).replace(/\D/g, ''));
  await emma.getByRole('button', { name: 'Send 100' }).click();
  await bubble(finn, 'Message 10 of 100').waitFor();
  await dev.turn(emma, leader, 'Kill');
  // Killed once more: the node that this page talks to, if that is another one and two remain.
  await until(async () => (await counters(emma)).accepted === 101, 'all 101 accepted', 60_000);
  await bubble(finn, 'Message 100 of 100').waitFor();
  await strip.locator('.node.leads').waitFor();
  const next = Number((await strip.locator('.node.leads .node-name').textContent()).replace(/\D/g, ''));
  assert.notEqual(next, leader, 'another node leads');
  await dev.turn(emma, leader, 'Restart');
  await strip.locator(`.node[data-state="up"]`).nth(2).waitFor();
  for (const page of [emma, finn]) {
    await until(async () => (await counters(page)).delivered >= 100, 'delivered');
    const { lost, doubled } = await counters(page);
    assert.deepEqual({ lost, doubled }, { lost: 0, doubled: 0 });
    const texts = await page.evaluate(async () => {
      const { client } = /** @type {any} */ (window).flotilla;
      const entries = await client.entries('d04emma04finn', { limit: 1000 });
      return entries.map((/** @type {any} */ e) => `${e.seq} ${new TextDecoder().decode(e.body)}`);
    });
    assert.deepEqual(texts, ['1 ready?', ...Array.from({ length: 100 }, (_, n) => `${n + 2} Message ${n + 1} of 100`)]);
  }
  await close(emma);
  await close(finn);
});

test('without any node it reads and writes, also after a reload, and sends when the nodes are back', { skip }, async () => {
  const [greta, hugo] = [await people.demo('greta', dev.urls[0]), await people.demo('hugo', dev.urls[1])];
  await openDirect(greta, 'hugo');
  await write(greta, 'while all is well');
  await hugo.locator('.room', { hasText: 'greta' }).click();
  await bubble(hugo, 'while all is well').waitFor();
  await holds(greta, 'navigator.serviceWorker.controller !== null');
  for (const node of [1, 2, 3]) await dev.turn(greta, node, 'Kill');
  await greta.locator('.notice', { hasText: 'Reconnecting' }).waitFor();
  await write(greta, 'written without a node');
  await bubble(greta, 'written without a node').getByLabel('Sending').waitFor();
  await greta.context().setOffline(true);
  await greta.reload();
  await bubble(greta, 'while all is well').waitFor();
  await bubble(greta, 'written without a node').getByLabel('Sending').waitFor();
  await write(greta, 'written after a reload');
  await greta.getByText('You are offline').first().waitFor();
  assert.equal(await greta.evaluate('window.flotilla.client.outbox().then(o => o.length)'), 2);
  await dev.turn(hugo, 1, 'Restart');
  await greta.context().setOffline(false);
  for (const node of [2, 3]) await dev.turn(greta, node, 'Restart');
  await bubble(hugo, 'written after a reload').waitFor({ timeout: 60_000 });
  const texts = await shown(hugo);
  assert.deepEqual(texts, ['while all is well', 'written without a node', 'written after a reload']);
  await bubble(greta, 'written after a reload').getByLabel(/Sent|Delivered|Read/).waitFor();
  await greta.locator('.notice').waitFor({ state: 'hidden' });
  await close(greta);
  await close(hugo);
});

test('a late joiner sees what the group allows, and a new device of an old member sees everything', { skip }, async () => {
  const [ida, jan, kim] = [await people.demo('ida', dev.urls[0]), await people.demo('jan', dev.urls[1]), await people.demo('kim', dev.urls[2])];
  for (const [name, all] of /** @type {const} */ ([['Open crew', true], ['Closed crew', false]])) {
    await ida.getByRole('button', { name: /New conversation/ }).first().click();
    await ida.getByLabel('With whom?').fill('jan');
    await ida.getByRole('button', { name: 'Make it a group' }).click();
    await ida.getByLabel('Name of the group').fill(name);
    if (all) await ida.getByLabel('Who joins later sees earlier messages').check();
    await ida.getByRole('button', { name: 'Create group' }).click();
    await ida.getByRole('heading', { name }).first().waitFor();
    for (let n = 1; n <= 5; n++) await write(ida, `${name} ${n}`);
    await bubble(ida, `${name} 5`).getByLabel(/Sent|Delivered/).waitFor();
    await ida.getByTitle('Members and settings').click();
    await ida.getByLabel('People to add').fill('kim');
    await ida.getByRole('button', { name: 'Add', exact: true }).click();
    await ida.locator('.people li', { hasText: 'kim' }).waitFor();
    await ida.keyboard.press('Escape');
    await write(ida, `${name} after`);
    await kim.locator('.room', { hasText: name }).click();
    await bubble(kim, `${name} after`).waitFor();
    await kim.getByText('ida added you').waitFor();
    if (all) await bubble(kim, `${name} 1`).waitFor();
    else assert.deepEqual((await shown(kim)).filter(text => text.endsWith('1')), []);
    await write(kim, `thanks from kim, ${name}`);
    await bubble(ida, 'thanks from kim').locator('.sender', { hasText: 'kim' }).waitFor();
  }
  // Everybody has read: the ticks of a group.
  await jan.locator('.room', { hasText: 'Closed crew' }).click();
  await bubble(ida, 'Closed crew after').getByLabel('Read by 2 of 2').waitFor();

  const again = await people.demo('jan', dev.urls[2]);
  await again.locator('.room', { hasText: 'Open crew' }).click();
  await bubble(again, 'Open crew 1').waitFor();
  await again.getByText('ida created the group').waitFor();
  for (const page of [ida, jan, kim, again]) await close(page);
});

test('who is there and who types is shown; pinned, muted, archived and marked ones are so on all devices', { skip }, async () => {
  const [lena, max] = [await people.demo('lena', dev.urls[0]), await people.demo('max', dev.urls[1])];
  for (const user of ['max', 'nils']) {
    if (user === 'nils') await close(await people.demo('nils', dev.urls[2]));
    await openDirect(lena, user);
    await write(lena, `hello ${user}`);
    await bubble(lena, `hello ${user}`).getByLabel(/Sent|Delivered/).waitFor();
  }
  const other = await people.demo('lena', dev.urls[2]);
  await lena.locator('.room', { hasText: 'max' }).locator('[data-presence="online"]').waitFor();
  await max.locator('.room', { hasText: 'lena' }).click();
  await lena.locator('.room', { hasText: 'max' }).click();
  await lena.locator('.bar-state', { hasText: 'Online' }).waitFor();
  await max.getByRole('textbox', { name: 'Message', exact: true }).pressSequentially('I am');
  await lena.locator('.typing.on', { hasText: 'typing' }).waitFor();
  await close(max);
  await lena.locator('.bar-state', { hasText: 'Last seen' }).waitFor();

  const first = (/** @type {any} */ page) => page.locator('.room .room-name').first().textContent();
  assert.equal(await first(other), 'nils');
  const settle = async (/** @type {string} */ what) => {
    await lena.getByRole('button', { name: 'Options' }).click();
    await lena.getByRole('menuitem', { name: what }).click();
  };
  await settle('Pin to the top');
  await until(async () => (await first(other)) === 'max' && (await first(lena)) === 'max', 'pinned');
  await settle('Mute');
  await other.locator('.room', { hasText: 'max' }).locator('.icon-mute').waitFor();
  await settle('Mark as unread');
  await other.locator('.room', { hasText: 'max' }).locator('.badge').waitFor();
  await other.locator('.room', { hasText: 'max' }).click();
  await lena.locator('.room', { hasText: 'max' }).locator('.badge').waitFor({ state: 'hidden' });
  await lena.locator('.room', { hasText: 'max' }).click();
  await settle('Archive');
  await lena.getByRole('button', { name: 'Back to the list' }).waitFor({ state: 'hidden' });
  await lena.locator('.room', { hasText: 'nils' }).click();
  await lena.locator('.room', { hasText: 'max' }).waitFor({ state: 'hidden' });
  await lena.getByRole('button', { name: 'Archived (1)' }).click();
  await lena.locator('.room', { hasText: 'max' }).waitFor();
  await close(lena);
  await close(other);
});

test('people are found by the beginning of their names, call themselves what they like, and can be blocked', { skip }, async () => {
  const [rosa, sven] = [await people.demo('rosa', dev.urls[0]), await people.demo('sven', dev.urls[1])];
  await sven.getByRole('button', { name: /Menu/ }).click();
  // What is stored arrives when the new name is written already: the new name stays.
  await sven.evaluate(() => {
    const { client } = /** @type {any} */ (window).flotilla;
    const call = client.call.bind(client);
    client.call = (/** @type {string} */ what, /** @type {any[]} */ ...rest) => {
      if (what !== 'GET users/sven') return call(what, ...rest);
      return new Promise(resolve => {
        /** @type {any} */ (window).answer = () => call(what, ...rest).then(resolve);
      });
    };
  });
  await sven.getByRole('menuitem', { name: 'Profile' }).click();
  await sven.getByLabel('Name', { exact: true }).fill('Sven Ödegård');
  await sven.evaluate('window.answer()');
  await sven.getByRole('button', { name: 'Save' }).click();
  await sven.locator('.me-name', { hasText: 'Sven Ödegård' }).waitFor();
  await rosa.getByRole('button', { name: /New conversation/ }).first().click();
  await rosa.getByLabel('With whom?').pressSequentially('sv');
  await rosa.locator('.found button', { hasText: 'sven' }).click();
  await rosa.getByRole('button', { name: 'Start' }).click();
  await rosa.locator('.bar-name').waitFor();
  await write(rosa, 'hello Sven');
  await bubble(rosa, 'hello Sven').getByLabel(/Sent|Delivered/).waitFor();
  await sven.locator('.room', { hasText: 'rosa' }).click();
  await write(sven, 'hello Rosa');
  await rosa.locator('.room-name', { hasText: 'Sven Ödegård' }).waitFor();
  await bubble(rosa, 'hello Rosa').waitFor();
  await rosa.getByRole('button', { name: 'Options' }).click();
  await rosa.getByRole('menuitem', { name: 'Block' }).click();
  await rosa.getByRole('button', { name: 'Block', exact: true }).click();
  await rosa.getByText('Blocked by you').waitFor();
  await write(sven, 'are you there?');
  await sven.getByText('Not sent: this person does not take messages from you.').waitFor();
  // In a group nothing is refused; it is out of sight.
  const group = await sven.evaluate(async () => (await /** @type {any} */ (window).flotilla.client.createGroup({ name: 'Both', members: ['rosa'] })).conv);
  await sven.evaluate((/** @type {string} */ conv) => /** @type {any} */ (window).flotilla.client.send({ conv, text: 'said in a group' }), group);
  const both = rosa.locator('.room', { hasText: 'Both' });
  await both.locator('.room-line', { hasText: 'Somebody you have blocked wrote' }).waitFor();
  await both.click();
  await bubble(rosa, 'You have blocked this person.').waitFor();
  await write(rosa, 'said by rosa');
  await bubble(rosa, 'said by rosa').getByLabel(/Sent|Delivered/).waitFor();
  await rosa.evaluate(async (/** @type {string} */ conv) => {
    const { client } = /** @type {any} */ (window).flotilla;
    const { seq } = (await client.entries(conv)).find((/** @type {any} */ e) => e.kind === 'message');
    await client.send({ conv, text: 'an answer to that', reply_to: seq });
  }, group);
  await bubble(rosa, 'an answer to that').locator('.quote', { hasText: 'a message of somebody you have blocked' }).waitFor();
  // Also before any server has said so again.
  await rosa.reload();
  await bubble(rosa, 'You have blocked this person.').waitFor();
  assert.ok(!(await shown(rosa)).includes('said in a group'));
  await people.online(rosa);
  await bubble(rosa, 'You have blocked this person.').getByRole('button', { name: 'Show' }).click();
  await bubble(rosa, 'said in a group').waitFor();
  await bubble(rosa, 'an answer to that').locator('.quote', { hasText: 'said in a group' }).waitFor();
  await rosa.locator('.room', { has: rosa.locator('.room-name', { hasText: 'Sven' }) }).click();
  await rosa.locator('.bar-state', { hasText: 'Blocked by you' }).waitFor();
  await rosa.getByRole('button', { name: 'Options' }).click();
  await rosa.getByRole('menuitem', { name: 'Unblock' }).click();
  await rosa.getByText('Blocked by you').waitFor({ state: 'hidden' });
  await sven.getByRole('button', { name: 'Write it again' }).click();
  await sven.keyboard.press('Enter');
  await bubble(rosa, 'are you there?').waitFor();
  await close(rosa);
  await close(sven);
});

test('somebody comes by a one-time code, stays, and comes back as the same device', { skip }, async () => {
  const context = await people.browserOf();
  const page = await people.tab(context, dev.urls[1]);
  const ask = async (/** @type {string} */ address) => {
    await page.getByRole('button', { name: 'Use a one-time code' }).click();
    await page.getByLabel('E-mail or phone').fill(address);
    await page.getByRole('button', { name: 'Send a code' }).click();
    await page.locator('#code-error', { hasText: 'A code was sent to' }).waitFor();
    return dev.code(address.toLowerCase());
  };
  const code = await ask('Nora@example.org');
  await page.getByLabel('Code', { exact: true }).fill(String((Number(code) + 1) % 1_000_000).padStart(6, '0'));
  await page.getByRole('button', { name: 'Log in', exact: true }).click();
  await page.locator('#code-error', { hasText: 'wrong or has expired' }).waitFor();
  await page.getByLabel('Code', { exact: true }).fill(`${code.slice(0, 3)} ${code.slice(3)}`);
  await page.getByRole('button', { name: 'Log in', exact: true }).click();
  await people.online(page);
  const device = await page.evaluate('window.flotilla.client.status.device');
  assert.match(await page.evaluate('window.flotilla.client.user'), /^e\.[0-9a-f]{32}$/);
  await page.reload();
  await people.online(page);
  assert.equal(await page.evaluate('window.flotilla.client.status.device'), device);
  await openDirect(page, 'ben');
  await write(page, 'by code');
  await bubble(page, 'by code').getByLabel(/Sent|Delivered/).waitFor();
  await context.close();
});

test('no page met an error', { skip }, () => {
  assert.deepEqual(people.errors, []);
});
