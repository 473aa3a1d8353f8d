// The shapes that applications meet. Types only. Names of fields are those of the wire (PROTOCOL.md).

/**
 * A device's view of one log entry. Exactly the fields of its `kind` are set beside the fixed ones.
 * @typedef {object} Entry
 * @property {string} conv
 * @property {number} seq position in the conversation, from 1, without holes
 * @property {number} n countable messages up to and with this one
 * @property {string} msg_id
 * @property {number} ts milliseconds since 1970, for display; order is `seq`
 * @property {string} from user
 * @property {string} device
 * @property {string} cid the sender's id of the command
 * @property {string} kind message, edit, delete, react, create, add, remove, leave, role, rename, history, or a client's own
 * @property {string} body_hash base64url
 * @property {string} chain base64url
 * @property {Uint8Array} [body]
 * @property {boolean} [echo] never set on what is delivered: the body of an own message comes from the outbox
 * @property {boolean} [redacted] the content is gone, its hash stays
 * @property {number} [reply_to]
 * @property {string[]} [mentions]
 * @property {string} [media]
 * @property {number} [target] edit, delete, react: the seq that it is about
 * @property {string} [emoji]
 * @property {boolean} [on]
 * @property {string} [name]
 * @property {string[]} [members]
 * @property {string[]} [users]
 * @property {string} [user]
 * @property {'member' | 'admin' | 'owner'} [role]
 * @property {string} [heir]
 * @property {'from_join' | 'full'} [history]
 */

/**
 * What a command asks for: `kind` and the fields that go with it, as in an entry.
 * @typedef {{ kind: string, body?: Uint8Array, reply_to?: number, mentions?: string[], media?: string,
 *   target?: number, emoji?: string, on?: boolean }} Content
 */

/**
 * @typedef {object} Gap
 * @property {string} conv
 * @property {number} from first seq that will not come
 * @property {number} to last seq that will not come
 * @property {'retention' | 'not_a_member' | 'restored' | 'unexplained' | string} reason
 *   `unexplained`: the log itself, asked twice, does not show it to this user
 * @property {string} [chain_before]
 */

/**
 * The user's state of one conversation.
 * @typedef {object} Conv
 * @property {string} rev
 * @property {string} conv
 * @property {'direct' | 'group' | 'channel' | string} kind
 * @property {string} [name]
 * @property {number} head
 * @property {number} [n_head]
 * @property {number} read
 * @property {number} unread at (head, read)
 * @property {{ user: string, delivered: number, read: number }} [peer]
 * @property {number} [wrev]
 * @property {'member' | 'admin' | 'owner'} [role]
 * @property {boolean} member
 * @property {number} [mseq]
 * @property {number} [last_ts]
 * @property {any} [settings]
 */

/**
 * How far a group's members are, absolute: take the maximum of what is known and what is said. `read` implies `delivered`; none: it is not shown.
 * @typedef {{ conv: string, members: { user: string, delivered: number, read?: number }[] }} Receipts
 */

/**
 * A command in the outbox.
 * @typedef {object} Command
 * @property {string} cid
 * @property {string} conv
 * @property {string} [to] for a `send` that may make its direct conversation
 * @property {Content} content
 * @property {number} saved_ms wall clock at the time of saving, before the first attempt
 * @property {number} [asked_ms] wall clock when the person said "again"
 * @property {number} [n] order of saving, given by the store
 */

/** @typedef {{ conv: string, seq: number, msg_id: string, ts: number, chain: string, dup?: boolean }} Accepted */

/** What the server answered, as data. @typedef {{ code: string, message: string, retryable?: boolean, retry_after_ms?: number, details?: any, request_id?: string }} ErrorBody */

/**
 * Exactly three outcomes exist. `unknown`: it may or may not have happened, and this device will not try again by itself.
 * @typedef {{ state: 'accepted', accepted: Accepted }
 *   | { state: 'rejected', error: ErrorBody }
 *   | { state: 'unknown', why: string }} Outcome
 */

/** A command's final outcome as the store remembers it. @typedef {{ cid: string, conv: string, command: Command, outcome: Outcome, at_ms: number }} Answer */

/** @typedef {{ conv: string, seq: number, chain: string | null }} Position */

/**
 * @typedef {object} Status
 * @property {'offline' | 'connecting' | 'catching_up' | 'online' | 'stopped'} state `offline`: waiting for the next attempt
 * @property {boolean} leader does this tab or process hold the connection?
 * @property {string} [url] of the node
 * @property {number} [node]
 * @property {string} [device]
 * @property {number} [retry_in_ms] offline: until the next attempt
 * @property {number} [code] the last close code
 * @property {string} [reason]
 */

