// One process per directory: a lock file that names its process. A lock whose process is gone (by number and time of birth)
// is taken over.

import { open, readFile, rename, unlink } from 'node:fs/promises';
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
    if (await isHeld(path)) throw new Error(`${dir} is in use by another process`);
    // Moved first: of two that find a dead lock only one moves it.
    const dead = `${path}.${process.pid}`;
    await rename(path, dead).then(() => unlink(dead)).catch(() => {});
  }
  throw new Error(`${dir} cannot be locked`);
}

/** @param {string} path */
async function isHeld(path) {
  try {
    const { pid, born: then } = JSON.parse(await readFile(path, 'utf8'));
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
