/**
 * What a client does when its stream ends, and how long it waits before it connects again.
 */

import { CLOSE_POLICIES } from "./wire-constants.js";

/**
 * `refresh`: ask for a fresh token. `stop`: no retry helps. `retry`: connect again soon. `retry_later`: connect again
 * later, because there are too many connections or requests.
 * @typedef {"refresh" | "stop" | "retry" | "retry_later"} ClosePolicy
 */

const BACKOFF = { retry: { base: 500, cap: 30_000 }, retry_later: { base: 15_000, cap: 120_000 } };

/**
 * The policy for a close of the stream. A reason that this version does not know is judged by its code.
 * @param {number} code    Of RFC 6455, section 7.4; 1008 is a refusal by the server.
 * @param {string} reason
 * @returns {ClosePolicy}
 */
export function closePolicy(code, reason) {
  const [name] = reason.split(":"); // What follows is for people.
  if (Object.hasOwn(CLOSE_POLICIES, name)) return CLOSE_POLICIES[name];
  if ([1003, 1007, 1009].includes(code)) return "stop"; // The server would refuse the same message again.
  return code === 1008 ? "retry_later" : "retry";
}

/**
 * Whether the page may get a fresh token without asking the person. Not after a revocation: somebody decided to sign
 * this person out, and what their browser still holds must not bring them back.
 * @param {string} reason
 */
export function mayRenew(reason) {
  return reason !== "token_revoked" && closePolicy(1008, reason) === "refresh";
}

/**
 * How long to wait before the next attempt, in ms. Full jitter (anywhere between zero and the bound) spreads the
 * clients of a restarted server evenly; a fixed delay would bring them all back at once.
 * @param {number} failures  Attempts in a row that did not last, at least 1.
 * @param {"retry" | "retry_later"} [policy]
 */
export function backoff(failures, policy = "retry") {
  const { base, cap } = BACKOFF[policy];
  return Math.random() * Math.min(cap, base * 2 ** failures);
}
