//! Every bound of the system in one place: sizes in bytes unless the name says otherwise, times with their unit last.
//!
//! A queue, batch, retry or loop anywhere in the project takes its bound from here.

/// A user id on input, before normalisation may shorten it.
pub const USER_ID_INPUT_BYTES_MAX: usize = 256;
pub const USER_ID_BYTES_MAX: usize = 64;
pub const CONV_ID_BYTES_MAX: usize = 140;
pub const PASSWORD_BYTES_MIN: usize = 8;
pub const PASSWORD_BYTES_MAX: usize = 256;
pub const NAME_BYTES_MAX: usize = 256;
pub const KIND_BYTES_MAX: usize = 32;
pub const EMOJI_BYTES_MAX: usize = 32;
pub const MEDIA_BYTES_MAX: usize = 1024;

/// One client message (WebSocket or HTTP body).
pub const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// One client message before `hello` was accepted.
pub const MESSAGE_BYTES_MAX_BEFORE_HELLO: usize = 16 * 1024;
/// A decoded message body (default; the largest `entry` in the worst encoding stays below `MESSAGE_BYTES_MAX`).
pub const BODY_BYTES_MAX: usize = 32 * 1024;
pub const FRAMES_PER_MESSAGE_MAX: usize = 64;
pub const REQUESTS_IN_FLIGHT_MAX: usize = 64;
pub const MENTIONS_MAX: usize = 50;
/// Unread mentions in one conversation that are counted; of more it is said that there are more.
pub const MENTIONS_COUNTED_MAX: usize = 1_000;
pub const ACKS_PER_FRAME_MAX: usize = 1_000;

/// Unacked entries and gaps on one connection.
pub const WINDOW_ENTRIES: usize = 256;
pub const WINDOW_ENTRIES_PER_CONV: usize = 128;

/// Users in one creation or addition, and members in one page; and members of a group at a level without pull mode.
pub const GROUP_MEMBERS_MAX: usize = 500;
/// Members of a group or channel since there is pull mode (default), and those of them on one user shard (one row names them
/// all).
pub const LARGE_MEMBERS_MAX: usize = 10_000;
pub const MEMBERS_PER_TARGET_MAX: usize = 3_000;
/// Above the first, heads are no longer written to every member's row; below the second they are again (defaults).
pub const PUSH_MEMBERS_MAX: u32 = 100;
pub const PUSH_MEMBERS_BACK: u32 = 80;
pub const CONVERSATIONS_PER_USER_MAX: usize = 10_000;
pub const DEVICES_PER_USER_MAX: usize = 8;
pub const CONV_MEMBERS_LISTED_MAX: usize = 100;

pub const SLOTS: u16 = 4_096;
pub const SHARDS_DEFAULT: u16 = 16;
pub const SHARDS_MAX: u16 = 1_023;
/// Rows that one command may touch.
pub const ROWS_PER_COMMAND_MAX: usize = 1_000;

/// One proposal (a Raft log entry): commands gathered, and their bytes.
pub const PROPOSAL_COMMANDS_MAX: usize = 512;
pub const PROPOSAL_BYTES_MAX: usize = 512 * 1024;
/// One encoded command.
pub const COMMAND_BYTES_MAX: usize = 256 * 1024;
/// Commands waiting for a shard's proposer; above it, `overloaded`.
pub const PROPOSER_QUEUE_MAX: usize = 8_192;
/// Once a command has waited so long for its turn in a shard, the shard refuses further sends (`overloaded`) until waits are shorter.
pub const SEND_WAIT_MS_MAX: u64 = 1_500;
/// Where a task of a node waits longer than this for its turn on a processor, the node refuses sends (`overloaded`) until waits are
/// shorter. A part of what Raft's timers and leases allow for.
pub const TASK_WAIT_MS_MAX: u64 = 300;
/// Proposals of one shard that are appended and not yet applied. One travels while the next gathers: followers are asked one
/// append after the other, so more would not be committed earlier, and each costs every replica an entry.
pub const PROPOSALS_IN_FLIGHT_MAX: usize = 2;

/// So long at most a shard's own work waits for other commands to share a proposal with, and followers for the news that something is
/// committed, if no entries go to them before.
pub const PROPOSAL_PATIENCE_MS: u64 = 20;

/// Rows of applied state that a node keeps in memory because commands ask for them again and again: its replicas share this out
/// evenly. A pair of users who write to each other are about 5 KiB on each of the three nodes.
pub const HOT_ROWS_NODE_BYTES_MAX: usize = 128 * 1024 * 1024;
/// Those of one replica. Half of them are dropped at once, which must not take long.
pub const HOT_ROWS_SHARD_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Users of one shard whose live sessions its leader remembers.
pub const LIVE_USERS_REMEMBERED_MAX: usize = 16_384;

