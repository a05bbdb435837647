/**
 * What a client does when its connection ends: the table of close codes, and how long to wait before coming back.
 */

/** @typedef {"refresh" | "stop" | "retry" | "retry-later"} ClosePolicy */

const REFRESH = new Set(["token_expired", "token_revoked", "token_invalid", "token_missing"]);
const STOP = new Set(["scope_missing", "topic_forbidden", "origin_forbidden", "kicked", "bad_message"]);

const BACKOFF = { retry: { base: 500, cap: 30_000 }, "retry-later": { base: 15_000, cap: 120_000 } };

/**
 * Get a fresh token, stop for good, or come back: soon, or later where we were told that we are too many.
 * @param {number} code    A close code of RFC 6455, section 7.4; 1008 is the server refusing us.
 * @param {string} reason  The close reason, one word for programs.
 * @returns {ClosePolicy}
 */
export function closePolicy(code, reason) {
  if ([1003, 1007, 1009].includes(code)) return "stop"; // The same message would be refused again.
  if (code !== 1008) return "retry";
  if (REFRESH.has(reason)) return "refresh";
  return STOP.has(reason) ? "stop" : "retry-later";
}

/**
 * Whether a page may get a fresh token without asking the person. Not after a revocation: somebody wants them out, and what
 * their browser still holds must not bring them back.
 * @param {string} reason
 */
export function mayRenew(reason) {
  return reason !== "token_revoked" && REFRESH.has(reason);
}

/**
 * How long to wait before the next attempt, in ms. Full jitter (anywhere between nothing and the bound) spreads the
 * clients of a restarted server evenly, where a fixed delay would bring them all back at once.
 * @param {number} failures  Attempts in a row that did not last, at least 1.
 * @param {"retry" | "retry-later"} [policy]
 */
export function backoff(failures, policy = "retry") {
  const { base, cap } = BACKOFF[policy];
  return Math.random() * Math.min(cap, base * 2 ** failures);
}
