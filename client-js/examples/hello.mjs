// node hello.mjs alice bob    and in another terminal    node hello.mjs bob alice
// Type a line, press Enter. Kill it, or a node, and go on: nothing is lost.

import { createInterface } from 'node:readline';
import { directId, open, textOf } from 'flotilla-client/node';

const [me = 'alice', peer = 'bob', url = 'http://127.0.0.1:4001'] = process.argv.slice(2);
const client = await open({ urls: url, user: me, token: `dev:${me}`, dir: `flotilla-${me}` });
const conv = directId(me, peer);

for (const entry of await client.entries(conv, { limit: 10 })) show(entry);
client.on('entry', show);
client.on('status', ({ state, url = '' }) => console.log(`-- ${state} ${url}`));
client.on('error', error => console.log('-- error', error.code));

createInterface({ input: process.stdin }).on('line', async text => {
  if (text.trim() === '') return;
  const { outcome } = await client.send({ to: peer, text }); // stored on this device: it will be sent
  const { state } = await outcome; // accepted, rejected or unknown
  if (state !== 'accepted') console.log(`-- ${state}: ${text}`);
}).on('close', () => client.close());

function show(entry) {
  if (entry.conv === conv && entry.kind === 'message') console.log(`${entry.seq} ${entry.from}: ${textOf(entry)}`);
}