/// One stored row, as decoded.
pub const ROW_BYTES_MAX: usize = COMMAND_BYTES_MAX + 4 * 1024;
/// Items of one command that carries a list (receipts, marks, clears); each touches few rows.
pub const COMMAND_ITEMS_MAX: usize = 250;
/// (conversation, user) pairs of one `Notify` command; each touches the user, the row, two places of the rev index, a
/// reserve, and at worst a cursor of every device. `user::split_notify` cuts to this.
pub const NOTIFY_USERS_PER_COMMAND_MAX: usize = ROWS_PER_COMMAND_MAX / (DEVICES_PER_USER_MAX + 5);
/// Rows that one step of a sweep or of a removal deletes at most.
pub const SWEEP_ROWS_MAX: usize = ROWS_PER_COMMAND_MAX / 2 - 50;
/// Sessions that one step of a sweep ends at most; each has an index row, and its user's presence.
pub const SWEEP_SESSIONS_MAX: usize = ROWS_PER_COMMAND_MAX / 3 - 50;
/// The newest rules of `apply`. A cluster keeps the level that it was made with until an operator raises it.
pub const FEATURE_LEVEL: u32 = 5;
/// From this level on limits on clients are changed at run time, and users log in by one-time codes.
pub const CLIENT_LIMITS_LEVEL: u32 = 3;
pub const CODE_LEVEL: u32 = 3;
/// From this level on it is kept who is named in which message.
pub const MENTIONS_LEVEL: u32 = 3;
/// From this level on there are channels, and groups in pull mode.
pub const PULL_LEVEL: u32 = 3;
/// From this level on a user can hide its read marks in all conversations.
pub const HIDE_READ_LEVEL: u32 = 4;
/// From this level on the rows of a command are counted with the shards that they are on, however few they are, and a group that
/// is too large to switch to pull mode stays as it is.
pub const EXACT_ROWS_LEVEL: u32 = 4;
/// From this level on all nodes understand a push that brings a row.
pub const ROWS_PUSHED_LEVEL: u32 = 5;
/// A gateway's subscription to a conversation in pull mode lives so long without renewal, and is renewed so often; what is
/// missing is asked for in between.
pub const SUBSCRIPTION_MS: u64 = 30_000;
pub const SUBSCRIPTION_RENEW_MS: u64 = 5_000;
pub const SUBSCRIPTION_RETRY_MS: u64 = 500;
/// Conversations with subscribers that the leader of a shard remembers.
pub const SUBSCRIBED_CONVERSATIONS_MAX: usize = 100_000;
/// Conversations in one request to subscribe.
pub const SUBSCRIPTIONS_PER_REQUEST_MAX: usize = 100;
/// Entries that wait at a gateway while it asks for the parts of its users.
pub const PULLED_WAITING_MAX: usize = 1_024;
/// Conversations in pull mode whose entries wait for the pump of their shard.
pub const PULLED_PENDING_MAX: usize = 8_192;
/// Devices of which a gateway remembers that they have their places in pull mode.
pub const PLACED_REMEMBERED_MAX: usize = 65_536;
/// Users of one conversation whose standing is asked for at once.
pub const STANDINGS_MAX: usize = 500;
/// Contacts of a user, and users that it blocks.
pub const CONTACTS_MAX: usize = 5_000;
pub const BLOCKS_MAX: usize = 1_000;
/// Contacts or blocked users in one answer.
pub const CONTACTS_PER_PAGE_MAX: u32 = 200;
/// Users whose presence is asked for at once, and that one connection watches.
pub const WATCH_MAX: usize = 200;
/// (watcher, watched) pairs of one question to a shard.
pub const PRESENCE_PAIRS_MAX: usize = 4_096;
/// Users of a shard that its leader knows to be watched somewhere, and (watcher, watched) pairs of one gateway.
pub const WATCHED_MAX: usize = 200_000;
pub const WATCHES_PER_NODE_MAX: usize = 1_000_000;
/// Who comes back within this has not been away, for those who watch.
pub const PRESENCE_GATHER_MS: u64 = 500;
/// A shard that says nothing for so long: the presence of its users is unknown.
pub const PRESENCE_LOOK_MS: u64 = 2_000;
/// Conversations whose receipts one connection watches.
pub const RECEIPT_WATCHES_MAX: usize = 8;
/// (connection, conversation) pairs of one gateway, and members' marks that it keeps for them so that only what moves is told: of
/// members above that all is told again with each renewal.
pub const RECEIPT_WATCHES_PER_NODE_MAX: usize = 100_000;
pub const RECEIPT_MARKS_KEPT_MAX: usize = 1_000_000;
/// (conversation, gateway, watcher) of which the leader of a shard knows; each lives so long without renewal, and is renewed so
/// often. What was not answered is asked for in between.
pub const RECEIPT_INTERESTS_MAX: usize = 200_000;
pub const RECEIPT_INTEREST_MS: u64 = 30_000;
pub const RECEIPT_RENEW_MS: u64 = 10_000;
pub const RECEIPT_RETRY_MS: u64 = 1_000;
/// A shard that says nothing for so long is asked again later.
pub const RECEIPT_LOOK_MS: u64 = 2_000;
/// Conversations in one request to watch: with all members' marks an answer is far below a peer's frame.
pub const RECEIPT_WATCHES_PER_REQUEST_MAX: usize = 32;
/// Marks that move within this are told together.
pub const RECEIPT_GATHER_MS: u64 = 500;
/// Conversations of one shard whose marks have moved and are not told yet.
pub const RECEIPTS_MOVED_MAX: usize = 8_192;
/// Members in one `signal` or `reply` about receipts.
pub const RECEIPT_MARKS_PER_FRAME_MAX: usize = 400;
/// One `typing` per sender and conversation is passed on in this time; it is shown for as long.
pub const TYPING_MS: u64 = 3_000;
/// Conversations with more members get no `typing`.
pub const TYPING_MEMBERS_MAX: usize = 100;
/// (sender, conversation) pairs whose last `typing` a leader remembers.
pub const TYPING_KEYS_MAX: usize = 16_384;
/// Conversations whose last `typing` one connection remembers.
pub const TYPING_CONVS_MAX: usize = 32;
/// Conversations in one page of the list with previews, and previews read at once.
pub const PREVIEWS_PER_PAGE: u32 = 50;
pub const PREVIEWS_AT_ONCE: usize = 8;
/// Entries that are looked at for the last message, what is read of them, and what is shown of a body.
pub const PREVIEW_ENTRIES: u32 = 8;
pub const PREVIEW_READ_BYTES: u32 = 16 * 1024;
pub const PREVIEW_BYTES: usize = 300;
/// What a user says about itself.
pub const ABOUT_BYTES_MAX: usize = 1_024;
/// A prefix in a search for users, and users found by one.
pub const FIND_PREFIX_BYTES_MIN: usize = 2;
pub const FOUND_USERS_MAX: u32 = 50;
/// Profiles in one answer, and read at once.
pub const PROFILES_PER_PAGE: usize = 50;
pub const PROFILES_AT_ONCE: usize = 8;
/// The text of a report.
pub const REPORT_BYTES_MAX: usize = 2_048;
/// How often a block is driven through before the client is asked to come again.
pub const BLOCK_ROUNDS_MAX: usize = 4;
/// Searches and reports of one user, at once and per minute.
pub const ASKS_BURST: u32 = 10;
pub const ASKS_PER_MINUTE: u32 = 60;
/// Conversations that one node exports at the same time; a further one is asked to come again after this.
pub const EXPORTS_AT_ONCE: usize = 4;
pub const EXPORT_RETRY_MS: u64 = 5_000;
/// Streams of server-sent events that one node serves at the same time.
pub const INBOX_STREAMS_MAX: usize = 1_000;
pub const INBOX_STREAMS_PER_USER_MAX: usize = 8;
pub const INBOX_STREAMS_PER_DEVICE_MAX: usize = 2;
/// Sends a second of one user, and into one conversation, on one node (defaults; 0: no limit), and how many seconds' worth
/// may come at once.
pub const SENDS_PER_USER: u32 = 50;
pub const SENDS_PER_CONVERSATION: u32 = 200;
pub const RATE_BURST_SECONDS: u64 = 10;
/// Cells that count sends; users (or conversations) that share one share its limit.
pub const RATE_CELLS: usize = 1 << 16;
/// Rows of inboxes in one answer.
pub const INBOX_ROWS_PER_PAGE_MAX: usize = 500;
/// Users of one question for live sessions.
pub const LIVE_SESSIONS_USERS_MAX: usize = 4_096;
/// Users of one question for who hides its read marks; of more nothing is answered.
pub const HIDING_USERS_MAX: usize = 4_096;
/// Questions of connections whether their users do wait this long for each other.
pub const HIDING_GATHER_MS: u64 = 5;
/// A password hash in PHC form.
pub const PHC_BYTES_MAX: usize = 512;
/// Refresh tokens issued from one predecessor while none of them has been used.
pub const REFRESH_FRESH_MAX: usize = 4;
/// Used refresh tokens of a family that are recognised when presented again.
pub const REFRESH_SPENT_MAX: usize = 256;
/// Requests that set a password, remembered per user so that a repeat has no effect.
pub const PASSWORD_REQUESTS_KEPT: usize = 8;

