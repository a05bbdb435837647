/**
 * The requests of the REST API that the console makes, with errors that can be told to a person.
 */

import { compareClocks } from "./clock.js";

/** @import { AlertPage, PresenceList, Severity } from "./wire.js" */
/** @import { OidcSettings } from "./oidc.js" */

const TIMEOUT_MS = 10_000;
const SHOWN_AT_SIGN_IN = 50;

/** A request that brought no answer we can use. `reason` is the problem's `code`, or `unreachable`. */
export class ApiError extends Error {
  /**
   * @param {string} reason
   * @param {number} status      The HTTP status, 0 where none came.
   * @param {number} retryAfter  In ms, 0 where the server did not say.
   */
  constructor(reason, status, retryAfter) {
    super(reason);
    this.reason = reason;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same request may do better later. */
  get passing() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/**
 * What the server's settings say to this page.
 * @returns {Promise<{oidc: OidcSettings | null}>}
 */
export function fetchSettings() {
  return ask("/console/settings.json", null, {});
}

/**
 * The newest alerts, and the log position at which this list was true.
 * @param {string} token
 * @returns {Promise<AlertPage>}
 */
export function fetchAlerts(token) {
  return get(`/v1/alerts?limit=${SHOWN_AT_SIGN_IN}`, token);
}

/**
 * The admins who are connected now.
 * @param {string} token
 * @returns {Promise<PresenceList>}
 */
export function fetchPresence(token) {
  return get("/v1/presence", token);
}

/**
 * Raises an alert. The key makes it safe to send the same again.
 * @param {string} token
 * @param {{title: string, body: string, topic: string, severity: Severity}} alert
 * @returns {Promise<{id: string, seq: number}>}
 */
export function postAlert(token, alert) {
  return ask("/v1/alerts", token, {
    method: "POST",
    headers: { "Content-Type": "application/json", "Idempotency-Key": crypto.randomUUID() },
    body: JSON.stringify(alert),
  });
}

/**
 * @param {string} path
 * @param {string} token
 */
function get(path, token) {
  return ask(path, token, {});
}

/**
 * @param {string} path
 * @param {string | null} token
 * @param {{method?: string, headers?: Record<string, string>, body?: string}} request
 */
async function ask(path, token, request) {
  const sentAt = Date.now();
  /** @type {Record<string, string>} */ const authorization = token === null ? {} : { Authorization: `Bearer ${token}` };
  let response;
  try {
    response = await fetch(path, {
      ...request,
      headers: { ...authorization, Accept: "application/json", ...request.headers },
      cache: "no-store",
      credentials: "omit",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    compareClocks(response.headers.get("Date"), sentAt);
    if (response.ok) return await response.json();
  } catch {
    throw new ApiError("unreachable", 0, 0);
  }
  const problem = await response.json().catch(() => ({})); // A proxy in between answers in HTML.
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  throw new ApiError(problem.code ?? `http_${response.status}`, response.status, retryAfter * 1000);
}
