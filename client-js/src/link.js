// An open connection as the device sees it, and what each answer on it will be an answer to.

/** What an answer's id stands for. @typedef {{ cid: string } | { call: number } | { auth: true }} Flight */

export class Link {
  /** Everything pending at the connect has come: commands may go out. */
  caughtUp = false;
  /** `unavailable` answers in a row. */
  unavailable = 0;
  /** @type {Map<number, Flight>} */
  #flights = new Map();
  #lastId = 0;

  /** @param {import('./connection.js').Connection} connection */
  constructor(connection) {
    this.connection = connection;
  }

  /** @param {Flight} flight @param {{ t: string, d: any }} request @returns {import('./codec.js').Frame} the request with its id */
  asked(flight, { t, d }) {
    this.#lastId = (this.#lastId % 0xffffffff) + 1;
    this.#flights.set(this.#lastId, flight);
    return { t, id: this.#lastId, d };
  }

  /** @param {number | undefined} id @returns {Flight | undefined} */
  answered(id) {
    if (id === undefined) return undefined;
    const flight = this.#flights.get(id);
    this.#flights.delete(id);
    return flight;
  }
}