/// Nodes of a cluster, gone ones included.
pub const NODES_MAX: usize = 256;
/// An address or base URL of a node.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Replicas of one group in the placement, leaving ones included.
pub const REPLICAS_PER_SHARD_MAX: usize = 16;
pub const SIGNING_KEYS_MAX: usize = 16;
/// A wrapped private key.
pub const WRAPPED_KEY_BYTES_MAX: usize = 1_024;
/// Stays of one member that are kept in its row; a join beyond is refused.
pub const INTERVALS_PER_MEMBER_MAX: usize = 64;
/// Edits of one message.
pub const EDITS_PER_MESSAGE_MAX: usize = 100;

/// Reads that wait for a shard's next ReadIndex round, and those that share one.
pub const READ_QUEUE_MAX: usize = 8_192;
pub const READS_PER_ROUND_MAX: usize = 8_192;
/// Writes of all groups that wait for the node's log writer; above it, appends wait.
pub const LOG_WRITER_QUEUE_MAX: usize = 1_024;
/// What one sync of the log writer covers at most: bytes of keys and values, and calls.
pub const LOG_WRITE_BYTES_MAX: usize = 8 * 1024 * 1024;
pub const LOG_WRITES_PER_SYNC_MAX: usize = 1_024;
/// Times that the tasks that are ready run before the log or applied entries are written, so that they share the write.
pub const TURNS_BEFORE_A_WRITE: usize = 4;
/// One read of a log, for replication or for applying: encoded bytes (one entry comes in any case).
pub const LOG_READ_BYTES_MAX: usize = 2 * 1024 * 1024;
/// The newest entries of one group's log kept in memory, beyond those that are not durable yet.
pub const LOG_CACHE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Entries of one replication rpc, besides the bound on its bytes.
pub const APPEND_ENTRIES_MAX: u64 = 512;
/// Log entries between two snapshots, and those kept behind one (defaults).
pub const SNAPSHOT_LOG_ENTRIES: u64 = 20_000;
pub const SNAPSHOT_LOG_KEPT: u64 = 10_000;
/// What one write of applied state takes from the log at most.
pub const APPLY_BYTES_MAX: usize = 512 * 1024;
pub const APPLY_ENTRIES_MAX: usize = 256;
/// Groups of a node apply in so many lanes; what waits in one shares a write, of so many pieces and bytes at most.
pub const APPLY_LANES: usize = 2;
pub const APPLY_LANE_JOBS_MAX: usize = 64;
pub const APPLY_LANE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// One node-to-node frame, both ways.
pub const PEER_FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A peer connection: messages and bytes that wait for the socket, and requests without an answer yet; above it, `NotSent`.
pub const PEER_QUEUE_MESSAGES_MAX: usize = 8_192;
pub const PEER_QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
pub const PEER_IN_FLIGHT_MAX: usize = 8_192;
/// Bytes gathered for one write to a peer's socket (a single larger message goes alone).
pub const PEER_BATCH_BYTES: usize = 1024 * 1024;
/// Requests of one connection that are served at the same time, for Raft, for what waits by design before it is answered (heads), and for
/// everything else; above it, `overloaded`.
pub const PEER_SERVE_RAFT_MAX: usize = 1_024;
pub const PEER_SERVE_PATIENT_MAX: usize = 4_096;
pub const PEER_SERVE_REQUESTS_MAX: usize = 1_024;
/// A served request is given up after this; a long poll must answer earlier.
pub const PEER_SERVE_MS: u64 = 60_000;
/// A frame before the handshake is done.
pub const PEER_HELLO_BYTES_MAX: usize = 4 * 1024;
/// The sentence in a refusal.
pub const PEER_SENTENCE_BYTES_MAX: usize = 512;
pub const PEER_HANDSHAKE_MS: u64 = 5_000;
/// Accepted peer connections, and those of them that have not said who they are.
pub const PEER_CONNECTIONS_MAX: usize = 4_096;
pub const PEER_HANDSHAKES_MAX: usize = 64;
/// A connection that has heard nothing for the first asks; after the second it is dead.
pub const PEER_PING_MS: u64 = 1_000;
pub const PEER_SILENCE_MS: u64 = 5_000;
/// Reconnects wait this long at first and at most, doubled in between, with jitter.
pub const PEER_BACKOFF_MIN_MS: u64 = 50;
pub const PEER_BACKOFF_MAX_MS: u64 = 1_000;
/// Transfers to one peer at the same time, chunks of one on their way, and how long one may stand still.
pub const PEER_BULK_STREAMS_MAX: usize = 4;
pub const PEER_BULK_WINDOW_CHUNKS: usize = 4;
pub const PEER_BULK_IDLE_MS: u64 = 10_000;
/// Snapshots that one node takes in at the same time; others wait for so long, and are then refused, to be tried again. Each
/// holds a window of chunks and fills memtables as fast as it can.
pub const SNAPSHOTS_TAKEN_AT_ONCE: usize = 2;
pub const SNAPSHOT_TURN_MS: u64 = PEER_BULK_IDLE_MS / 2;
/// Inbound transfers that are served at the same time.
pub const PEER_BULK_SERVE_MAX: usize = 32;

