import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Requests } from '../../src/requests.js';

test('a channel is a group of another kind, made once under its key', async () => {
  /** @type {any[]} */
  const asked = [];
  const requests = new Requests(async request => {
    asked.push(request);
    return { conv: 'c', dup: asked.length > 1 };
  });
  const key = '01890a5d-ac96-774b-bcce-b302099a8057';
  await requests.createChannel({ name: 'news', members: ['Bob', 'cyd'], history: 'full', key });
  assert.equal((await requests.createChannel({ name: 'news', members: ['bob', 'cyd'], history: 'full', key })).dup, true);
  const params = { name: 'news', kind: 'channel', members: ['bob', 'cyd'], history: 'full' };
  assert.deepEqual(asked, Array(2).fill({ t: 'call', d: { method: 'POST groups', key, params } }));
  await requests.createGroup({ name: 'crew' });
  assert.equal(asked[2].d.params.kind, undefined);
});
