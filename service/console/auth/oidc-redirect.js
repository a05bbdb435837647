/**
 * Leaving for the OpenID provider, and coming back from it: `/?code=…&state=…`, wiped from the address at once.
 *
 * What the exchange needs on the way back (RFC 7636's verifier, state, nonce) is in `sessionStorage` while the page is
 * away, and nowhere else; the first thing that a page does is to take it out of there. So console.js imports this module
 * before all others: they find the address of the place that the person left from.
 */

/**
 * @typedef {object} Departure
 * @property {string} state
 * @property {string} nonce
 * @property {string} verifier
 * @property {string} issuer
 * @property {string} place  The search and hash of the page that was left.
 */

/** @typedef {{departure: Departure | null, answer: URLSearchParams}} Arrival */

const KEY = "tocsin.departure";

/** What the provider sent back with this page, if it did. @type {Arrival | null} */
export const arrival = arrive();

/** Where the provider sends people back to; this has to be registered there. */
export function homeAddress() {
  return `${location.origin}/`;
}

/** Throws where the browser lets the page keep nothing. @param {Omit<Departure, "place">} departure */
export function depart(departure) {
  sessionStorage.setItem(KEY, JSON.stringify({ ...departure, place: location.search + location.hash }));
}

/** @returns {Arrival | null} */
function arrive() {
  const departure = takeDeparture();
  const answer = new URLSearchParams(location.search);
  if (!answer.has("state") || !(answer.has("code") || answer.has("error"))) return null;
  history.replaceState(null, "", location.pathname + (departure?.place ?? ""));
  return { departure, answer };
}

/** @returns {Departure | null} */
function takeDeparture() {
  try {
    const kept = sessionStorage.getItem(KEY);
    sessionStorage.removeItem(KEY);
    return kept ? JSON.parse(kept) : null;
  } catch {
    return null; // This browser lets the page keep nothing.
  }
}

// Who presses "back" at the provider may get this page as it was, from the browser's memory.
addEventListener("pageshow", ({ persisted }) => persisted && takeDeparture());
