/**
 * Requests to the REST API, and the error that they fail with.
 */

import { compareClocks } from "../ui/clock-skew.js";

/** @import { AlertPage, Me, PresenceOut } from "../stream/wire-types.js" */
/** @import { OidcSettings } from "./oidc-protocol.js" */

const TIMEOUT_MS = 10_000;
const SHOWN_AT_SIGN_IN = 50;

/** A request failed. `reason` is the problem's `code`, or `unreachable`. */
export class ApiError extends Error {
  /**
   * @param {string} reason
   * @param {number} status      The HTTP status; 0: no response.
   * @param {number} retryAfter  In ms; 0: unknown.
   * @param {Record<string, any>} [problem]  The problem document.
   */
  constructor(reason, status, retryAfter, problem = {}) {
    super(reason);
    this.problem = problem;
    this.reason = reason;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may succeed later. */
  get isTransient() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/**
 * The settings of the server that concern this page.
 * @returns {Promise<{oidc: OidcSettings | null}>}
 */
export function fetchSettings() {
  return request("console/settings.json", null, {});
}

/**
 * The newest alerts, and the log position at which the list is true.
 * @param {string} token
 * @returns {Promise<AlertPage>}
 */
export function fetchAlerts(token) {
  return get(`v1/alerts?limit=${SHOWN_AT_SIGN_IN}`, token);
}

/**
 * Whose the token is, and what it allows, as the server reads it: an issuer may call scopes otherwise.
 * @param {string} token
 * @returns {Promise<Me>}
 */
export function fetchMe(token) {
  return get("v1/me", token);
}

/**
 * What subjects are shown by.
 * @param {string[]} subjects
 * @param {string} token
 * @returns {Promise<Record<string, string>>}
 */
export async function fetchNames(subjects, token) {
  const query = new URLSearchParams(subjects.map((subject) => ["subject", subject]));
  return (await get(`v1/names?${query}`, token)).names;
}

/**
 * The connected admins.
 * @param {string} token
 * @returns {Promise<PresenceOut>}
 */
export function fetchPresence(token) {
  return get("v1/presence", token);
}

/**
 * @param {string} path   Relative to the page, which may be under a path of a site.
 * @param {string} token
 */
export function get(path, token) {
  return request(path, token, {});
}

/**
 * @param {string} path
 * @param {string} token
 * @param {{body?: object, idempotencyKey?: string}} [content]  With a key, a repetition has no effect.
 */
export function post(path, token, { body, idempotencyKey } = {}) {
  /** @type {Record<string, string>} */ const headers = {};
  if (body) headers["Content-Type"] = "application/json";
  if (idempotencyKey) headers["Idempotency-Key"] = idempotencyKey;
  return request(path, token, { method: "POST", headers, body: body && JSON.stringify(body) });
}

/**
 * @param {string} path
 * @param {string | null} token
 * @param {RequestInit} options
 */
async function request(path, token, options) {
  /** @type {Record<string, string>} */ const authorization =
    token === null ? {} : { Authorization: `Bearer ${token}` };
  const sentAt = Date.now();
  let response;
  try {
    response = await fetch(path, {
      ...options,
      headers: { ...options.headers, ...authorization, Accept: "application/json" },
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    compareClocks(response.headers.get("Date"), sentAt);
    if (response.ok) return await response.json();
  } catch {
    throw new ApiError("unreachable", 0, 0);
  }
  const problem = await response.json().catch(() => ({})); // A proxy answers in HTML.
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  throw new ApiError(problem.code ?? `http_${response.status}`, response.status, retryAfter * 1000, problem);
}
