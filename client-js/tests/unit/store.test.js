// The stores: one contract for all, and for files every crash.

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { appendFile, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { FileStore } from '../../src/store/file.js';
import { MemoryStore } from '../../src/store/memory.js';
import { command, contract, entry } from '../support/contract.js';
import { Crash, Disk } from '../support/disk.js';
import { randomFrom } from '../support/random.js';

/** @param {(dir: string) => Promise<void>} run */
async function inDirectory(run) {
  const dir = await mkdtemp(join(tmpdir(), 'flotilla-js-'));
  try {
    await run(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}

test('memory keeps the contract of a store', () => contract(async () => new MemoryStore(), async store => store));

test('files keep the contract of a store, over restarts', () =>
  inDirectory(dir =>
    contract(
      () => FileStore.open(dir),
      async store => {
        await store.close();
        return FileStore.open(dir);
      },
    )));

test('files keep the contract over compactions', () =>
  inDirectory(dir =>
    contract(
      () => FileStore.open(dir),
      async store => {
        await /** @type {FileStore} */ (store).compact();
        await store.close();
        return FileStore.open(dir);
      },
    )));

test('compaction drops what is superseded', () =>
  inDirectory(async dir => {
    const store = await FileStore.open(dir);
    for (let i = 0; i < 200; i++) await store.commit([{ t: 'rev', rev: `1.${i}` }]);
    const before = (await stat(join(dir, 'store.log'))).size;
    await store.compact();
    assert.ok((await stat(join(dir, 'store.log'))).size < before / 10);
    assert.equal((await store.load()).rev, '1.199');
    await store.commit([{ t: 'rev', rev: '2.1' }]);
    assert.equal((await store.load()).rev, '2.1');
    await store.close();
  }));

test('a second process is refused, a dead one is not waited for', () =>
  inDirectory(async dir => {
    const script = `import { FileStore } from '${new URL('../../src/store/file.js', import.meta.url)}';
      await FileStore.open(process.argv[1]); console.log('open'); process.kill(process.pid, 'SIGKILL');`;
    const run = () => spawnSync(process.execPath, ['--input-type=module', '-e', script, dir], { encoding: 'utf8' });
    const store = await FileStore.open(dir);
    await assert.rejects(FileStore.open(dir), /in use by another process/);
    assert.match(run().stderr, /in use by another process/);
    await store.close();
    assert.match(run().stdout, /open/);
    await (await FileStore.open(dir)).close();
  }));

test('a torn tail is cut off, damage before the end is an error that names its place', () =>
  inDirectory(async dir => {
    const path = join(dir, 'store.log');
    const store = await FileStore.open(dir);
    await store.commit([{ t: 'install', install: 'one' }]);
    await store.commit([{ t: 'rev', rev: '1.1' }]);
    await store.close();
    const whole = await readFile(path);
    for (const tail of [Buffer.from([9]), Buffer.alloc(64), Buffer.from([5, 0, 0, 0, 1, 2, 3, 4, 1, 2, 3, 4, 5])]) {
      await appendFile(path, tail);
      const again = await FileStore.open(dir);
      assert.deepEqual([(await again.load()).install, (await again.load()).rev], ['one', '1.1']);
      await again.close();
      assert.deepEqual(await readFile(path), whole);
    }
    const damaged = Buffer.from(whole);
    damaged[20] ^= 1;
    await writeFile(path, damaged);
    await assert.rejects(FileStore.open(dir), /damaged at byte 8: checksum/);
    await writeFile(path, 'something else entirely');
    await assert.rejects(FileStore.open(dir), /not a Flotilla store/);
  }));

test('a crash at any write loses nothing that was committed, and halves no transaction', async () => {
  let lives = 0;
  for (let seed = 1; seed <= 12; seed++) {
    for (let crashAfter = 1; ; crashAfter++) {
      if (!(await oneLife(seed, crashAfter))) break;
      lives += 1;
    }
  }
  assert.ok(lives > 400, `${lives} crashes`);
});

/** True: it crashed. @param {number} seed @param {number} crashAfter */
async function oneLife(seed, crashAfter) {
  const random = randomFrom(seed * 1_000 + crashAfter);
  const disk = new Disk(random);
  disk.crashAfter = crashAfter;
  let [committed, tried] = [0, 0];
  let crashed = false;
  try {
    const store = await FileStore.open('d', { fs: disk, lock: false });
    for (let i = 0; i < 8; i++) {
      // Two at once share a record; either both are there or none.
      const width = random() < 0.3 ? 2 : 1;
      const commits = Array.from({ length: width }, () => {
        const k = ++tried;
        return store.commit([{ t: 'entry', entry: entry(k) }, { t: 'command', command: command(`c${k}`) }, { t: 'position', conv: 'd05alice03bob', seq: k, chain: 'y' }]);
      });
      await Promise.all(commits);
      committed = tried;
      if (i === 4) await store.compact();
    }
  } catch (error) {
    assert.ok(error instanceof Crash, String(error));
    crashed = true;
  }
  const after = await FileStore.open('d', { fs: disk.crash(), lock: false });
  const saved = await after.load();
  const seq = saved.positions.get('d05alice03bob')?.seq ?? 0;
  const where = `seed ${seed}, crash after ${crashAfter}`;
  assert.ok(seq >= committed && seq <= tried, `${where}: ${committed} committed, ${seq} found, ${tried} tried`);
  assert.equal(saved.commands.length, seq, where);
  assert.deepEqual((await after.entries('d05alice03bob', {})).map(e => e.seq), Array.from({ length: seq }, (_, i) => i + 1), where);
  await after.commit([{ t: 'rev', rev: '9.9' }]);
  assert.equal((await after.load()).rev, '9.9', where);
  return crashed;
}
