import assert from 'node:assert/strict';
import { test } from 'node:test';
import { figures } from '../support/long.js';

test('frames that a screen did not get are counted, small irregularities are none', () => {
  const even = Array.from({ length: 98 }, (_, n) => 16.7 + (n % 2 ? 3 : -3));
  const seen = figures([...even, 50, 101], [60.4, 84.6]);
  assert.deepEqual(seen, { frames: 100, p50: 20, p95: 20, p99: 101, max: 101, dropped: 7, share: '6.5', long: 2, longest: 85 });
  assert.deepEqual(figures([], []), { frames: 0, p50: 0, p95: 0, p99: 0, max: 0, dropped: 0, share: '0.0', long: 0, longest: 0 });
});
