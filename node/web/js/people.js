// Who is there, who types, how they call themselves, whom this person has blocked. A server that does not know answers
// `unsupported` or says nothing: then nothing is shown.

/** Typing is over when it was not said again for this long. */
const TYPING_MS = 6_000;
const WATCHED_MAX = 200;
const PROFILES_PER_CALL = 50;

/** An id may be `constructor`. @param {Record<string, string>} names @param {string} user */
const own = (names, user) => (Object.hasOwn(names, user) ? names[user] : undefined);

export class People {
  #client;
  /** @type {Map<string, { state: string, at?: number }>} */
  #presence = new Map();
  /** Until when, by conversation and user. @type {Map<string, Map<string, number>>} */
  #typing = new Map();
  /** @type {Set<string>} */
  #watched = new Set();
  #isSupported = true;
  /** Asked for since the page was opened. @type {Set<string>} */
  #asked = new Set();
  /** To be asked for. @type {Set<string>} */
  #unknown = new Set();
  /** @type {Set<string>} */
  #blocked;
  /** How often this person has changed their profile here: an answer asked for before that says what was. */
  #introduced = 0;
  #memory;
  #known;
  #kept;
  onChange = () => {};

  /**
   * @param {any} client
   * @param {{ names: Record<string, string>, save: () => void }} memory how people called themselves on earlier visits
   * @param {{ names: Record<string, string>, save: () => void }} contacts how this person calls them
   * @param {{ users: string[], save: () => void }} blocks whom this person had blocked: they stay out of sight also before the server says so
   */
  constructor(client, memory, contacts = { names: {}, save: () => {} }, blocks = { users: [], save: () => {} }) {
    this.#client = client;
    this.#memory = memory;
    this.#known = contacts;
    this.#kept = blocks;
    this.#blocked = new Set(blocks.users);
  }

  /** What to call somebody. @param {string} user */
  name(user) {
    return own(this.#known.names, user) || own(this.#memory.names, user) || user;
  }

  /** @param {string} user */
  isContact(user) {
    return Object.hasOwn(this.#known.names, user);
  }

  /** By name. */
  contacts() {
    return Object.keys(this.#known.names).sort((a, b) => this.name(a).localeCompare(this.name(b)));
  }

  async loadContacts() {
    /** @type {Record<string, string>} */
    const names = {};
    try {
      for (let after; ; ) {
        /** @type {{ contacts: { user: string, name: string }[], more: boolean }} */
        const { contacts, more } = await this.#client.call('GET contacts', after === undefined ? {} : { after });
        for (const { user, name } of contacts) names[user] = name;
        after = contacts.at(-1)?.user;
        if (!more || after === undefined) break;
      }
    } catch {
      return; // What is known stays.
    }
    this.#keep(names);
  }

  /** @param {string} user @param {string} name */
  async keepContact(user, name) {
    await this.#client.call(`PUT contacts/${user}`, { name });
    this.#keep({ ...this.#known.names, [user]: name });
  }

  /** @param {string} user */
  async dropContact(user) {
    await this.#client.call(`DELETE contacts/${user}`);
    const { [user]: _, ...names } = this.#known.names;
    this.#keep(names);
  }

  /** @param {Record<string, string>} names */
  #keep(names) {
    for (const user of Object.keys(this.#known.names)) delete this.#known.names[user];
    Object.assign(this.#known.names, names);
    this.#known.save();
    this.onChange();
  }

  /** @param {Iterable<string>} users */
  meet(users) {
    const before = this.#unknown.size;
    for (const user of users) if (!this.#asked.has(user)) this.#unknown.add(user);
    if (before === 0 && this.#unknown.size > 0) setTimeout(() => void this.#learn(), 150);
  }

  async #learn() {
    const users = [...this.#unknown].slice(0, PROFILES_PER_CALL);
    for (const user of users) {
      this.#asked.add(user);
      this.#unknown.delete(user);
    }
    const introduced = this.#introduced;
    try {
      const reply = await this.#client.call('GET users', { ids: users.join(',') });
      for (const { user, name } of reply.users) {
        if (user !== this.#client.user || introduced === this.#introduced) this.#setName(user, name ?? '');
      }
    } catch {
      // Their ids are names too. They are asked for again after the next connect.
      for (const user of users) this.#asked.delete(user);
      this.#unknown.clear();
    }
    if (this.#unknown.size > 0) void this.#learn();
  }

  /** @param {string} user @param {string} name */
  #setName(user, name) {
    if ((own(this.#memory.names, user) ?? '') === name) return;
    if (name === '') delete this.#memory.names[user];
    else this.#memory.names[user] = name;
    this.#memory.save();
    this.onChange();
  }

  /** @param {{ name?: string, about?: string }} profile what is left out stays as it is */
  async introduce(profile) {
    const { name } = await this.#client.call('PATCH me', profile);
    this.#introduced++;
    this.#setName(this.#client.user, name ?? '');
  }

  /** Beginnings of names. @param {string} prefix @returns {Promise<string[]>} */
  async find(prefix) {
    const { users } = await this.#client.call('GET search/users', { prefix, limit: 6 });
    return users.filter((/** @type {string} */ user) => user !== this.#client.user);
  }

  async loadBlocks() {
    /** @type {string[]} */
    const users = [];
    try {
      for (let after; ; ) {
        /** @type {{ blocks: { user: string, on: boolean }[], more: boolean }} */
        const { blocks, more } = await this.#client.call('GET blocks', after === undefined ? {} : { after });
        for (const { user, on } of blocks) if (on) users.push(user);
        after = blocks.at(-1)?.user;
        if (!more || after === undefined) break;
      }
    } catch {
      return; // What is known stays.
    }
    this.#setBlocked(users);
  }

  /** @param {string[]} users */
  #setBlocked(users) {
    this.#blocked = new Set(users);
    this.#kept.users.splice(0, Infinity, ...users);
    this.#kept.save();
    this.onChange();
  }

  /** @param {string | undefined} user */
  isBlocked(user) {
    return user !== undefined && this.#blocked.has(user);
  }

  /** @param {string} user @param {boolean} on */
  async block(user, on) {
    await this.#client.call(`${on ? 'PUT' : 'DELETE'} blocks/${user}`);
    this.#setBlocked([...this.#blocked].filter(one => one !== user).concat(on ? user : []));
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