/// A replica must have been live and caught up for this long before leadership is handed to it.
pub const LEADER_STEADY_MS: u64 = 3_000;
/// Between two transfers of one group's leadership; doubled, up to the maximum, while they do not last.
pub const LEADER_TRANSFER_MS: u64 = 10_000;
pub const LEADER_TRANSFER_MS_MAX: u64 = 600_000;
/// A replica that lags by no more entries than this counts as caught up.
pub const CAUGHT_UP_ENTRIES: u64 = 512;
/// How often a leader looks after the membership and the leadership of its group.
pub const TEND_MS: u64 = 500;
/// A stopping node hands its leaderships over within this.
pub const HAND_OVER_MS: u64 = 5_000;
/// One change of a membership, its wait for the commit included.
pub const MEMBERSHIP_CHANGE_MS: u64 = 30_000;

/// One chunk of a snapshot on the bulk connection.
pub const SNAPSHOT_CHUNK_BYTES: usize = 256 * 1024;

/// A page of entries read from a log, in encoded bytes and in entries.
pub const PAGE_BYTES_MAX: usize = 256 * 1024;
pub const PAGE_ENTRIES_MAX: usize = 256;
/// Encoded entries that ride along with one `notify` to one target.
pub const NOTIFY_BYTES_MAX: usize = 256 * 1024;
pub const NOTIFY_CONVERSATIONS_MAX: usize = COMMAND_ITEMS_MAX;
/// Conversations that a pump is told of by name; above it, it looks at all rows.
pub const DIRTY_NAMED_MAX: usize = 4_096;
/// Entries that wait for the pump of one target, and as many again in the pump; above it they are read from the log.
pub const FRESH_BYTES_MAX: usize = 64 * 1024;
/// Users of a pump's target whose conversations it tells of without a look at the rows.
pub const FRESH_USERS_MAX: usize = 1_024;

