// Errors and close codes: the range of a close code and the `retryable` of an error carry the verdict, so that codes made
// after this client are understood.

/** What the server, or this client in its place, answered. `code` is one of the protocol's names. */
export class FlotillaError extends Error {
  /**
   * @param {string} code @param {string} message
   * @param {{ retryable?: boolean, retry_after_ms?: number, details?: unknown, request_id?: string, status?: number }} [more]
   */
  constructor(code, message, more = {}) {
    super(message ? `${code}: ${message}` : code);
    this.name = 'FlotillaError';
    this.code = code;
    this.retryable = more.retryable ?? false;
    this.retry_after_ms = more.retry_after_ms;
    this.details = more.details;
    this.request_id = more.request_id;
    /** HTTP status, for REST. */
    this.status = more.status;
  }

  /** @param {any} body The `d` of an `error` frame, or a problem document. @returns {FlotillaError} */
  static of(body) {
    const { code, message, ...more } = body ?? {};
    return new FlotillaError(typeof code === 'string' ? code : 'internal', message ?? '', more);
  }

  toJSON() {
    const { code, retryable, retry_after_ms, details, request_id, status } = this;
    return { code, message: this.message.replace(`${code}: `, ''), retryable, retry_after_ms, details, request_id, status };
  }
}

/** It may or may not have happened: again with the same key. */
export class OutcomeUnknown extends FlotillaError {
  /** @param {string} why @param {string} [key] The key under which the request may be repeated. */
  constructor(why, key) {
    super('outcome_unknown', why, { retryable: true });
    this.name = 'OutcomeUnknown';
    this.key = key;
  }
}

/** Thrown by a token function: nobody but the person can help. Anything else that it throws means "later". */
export class LoginRequired extends Error {
  constructor(message = 'log in again') {
    super(message);
    this.name = 'LoginRequired';
  }
}

/**
 * What to do after a close: codes outside the project's ranges (1001, 1006, 1011-1013) mean reconnect.
 * @param {number} code @returns {'reconnect' | 'new_token' | 'drop_rev' | 'stop'}
 */
export function verdictOf(code) {
  if (code >= 4100 && code <= 4199) return 'new_token';
  if (code >= 4200 && code <= 4299) return 'drop_rev';
  if (code >= 4500 && code <= 4599) return 'stop';
  return 'reconnect';
}

/** Another instance of this device has taken the session. */
export const SESSION_REPLACED = 4504;

/** @type {Record<number, string>} */
const CLOSE_NAMES = {
  4000: 'internal', 4001: 'going_away', 4002: 'heartbeat_timeout', 4003: 'slow_consumer', 4004: 'rate_limited', 4005: 'overloaded',
  4006: 'not_ready', 4007: 'superseded', 4100: 'token_expired', 4101: 'reauth_required', 4200: 'rev_rejected', 4500: 'bad_frame',
  4501: 'unsupported_version', 4502: 'auth_failed', 4503: 'hello_timeout', 4504: 'session_replaced', 4505: 'device_revoked',
  4506: 'account_disabled', 4507: 'message_too_big', 4508: 'protocol_violation', 4509: 'connection_limit', 4510: 'origin_forbidden',
};

/** @param {number} code @returns {string} */
export const closeName = code => CLOSE_NAMES[code] ?? `close_${code}`;

/** It does not tell whether the attempt has had an effect. @param {{ code: string }} error */
export const isUnclear = error => error.code === 'outcome_unknown' || error.code === 'internal';
