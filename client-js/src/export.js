// A whole conversation over HTTP, line by line. What was cut off is never taken for whole.

import { FlotillaError } from './errors.js';
import { EXPORT_SILENCE_MS, HTTP_TIMEOUT_MS } from './limits.js';

/**
 * @param {{ urls: string[], token: import('./types.js').TokenFunction, conv: string, silence_ms?: number, fetch?: typeof fetch }} what one URL
 *   after the other is tried, until one answers; `silence_ms`: how long nothing may come while a line is waited for
 * @returns {AsyncGenerator<any, void, void>} the lines, without the last one, which says that it is whole
 */
export async function* exportLines({ urls, token, conv, silence_ms = EXPORT_SILENCE_MS, fetch = globalThis.fetch }) {
  const response = await answer(urls, token, conv, fetch);
  let entries = 0;
  for await (const line of lines(response, silence_ms)) {
    const one = JSON.parse(line);
    if (one.end === true) {
      if (one.entries !== entries) throw cut();
      return;
    }
    if (one.error !== undefined) throw FlotillaError.of(one.error);
    entries += 1;
    yield one;
  }
  throw cut();
}

const cut = (why = 'the export was cut off') => new FlotillaError('unavailable', why, { retryable: true });

/** @param {string[]} urls @param {import('./types.js').TokenFunction} token @param {string} conv @param {typeof fetch} fetch @returns {Promise<Response>} */
async function answer(urls, token, conv, fetch) {
  let last = 'no node';
  let fresh = false;
  for (let i = 0; i < urls.length; i++) {
    const authorization = `Bearer ${await token({ fresh })}`;
    let response;
    // The time is for the head; the lines take as long as they take.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), HTTP_TIMEOUT_MS);
    try {
      response = await fetch(`${urls[i].replace(/\/+$/, '')}/v1/conversations/${conv}/export`, { headers: { authorization }, signal: late.signal });
    } catch (error) {
      last = /** @type {any} */ (error)?.message ?? String(error);
      continue;
    } finally {
      clearTimeout(timer);
    }
    if (response.ok) return response;
    const error = FlotillaError.of({ ...(await response.json().catch(() => ({ code: 'internal', message: response.statusText }))), status: response.status });
    if (response.status === 401 && !fresh) {
      fresh = true;
      i -= 1;
    } else if (!error.retryable) {
      throw error;
    }
    last = error.message;
  }
  throw new FlotillaError('unavailable', last, { retryable: true });
}

/** @param {Response} response @param {number} silenceMs @returns {AsyncGenerator<string, void, void>} */
async function* lines(response, silenceMs) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let rest = '';
  try {
    for (;;) {
      const { done, value } = await next(reader, silenceMs);
      if (done) return;
      const parts = (rest + decoder.decode(value, { stream: true })).split('\n');
      rest = /** @type {string} */ (parts.pop());
      for (const part of parts) if (part !== '') yield part;
    }
  } finally {
    // Ends the request; what is silent is not waited for.
    void reader.cancel().catch(() => {});
  }
}

/**
 * The next piece. A node that hangs does not end its connection, and nobody else would.
 * @param {ReadableStreamDefaultReader<Uint8Array>} reader @param {number} silenceMs
 */
async function next(reader, silenceMs) {
  /** @type {any} */
  let timer;
  /** @type {Promise<never>} */
  const silence = new Promise((_, failed) => {
    timer = setTimeout(() => failed(cut(`nothing of the export came for ${silenceMs} ms`)), silenceMs);
  });
  const piece = reader.read().catch(() => {
    throw cut();
  });
  try {
    return await Promise.race([piece, silence]);
  } finally {
    clearTimeout(timer);
  }
}