/// The Rust client: commands in its durable outbox that wait for an answer.
pub const CLIENT_OUTBOX_MAX: usize = 10_000;
/// The Rust client: commands and calls on the wire at once; below the server's bound.
pub const CLIENT_REQUESTS_IN_FLIGHT_MAX: usize = 48;
/// The Rust client: calls that wait for an answer.
pub const CLIENT_CALLS_MAX: usize = 256;
/// The Rust client: requests of the application that the device task has not taken yet.
pub const CLIENT_ASKS_MAX: usize = 256;
/// The Rust client: events that the application has not taken; above it no more acks, so that the server's window closes.
pub const CLIENT_EVENTS_MAX: usize = 1_024;
/// The Rust client: frames between a socket task and the device task, each way.
pub const CLIENT_FRAMES_QUEUED_MAX: usize = 64;
/// The Rust client: entries that may wait for their ack.
pub const CLIENT_ACK_ENTRIES: usize = 64;
pub const CLIENT_ACK_DELAY_MS: u64 = 200;
/// The Rust client: positions in one `ack` frame, so that it stays below half a message.
pub const CLIENT_ACKS_PER_FRAME_MAX: usize = 128;
/// Either side gives up after this long without receiving anything.
pub const RECEIVE_TIMEOUT_MS: u64 = 35_000;
/// The Rust client: an answer is given up after this long, and the command sent again.
pub const CLIENT_ANSWER_TIMEOUT_MS: u64 = 8_000;
/// The Rust client resends by itself for this long after the first attempt.
pub const CLIENT_RESEND_MS: u64 = 7 * 24 * 3_600 * 1_000;

/// A node that starts asks its peers for this long whether they have seen a later start of it.
pub const BOOT_ANSWER_MS: u64 = 2_000;
/// So much longer than a client says it may take until its retry is decided on. Far below the dedup window, so that nobody who retries
/// in time is told that it is too old.
pub const RETRY_WAITS_MS: u64 = 60_000;
/// A node that is asked to take another one back waits so long for the control group, which may be electing a leader. A tool waits
/// 5 s for all of it.
pub const READMIT_ANSWER_MS: u64 = 3_500;
/// A node that does something for a tool tells within this what became of it. A tool waits 5 s.
pub const TOOL_ANSWER_MS: u64 = 3_500;
/// All attempts of one client request together.
pub const REQUEST_DEADLINE_MS: u64 = 5_000;
/// Life of an access token.
pub const ACCESS_TOKEN_S: u64 = 15 * 60;
/// `signal auth_expiring` goes out this long before the end of an open socket's token.
pub const AUTH_EXPIRING_MS: u64 = 60_000;
pub const TOKEN_BYTES_MAX: usize = 2_048;
pub const PASSWORD_HASHES_AT_ONCE: usize = 2;
/// Above it, `overloaded`.
pub const PASSWORD_HASHES_WAITING_MAX: usize = 64;
/// Addresses and accounts whose tries are remembered.
pub const LIMITER_KEYS_MAX: usize = 16_384;
pub const LOGIN_BURST: u32 = 20;
pub const LOGIN_PER_MINUTE: u32 = 30;

