// What the composer needs of the client.

export { limits, textOf } from '../../../../client-js/src/index.js';

/** Bytes of a text on the wire. @param {string} text */
export const utf8Length = text => new TextEncoder().encode(text).length;