/**
 * One transaction of a store is a list of these.
 * @typedef {{ t: 'install', install: string }
 *   | { t: 'device', user: string, device: string }
 *   | { t: 'rev', rev: string | null }
 *   | { t: 'tokens', tokens: any }
 *   | { t: 'command', command: Command }
 *   | { t: 'answered', cid: string, outcome: Outcome, at_ms: number }
 *   | { t: 'position', conv: string, seq: number, chain: string | null }
 *   | { t: 'positions_dropped' }
 *   | { t: 'read', conv: string, seq: number }
 *   | { t: 'entry', entry: Entry }
 *   | { t: 'gap', gap: Gap }
 *   | { t: 'set_aside', conv: string, from: number, to: number }
 *   | { t: 'conv', conv: Conv }} Change
 */

/**
 * What a device must know at its start.
 * @typedef {object} Saved
 * @property {string} install
 * @property {{ user: string, device: string } | null} device
 * @property {string | null} rev
 * @property {any} tokens
 * @property {Command[]} commands in the order in which they were saved
 * @property {Map<string, Position>} positions
 * @property {Map<string, number>} reads
 * @property {Map<string, Conv>} convs
 */

/**
 * What must survive a crash. `commit` is all or nothing, and durable when it resolves; after an error nothing may be assumed.
 * @typedef {object} Store
 * @property {boolean} shared may several tabs have it open at once?
 * @property {() => Promise<Saved>} load reads everything anew
 * @property {(changes: Change[]) => Promise<void>} commit
 * @property {(cid: string) => Promise<Command | undefined>} command
 * @property {(cid: string) => Promise<Answer | undefined>} answer
 * @property {() => Promise<Command[]>} commands
 * @property {(n: number) => Promise<Command[]>} commandsAbove saved after the one with this `n`
 * @property {() => Promise<Answer[]>} answers
 * @property {() => Promise<Conv[]>} convs
 * @property {(conv: string) => Promise<Position | undefined>} position
 * @property {() => Promise<any>} tokens
 * @property {(conv: string, range?: { before?: number, after?: number, limit?: number }) => Promise<Entry[]>} entries ascending;
 *   the newest below `before`, or the oldest above `after`
 * @property {() => Promise<void>} close
 */

/**
 * @typedef {object} Clock
 * @property {() => number} now monotonic milliseconds
 * @property {() => number} wall milliseconds since 1970
 * @property {(run: () => void, ms: number) => any} set
 * @property {(timer: any) => void} clear
 */

/** As much of a browser's WebSocket as is used. @typedef {new (url: string, protocols: string[]) => any} WebSocketClass */

/** @typedef {(why: { fresh: boolean }) => string | Promise<string>} TokenFunction */

/**
 * @typedef {object} Options
 * @property {string | string[]} urls base URLs of nodes, like http://127.0.0.1:4001; more are learned from the cluster
 * @property {string} user
 * @property {string | TokenFunction} token asked before each connection; `fresh`: the last one is no longer
 *   good. May throw LoginRequired (stop); whatever else it throws means "later".
 * @property {Store} store
 * @property {boolean} [ownsStore] `close` closes the store too
 * @property {'json' | 'msgpack'} [encoding] default json
 * @property {number} [window] unacked entries that the server may send ahead; default: the server's bound
 * @property {{ name?: string, version?: string, platform?: string }} [client] shown in the list of devices
 * @property {number} [backoff_min_ms] default 100
 * @property {number} [backoff_max_ms] default 5000
 * @property {WebSocketClass} [WebSocket]
 * @property {import('./tabs.js').Locks} [locks] default: the browser's
 * @property {import('./tabs.js').Channel} [channel] default: a BroadcastChannel
 * @property {Clock} [clock] for tests
 * @property {() => number} [random] for tests
 */

/**
 * @typedef {object} Events
 * @property {Status} status
 * @property {Entry} entry stored on this device; each (conv, seq) once, in order of seq
 * @property {Gap} gap entries that will not come, and why
 * @property {Conv} conv
 * @property {{ behind: string[] }} caught_up everything pending at the connect has come, but for these conversations
 * @property {Command} outbox a command has been stored
 * @property {{ cid: string, conv: string, outcome: Outcome }} outcome a command has its final answer
 * @property {any} signal typing, presence, …; may be lost
 * @property {Receipts} receipts of a group that `watchReceipts` names, in any tab: all its members, then those whose marks have moved; may be lost
 * @property {{ reason: string }} reset the server takes this for a new device: entries before it are had by paging only
 * @property {{ code: string, [detail: string]: any }} error hole, integrity, restored_elsewhere, store, start
 */

/** A command that is durably in the outbox. `outcome` never rejects. @typedef {{ cid: string, conv: string, outcome: Promise<Outcome> }} Ticket */

export {};
