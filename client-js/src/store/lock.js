// One process per directory: a lock file that names its process. A lock whose process is gone (by number and time of birth)
// is taken over.

import { link, open, readFile, rename, unlink } from 'node:fs/promises';
import { join } from 'node:path';

/** @param {string} dir @returns {Promise<() => Promise<void>>} unlocks */
export async function lockDirectory(dir) {
  const path = join(dir, 'lock');
  const own = JSON.stringify({ pid: process.pid, born: await born(process.pid) });
  for (let tries = 0; tries < 10; tries++) {
    try {
      const file = await open(path, 'wx');
      await file.writeFile(own);
      await file.close();
      return () => unlink(path).catch(() => {});
    } catch (error) {
      if (/** @type {any} */ (error).code !== 'EEXIST') throw error;
    }
    const found = await readFile(path, 'utf8').catch(() => null);
    if (found === null) continue;
    if (await isHeld(found)) throw inUse(dir);
    // Moved first: of two that find a dead lock only one moves it, and who moved a new one gives it back.
    const moved = `${path}.${process.pid}`;
    if (!(await rename(path, moved).then(() => true, () => false))) continue;
    const isOther = (await readFile(moved, 'utf8')) !== found;
    if (isOther) await link(moved, path).catch(() => {});
    await unlink(moved);
    if (isOther) throw inUse(dir);
  }
  throw new Error(`${dir} cannot be locked`);
}

/** @param {string} dir */
const inUse = dir => new Error(`${dir} is in use by another process`);

/** @param {string} lock its text */
async function isHeld(lock) {
  try {
    const { pid, born: then } = JSON.parse(lock);
    process.kill(pid, 0);
    const now = await born(pid);
    return now === null || then === null || now === then;
  } catch (error) {
    // A process of another user is alive too. An empty lock was left by a crash in its first write.
    return /** @type {any} */ (error).code === 'EPERM';
  }
}

/** When a process began, where the system tells. @param {number} pid @returns {Promise<string | null>} */
async function born(pid) {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? null;
  } catch {
    return null;
  }
}
