// Bounds of the protocol and of this client. Those that the server has too carry its names (`proto/src/limits.rs`), and a
// test compares the values. Bytes unless the name says otherwise; times have their unit last.

/** One WebSocket message. */
export const MESSAGE_BYTES_MAX = 64 * 1024;
/** One message before `hello` was answered; what frames are gathered up to. */
export const MESSAGE_BYTES_MAX_BEFORE_HELLO = 16 * 1024;
/** A decoded message body. */
export const BODY_BYTES_MAX = 32 * 1024;
export const FRAMES_PER_MESSAGE_MAX = 64;
export const USER_ID_BYTES_MAX = 64;
export const CONV_ID_BYTES_MAX = 140;
export const KIND_BYTES_MAX = 32;
export const EMOJI_BYTES_MAX = 32;
export const MEDIA_BYTES_MAX = 1024;
export const MENTIONS_MAX = 50;
export const HISTORY_ENTRIES_MAX = 200;

/** Groups whose receipts one connection is told. */
export const RECEIPT_WATCHES_MAX = 8;

/** Commands in the outbox that wait for an answer. */
export const CLIENT_OUTBOX_MAX = 10_000;
/** Commands and calls on the wire at once; below the server's bound. */
export const CLIENT_REQUESTS_IN_FLIGHT_MAX = 48;
/** Calls that wait for an answer. */
export const CLIENT_CALLS_MAX = 256;
/** Entries that may wait for their ack, and for how long. */
export const CLIENT_ACK_ENTRIES = 64;
export const CLIENT_ACK_DELAY_MS = 200;
/** Positions in one `ack` frame. */
export const CLIENT_ACKS_PER_FRAME_MAX = 128;
/** Either side gives up after this long without receiving anything. */
export const RECEIVE_TIMEOUT_MS = 35_000;
/** An answer is given up after this long, and the command sent again. */
export const CLIENT_ANSWER_TIMEOUT_MS = 8_000;
/** A command is sent again without asking the person for this long after its first attempt. */
export const CLIENT_RESEND_MS = 7 * 24 * 3_600 * 1_000;

/** From the start of a connection until it is open, and from `hello` to `ready`. */
export const CONNECT_TIMEOUT_MS = 5_000;
export const READY_TIMEOUT_MS = 12_000;
/** A token function that takes longer has failed. */
export const TOKEN_TIMEOUT_MS = 30_000;
/** A call is given up after this long, its outcome unknown. */
export const CALL_LIMIT_MS = 30_000;
/** One attempt of a REST request. */
export const HTTP_TIMEOUT_MS = 10_000;
/** An export of which nothing comes for this long is given up. */
export const EXPORT_SILENCE_MS = 30_000;
/** `typing` goes out at most this often for one conversation. */
export const TYPING_EVERY_MS = 3_000;
/** Final outcomes that the store remembers. */
export const ANSWERS_MAX = 1_000;
/** Frames that one transaction of the store takes in. */
export const FRAMES_PER_COMMIT_MAX = 256;
/** Contents of own commands kept for the echo of their entries. */
export const ECHO_CONTENTS_MAX = 1_024;
/** Unanswered `unavailable` in a row from one node before another one is tried. */
export const UNAVAILABLE_MAX = 2;
/** A leader tab looks this often for rows that a closed tab has left in the store. */
export const SCAN_EVERY_MS = 5_000;
