// A long conversation of olga and paul, and what a screen makes of scrolling through it.

import { until } from '../../../../client-js/tests/support/cluster.js';

const WORDS = 'the harbour is calm tonight and three boats lie at anchor while the wind turns north we should leave before the tide does bring rope bread and the long map'.split(' ');
/** Sent at once. */
const TOGETHER = 250;

/** Olga and paul write this many messages, numbered. @param {(user: string) => Promise<any>} client @param {number} count */
export async function fill(client, count) {
  const [olga, paul] = await Promise.all(['olga', 'paul'].map(client));
  await until(() => olga.status.state === 'online' && paul.status.state === 'online', 'both are online');
  for (let n = 1; n <= count; n += TOGETHER) {
    await Promise.all(Array.from({ length: Math.min(TOGETHER, count - n + 1) }, async (_, i) => {
      const [from, to] = (n + i) % 3 === 0 ? [paul, 'olga'] : [olga, 'paul'];
      await (await from.send({ to, text: `${n + i}. ${WORDS.slice(0, 2 + ((n + i) * 7) % 24).join(' ')}` })).outcome;
    }));
  }
  await olga.close();
  await paul.close();
}

/** From here on frames and long tasks are counted. @param {any} page */
export async function watchFrames(page) {
  await page.evaluate(() => {
    const w = /** @type {any} */ (window);
    w.gaps = [];
    w.long = [];
    new PerformanceObserver(list => w.long.push(...list.getEntries().map(task => task.duration))).observe({ entryTypes: ['longtask'] });
    let last = performance.now();
    const tick = (/** @type {number} */ now) => {
      w.gaps.push(now - last);
      last = now;
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  });
}

/**
 * Frames and long tasks since the last call, printed: how far apart frames were, and how many a screen of 60 Hz did not get.
 * @param {any} page @param {string} what
 */
export async function frames(page, what) {
  const { gaps, long } = await page.evaluate(() => {
    const w = /** @type {any} */ (window);
    return { gaps: w.gaps.splice(0), long: w.long.splice(0) };
  });
  const seen = figures(gaps, long);
  console.log(`    ${what}: ${seen.frames} frames, ms from one to the next: p50 ${seen.p50}, p95 ${seen.p95}, p99 ${seen.p99}, max ${seen.max}; dropped ${seen.dropped} (${seen.share} %); tasks over 50 ms: ${seen.long}, longest ${seen.longest} ms`);
  return seen;
}

const FRAME_MS = 1_000 / 60;

/** @param {number[]} gaps between frames, in ms @param {number[]} long tasks over 50 ms, in ms */
export function figures(gaps, long) {
  const all = gaps.toSorted((a, b) => a - b);
  const at = (/** @type {number} */ share) => Math.round(all[Math.min(all.length - 1, Math.floor(all.length * share))] ?? 0);
  const dropped = all.reduce((sum, gap) => sum + Math.max(0, Math.round(gap / FRAME_MS) - 1), 0);
  const share = (100 * dropped / Math.max(1, all.length + dropped)).toFixed(1);
  return { frames: all.length, p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1), dropped, share, long: long.length, longest: Math.round(Math.max(0, ...long)) };
}
