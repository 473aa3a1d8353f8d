// Who is there, and who types. A server that does not know answers `unsupported` or says nothing: then nothing is shown.

/** Typing is over when it was not said again for this long. */
const TYPING_MS = 6_000;
const WATCHED_MAX = 200;

export class People {
  #client;
  /** @type {Map<string, { state: string, at?: number }>} */
  #presence = new Map();
  /** Until when, by conversation and user. @type {Map<string, Map<string, number>>} */
  #typing = new Map();
  /** @type {Set<string>} */
  #watched = new Set();
  #isSupported = true;
  onChange = () => {};

  /** @param {any} client */
  constructor(client) {
    this.#client = client;
  }

  /** @param {Iterable<string>} users */
  watch(users) {
    const before = this.#watched.size;
    for (const user of users) if (this.#watched.size < WATCHED_MAX && user !== this.#client.user) this.#watched.add(user);
    if (this.#watched.size > before) void this.renew();
  }

  /** Also after a time without connection, for what was known may be over. */
  async renew() {
    if (!this.#isSupported || this.#watched.size === 0 || this.#client.status.state !== 'online') return;
    try {
      const reply = await this.#client.watch([...this.#watched]);
      for (const one of reply?.presence ?? []) this.#presence.set(one.user, { state: one.state, at: one.last_seen });
      this.onChange();
    } catch (error) {
      if (/** @type {any} */ (error).code === 'unsupported') this.#isSupported = false;
    }
  }

  /** Nothing is known without a connection. */
  forget() {
    this.#presence.clear();
    this.#typing.clear();
    this.onChange();
  }

  /** @param {any} signal */
  onSignal({ k, conv, user, state, at }) {
    if (k === 'presence' && user) this.#presence.set(user, { state, at });
    else if (k === 'typing' && user && conv && user !== this.#client.user) this.#onTyping(conv, user);
    else return;
    this.onChange();
  }

  /** @param {string} conv @param {string} user */
  #onTyping(conv, user) {
    const users = this.#typing.get(conv) ?? new Map();
    this.#typing.set(conv, users.set(user, Date.now() + TYPING_MS));
    setTimeout(() => this.onChange(), TYPING_MS + 50);
  }

  /** A message says that its sender types no more. @param {string} conv @param {string} user */
  wrote(conv, user) {
    this.#typing.get(conv)?.delete(user);
  }

  /** @param {string} conv @returns {string[]} */
  typing(conv) {
    const now = Date.now();
    return [...(this.#typing.get(conv) ?? [])].filter(([, until]) => until > now).map(([user]) => user);
  }

  /** @param {string | undefined} user @returns {{ state: string, at?: number } | undefined} undefined: not known */
  presence(user) {
    const known = user === undefined ? undefined : this.#presence.get(user);
    return known && known.state !== 'unknown' && known.state !== 'hidden' ? known : undefined;
  }
}
