// A client process of its own, to be killed: writes message after message, each under a cid that follows from its number, so
// that it goes on where it was, whatever it had time to store. Says on stdout what was accepted.

import { createHash } from 'node:crypto';
import { open } from '../../src/node.js';

const { urls, user, dir, to, from, count } = JSON.parse(process.argv[2]);
const cidOf = (/** @type {number} */ n) => {
  const hex = createHash('sha256').update(`${user} ${n}`).digest('hex');
  return `${hex.slice(0, 8)}-${hex.slice(8, 12)}-4${hex.slice(13, 16)}-8${hex.slice(17, 20)}-${hex.slice(20, 32)}`;
};

const client = await open({ urls, user, token: `dev:${user}`, dir });
client.on('error', error => console.log(`error ${JSON.stringify(error)}`));
for (let n = from; n < count; n++) {
  const { outcome } = await client.send({ to, text: `w${n}`, cid: cidOf(n) });
  void outcome.then(({ state }) => console.log(`${state} ${n}`));
  console.log(`stored ${n}`);
  await new Promise(done => setTimeout(done, 5));
}
while ((await client.outbox()).length > 0) await new Promise(done => setTimeout(done, 50));
console.log('done');
await client.close();
