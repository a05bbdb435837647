/**
 * The redirect to the OpenID provider and back. The provider's answer (`?code=…&state=…`) is removed from the address at
 * once.
 *
 * Verifier (RFC 7636), state and nonce are kept in `sessionStorage` while the person is at the provider, and removed
 * first thing when the page is back. So main.js imports this module before all others: they read the address after it
 * was restored.
 */

/**
 * @typedef {object} PendingSignIn
 * @property {string} state
 * @property {string} nonce
 * @property {string} verifier
 * @property {string} issuer
 * @property {string} returnTo  Search and hash of the address to restore.
 */

/** @typedef {{pending: PendingSignIn | null, answer: URLSearchParams}} ProviderAnswer */

const KEY = "tocsin.sign-in";

/** The provider's answer, if the page was opened with one. @type {ProviderAnswer | null} */
export const providerAnswer = readAnswer();

/** The redirect URI; it has to be registered with the provider. */
export function redirectAddress() {
  return location.origin + location.pathname;
}

/** Throws if the browser blocks storage. @param {Omit<PendingSignIn, "returnTo">} pending */
export function rememberSignIn(pending) {
  sessionStorage.setItem(KEY, JSON.stringify({ ...pending, returnTo: location.search + location.hash }));
}

/** @returns {ProviderAnswer | null} */
function readAnswer() {
  const pending = takePendingSignIn();
  const answer = new URLSearchParams(location.search);
  if (!answer.has("state") || !(answer.has("code") || answer.has("error"))) return null;
  history.replaceState(null, "", location.pathname + (pending?.returnTo ?? ""));
  return { pending, answer };
}

/** @returns {PendingSignIn | null} */
function takePendingSignIn() {
  try {
    const kept = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    return kept ? JSON.parse(kept) : null;
  } catch {
    return null; // Storage is blocked.
  }
}

// Pressing "back" at the provider may restore this page from the back/forward cache.
addEventListener("pageshow", ({ persisted }) => persisted && takePendingSignIn());