/// One-time codes. Five tries of a million, at most ten codes a day: a patient guesser finds one address's code once in
/// fifty years.
pub const CODE_LIFE_MS: u64 = 5 * 60 * 1_000;
pub const CODE_TRIES_MAX: u8 = 5;
/// Between two codes of one address.
pub const CODE_PAUSE_MS: u64 = 30_000;
/// Repeats of one request for a code.
pub const CODE_REPEATS_MAX: u8 = 2;
pub const CODES_PER_HOUR: usize = 5;
pub const CODES_PER_DAY: usize = 10;
pub const HOUR_MS: u64 = 60 * 60 * 1_000;
/// A row is kept for the day that the limits look back.
pub const CODE_ROW_MS: u64 = 24 * HOUR_MS;
/// Old rows that go with one new code.
pub const CODES_EVICTED: usize = 4;
/// An address, as RFC 5321 bounds it.
pub const CODE_ADDRESS_BYTES_MAX: usize = 254;
/// Codes on their way to the operator's webhook; above it, `overloaded`.
pub const CODES_SENDING_MAX: usize = 256;

/// A token of another issuer, and what that publishes of its keys.
pub const EXTERNAL_TOKEN_BYTES_MAX: usize = 8 * 1024;
pub const JWKS_BYTES_MAX: usize = 128 * 1024;
pub const JWKS_KEYS_MAX: usize = 64;

/// Client connections of one node, and of one address, before anything is allocated for them.
pub const CONNECTIONS_MAX: usize = 20_000;
pub const CONNECTIONS_PER_ADDRESS_MAX: usize = 20_000;
/// Connections over the limits that are told so at the same time, for how long at most, and when they shall come again.
pub const REFUSALS_AT_ONCE: usize = 64;
pub const REFUSAL_MS: u64 = 1_000;
pub const REFUSED_RETRY_MS: u64 = 5_000;
pub const HEADER_DEADLINE_MS: u64 = 5_000;
pub const HELLO_DEADLINE_MS: u64 = 10_000;
/// The server pings when it has sent or received nothing for this long.
pub const PING_AFTER_MS: u64 = 25_000;
/// Either side gives up after receiving nothing for this long.
pub const SILENCE_MAX_MS: u64 = 35_000;
/// A socket that takes no byte for this long, and entries unacked for this long: close 4003.
pub const SOCKET_FULL_MAX_MS: u64 = 30_000;
pub const UNACKED_MAX_MS: u64 = 60_000;
/// Revisions that a session remembers above a missing one.
pub const REVS_TOLD_MAX: usize = 256;
/// Rows that a session keeps above a missing revision, and those that may wait for its socket: what comes beyond them is read
/// later.
pub const ROWS_HELD_MAX: usize = 16;
/// Opens of unknown outcome that a gateway withdraws.
pub const WITHDRAWALS_MAX: usize = 10_000;
/// Client processes of a device whose late `hello` is still told from a new one.
pub const BARRED_INSTANCES_MAX: usize = 8;
/// Acks and reads are gathered this long into one batch; a failed batch is tried again after the second.
pub const MARKS_GATHER_MS: u64 = 200;
pub const MARKS_RETRY_MS: u64 = 1_000;
pub const MARKS_PER_BATCH_MAX: usize = COMMAND_ITEMS_MAX;
/// Marks of a node's connections for one shard wait this long for each other, and so many of them ride in one command.
pub const MARKS_POOL_MS: u64 = 5;
pub const MARKS_POOLED_MAX: usize = 64;
/// Conversations of one connection with a mark that waits.
pub const MARKS_WAITING_MAX: usize = CONVERSATIONS_PER_USER_MAX;
/// Changed rows of which a connection was only told are read after this long, together. A row that came with a push
/// waits at most half as long again for the revisions below its own.
pub const CONV_GATHER_MS: u64 = 200;
/// Pushes waiting for one connection; above it some are lost and `Resync` follows.
pub const PUSHES_WAITING_MAX: usize = 256;
/// Positions that a connection keeps of conversations where nothing is pending.
pub const IDLE_POSITIONS_MAX: usize = 128;
/// Log reads of one connection at once, and what each asks for.
pub const LOG_READS_AT_ONCE: usize = 4;
pub const LOG_READ_BYTES: usize = 128 * 1024;
/// Entries that came with pushes and wait for their turn on one connection.
pub const PUSHED_BYTES_WAITING_MAX: usize = 512 * 1024;
/// A failed read of a row or log is tried again after this long.
pub const READ_RETRY_MS: u64 = 1_000;
/// Rows asked for in one page.
pub const ROWS_PER_PAGE: u32 = 200;
/// Encoded bytes waiting for one socket; above it nothing more is read from the client or the log.
pub const OUT_BYTES_MAX: usize = 128 * 1024;
/// cids that a connection remembers to send its own entries back without content.
pub const ECHO_CIDS_MAX: usize = 256;
/// A connection lives on after `goaway` for this long at most, and then until its requests are answered.
pub const DRAIN_MS: u64 = 3_000;
/// Frames of one connection that nothing answers (acks, reads, typing, states, pongs): so many a second, so many at once, and two for
/// each entry that was sent, which may be acked and read by itself; above it, close 4004. A device that comes back may tell a read mark
/// of every conversation.
pub const WORDS_PER_SECOND: u64 = 1_000;
pub const WORDS_BURST: u64 = 2 * CONVERSATIONS_PER_USER_MAX as u64;
pub const WORDS_PER_ENTRY: u64 = 2;
pub const LONG_POLL_MS_MAX: u64 = 30_000;
pub const LONG_POLL_LOOK_MS: u64 = 5_000;
pub const HISTORY_ENTRIES_MAX: u32 = 200;
pub const DEDUP_WINDOW_MS: u64 = 24 * 3_600 * 1_000;
/// A leader whose clock is further than this from the median of those it sees stamps the median.
pub const CLOCK_SKEW_MAX_MS: u64 = 10_000;
/// 2020-01-01T00:00:00Z in Unix milliseconds, the epoch of message ids.
pub const ID_EPOCH_MS: u64 = 1_577_836_800_000;
/// The display clock's ceiling: 2^41 ms after the id epoch, exclusive.
pub const DISPLAY_MS_MAX: u64 = ID_EPOCH_MS + (1 << 41) - 1;

