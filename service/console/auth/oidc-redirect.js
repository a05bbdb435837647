/**
 * Leaving for the OpenID provider, and coming back from it: `/?code=…&state=…`, wiped from the address at once.
 *
 * What the exchange needs on the way back (RFC 7636's verifier, state, nonce) is in `sessionStorage` while the page is
 * away, and nowhere else; the first thing that a page does is to take it out of there. So main.js imports this module
 * before all others: they find the address that the person left from.
 */

/**
 * @typedef {object} PendingSignIn
 * @property {string} state
 * @property {string} nonce
 * @property {string} verifier
 * @property {string} issuer
 * @property {string} returnTo  The search and hash of the page that was left.
 */

/** @typedef {{pending: PendingSignIn | null, answer: URLSearchParams}} ProviderAnswer */

const KEY = "tocsin.sign-in";

/** What the provider sent back with this page, if it did. @type {ProviderAnswer | null} */
export const providerAnswer = readAnswer();

/** Where the provider sends people back to; this has to be registered there. */
export function redirectAddress() {
  return `${location.origin}/`;
}

/** Throws where the browser lets the page keep nothing. @param {Omit<PendingSignIn, "returnTo">} pending */
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
    return null; // This browser lets the page keep nothing.
  }
}

// Who presses "back" at the provider may get this page as it was, from the browser's memory.
addEventListener("pageshow", ({ persisted }) => persisted && takePendingSignIn());
