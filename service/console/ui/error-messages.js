/**
 * Messages for close reasons and problem codes of the server, and for the client's own.
 */

/** @type {Record<string, string>} */
const SENTENCES = {
  token_missing: "A token is needed to see alerts.",
  token_invalid: "The server did not accept this token.",
  token_expired: "Your token has expired.",
  token_revoked: "Your token was revoked.",
  token_unavailable: "No fresh token could be had.",
  token_malformed: "This is not a token: three parts with dots between them are expected.",
  scope_missing: "Your token does not allow reading alerts; it needs the scope alerts:read.",
  topic_forbidden: "Your token does not cover these topics.",
  origin_forbidden: "The server does not accept pages of this address. Add it to TOCSIN_ALLOWED_ORIGINS.",
  kicked: "An administrator closed your connection.",
  bad_message: "The server did not understand this page. Reload it to get the current version.",
  message_too_big: "The server turned down a message of this page as too big.",
  rate_limited: "Too many requests from this account.",
  connection_limit: "Too many connections are open for this account.",
  shutting_down: "The server is restarting.",
  history_changed: "The server's database failed over.",
  overloaded: "The server is overloaded.",
  keys_unavailable: "The server cannot check tokens at the moment.",
  slow_consumer: "This connection was too slow to keep up.",
  heartbeat_timeout: "The server lost contact with this page.",
  internal_error: "The server had an internal error.",
  database_unavailable: "The server cannot reach its database.",
  too_many_queries: "The server answers too many requests at once. Try again in a moment.",
  query_timeout: "This takes the server too long. Ask for a shorter period.",
  server_silent: "The server fell silent.",
  connection_lost: "The connection was lost.",
  unreachable: "The server cannot be reached.",
};

/**
 * A sentence for a code. A code that is not listed is shown as it is.
 * @param {string} reason
 */
export function explain(reason) {
  return SENTENCES[reason] ?? `The server answered: ${reason.replaceAll("_", " ")}.`;
}