// Between nodes, and of what a node does for its clients.

/// Batches of news from one shard to one target that are not answered for. A busy target takes [`HEADS_GATHER_MS`] for an answer, and
/// they are spread over that time.
pub const NOTIFIES_IN_FLIGHT_MAX: usize = 80;
/// Encoded entries of all these batches.
pub const NOTIFIES_BYTES_MAX: usize = 4 * NOTIFY_BYTES_MAX;
/// So long after the last heads that it wrote a shard gathers others. Their entries were pushed when they came.
pub const HEADS_GATHER_MS: u64 = 150;
/// Gatherings of one shard that are in the log and not yet applied.
pub const GATHERINGS_IN_FLIGHT_MAX: usize = 2;
/// Times that a clear of dirty rows is proposed before the rows are looked at again.
pub const CLEAR_TRIES_MAX: usize = 50;
/// Pairs of a user and a conversation whose news wait for the pusher of one shard; above it gateways look for themselves.
pub const NEWS_PENDING_MAX: usize = 8_192;
/// Target shards that wait for a pump of one shard by name; above it all rows are looked at.
pub const TARGETS_PENDING_MAX: usize = 1_024;
/// Heads of one conversation that ride together and are all accounted for.
pub const REVS_PER_HEAD_MAX: usize = 64;
/// Receipts gathered into one command.
pub const RECEIPTS_PER_BATCH_MAX: u32 = 200;
/// Receipts of one shard's users that wait by name; above it all rows are looked at.
pub const RECEIPTS_PENDING_MAX: usize = 2_048;
/// Users whose live sessions are looked up at once.
pub const USERS_PER_LOOK_MAX: usize = 256;
/// Rows that travel with the pushes of one look; sessions read the others for themselves.
pub const ROWS_PUSHED_MAX: usize = 256;
/// Those that are read at once.
pub const ROWS_PUSHED_PER_READ: usize = 64;
/// Rows that a step of long work touches.
pub const STEP_ROWS_MAX: u32 = 256;
/// Ends that a session without a number yet remembers: of a device that opens sessions in a row only the last few can be
/// waiting for their number on a node.
pub const EARLY_ENDS_MAX: usize = 8;
/// Signals of typing that wait on a node, each way: what waits there is gone by before it matters.
pub const TYPING_PENDING_MAX: usize = 4_096;
/// Sessions that a gateway presents in one request.
pub const SESSIONS_PER_PRESENT_MAX: usize = 500;
/// Numbers of pushes remembered while sessions are presented; above it they are presented again.
pub const PUSHES_SEEN_MAX: usize = 4_096;
/// Conversations with something unacked on one stream of an inbox: their places must fit the header that names them again.
pub const INBOX_STREAM_CONVERSATIONS_MAX: usize = 20;
/// That header, in bytes.
pub const INBOX_TOKEN_BYTES_MAX: usize = 12 * 1024;
/// Conversations in the answer to one poll of an inbox.
pub const POLL_CONVERSATIONS_MAX: u32 = 20;
/// Encoded entries in it.
pub const POLL_BYTES_MAX: usize = 256 * 1024;
/// Encoded entries that one look puts on a stream of an inbox.
pub const INBOX_STREAM_PIECE_BYTES: usize = 256 * 1024;
/// Entries that one look at an inbox reads of one conversation.
pub const INBOX_LOG_ENTRIES_MAX: u32 = 100;
/// Shards asked at once for one look at an inbox.
pub const INBOX_SHARDS_AT_ONCE: usize = 8;
/// Times that a gateway looks up users whom a shard does not know before it gives up.
pub const PEER_CHECKS_MAX: usize = 3;
/// Entries in one page of history, in the worst encoding.
pub const HISTORY_BYTES_MAX: usize = 48 * 1024;
/// Conversations in pull mode asked at once for one request of a client.
pub const STANDINGS_AT_ONCE: usize = 8;
/// Between two sweeps for places among the conversations that gateways have subscribed to, when there are none.
pub const SUBSCRIBED_SWEEP_MS: u64 = 1_000;

const _: () = assert!(
    BODY_BYTES_MAX.div_ceil(3) * 4 + 4 * 1024 < MESSAGE_BYTES_MAX,
    "an entry with the largest body fits a message"
);
const _: () = assert!(WINDOW_ENTRIES_PER_CONV < WINDOW_ENTRIES && CLIENT_ACK_ENTRIES < WINDOW_ENTRIES_PER_CONV);
const _: () = assert!(CLIENT_REQUESTS_IN_FLIGHT_MAX < REQUESTS_IN_FLIGHT_MAX);
const _: () = assert!(CLIENT_ACKS_PER_FRAME_MAX * (CONV_ID_BYTES_MAX + 64) < MESSAGE_BYTES_MAX / 2);
const _: () = assert!(REQUEST_DEADLINE_MS < CLIENT_ANSWER_TIMEOUT_MS);
const _: () = assert!(
    RECEIPT_MARKS_PER_FRAME_MAX * (USER_ID_BYTES_MAX + 72) + RECEIPT_WATCHES_MAX * (CONV_ID_BYTES_MAX + 32)
        < MESSAGE_BYTES_MAX,
    "an answer about receipts fits a message"
);
const _: () = assert!(RECEIPT_RENEW_MS + RECEIPT_LOOK_MS + RECEIPT_RETRY_MS < RECEIPT_INTEREST_MS);
const _: () = assert!(
    RECEIPT_WATCHES_PER_REQUEST_MAX * (GROUP_MEMBERS_MAX * (USER_ID_BYTES_MAX + 24) + CONV_ID_BYTES_MAX)
        < PEER_FRAME_BYTES_MAX / 2
);
const _: () = assert!(GROUP_MEMBERS_MAX + 16 <= ROWS_PER_COMMAND_MAX, "creating a full group is one command");
const _: () = assert!(
    GROUP_MEMBERS_MAX + PUSH_MEMBERS_MAX as usize + 300 <= ROWS_PER_COMMAND_MAX,
    "an addition that switches to pull mode is one command"
);
const _: () = assert!(PUSH_MEMBERS_BACK < PUSH_MEMBERS_MAX && LARGE_MEMBERS_MAX > GROUP_MEMBERS_MAX);
const _: () = assert!(MEMBERS_PER_TARGET_MAX * (USER_ID_BYTES_MAX + 17) < ROW_BYTES_MAX, "a roster is one row");
const _: () = assert!(COMMAND_ITEMS_MAX * 4 <= ROWS_PER_COMMAND_MAX, "each item touches four rows or fewer");
const _: () = assert!(SWEEP_ROWS_MAX * 2 + 50 <= ROWS_PER_COMMAND_MAX, "a session has an index row");
const _: () = assert!(SWEEP_SESSIONS_MAX * 3 + 50 <= ROWS_PER_COMMAND_MAX, "and its user's presence");
const _: () = assert!(COMMAND_BYTES_MAX <= PROPOSAL_BYTES_MAX && PROPOSAL_BYTES_MAX * 4 <= PEER_FRAME_BYTES_MAX);
const _: () = assert!(
    ROWS_PUSHED_MAX * (INTERVALS_PER_MEMBER_MAX * 48 + 4 * CONV_ID_BYTES_MAX) < PEER_FRAME_BYTES_MAX / 2,
    "rows of one push fit a frame"
);
const _: () = assert!(PEER_BATCH_BYTES < PEER_FRAME_BYTES_MAX && SNAPSHOT_CHUNK_BYTES * 2 < PEER_FRAME_BYTES_MAX);
const _: () = assert!(PEER_PING_MS < PEER_SILENCE_MS && PEER_BACKOFF_MIN_MS < PEER_BACKOFF_MAX_MS);
const _: () =
    assert!(LOG_READ_BYTES_MAX + 2 * PROPOSAL_BYTES_MAX <= PEER_FRAME_BYTES_MAX, "what replication reads fits a frame");
const _: () = assert!(MARKS_POOLED_MAX * (DEVICES_PER_USER_MAX + 7) <= ROWS_PER_COMMAND_MAX, "all of them are taken");
