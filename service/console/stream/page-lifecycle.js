/**
 * The life of a page, as far as a stream must know of it. A page that is frozen, or kept for the back button, runs no code:
 * a connection that it held would time out, and would keep the browser from freezing it in the first place.
 */

/** @typedef {{pause: () => void, wake: () => void}} Pausable */

/**
 * Pauses a stream while the page is frozen or in the back/forward cache, and wakes it when the page is there again, is
 * looked at, or is online.
 * @param {Pausable} stream
 * @returns {() => void}  Ends it.
 */
export function keepAlive(stream) {
  const ended = new AbortController();
  const { signal } = ended;
  const pause = () => stream.pause();
  const wake = () => stream.wake();
  addEventListener("pagehide", pause, { signal });
  addEventListener("pageshow", ({ persisted }) => persisted && wake(), { signal });
  addEventListener("online", wake, { signal });
  document.addEventListener("freeze", pause, { signal });
  document.addEventListener("resume", wake, { signal });
  document.addEventListener("visibilitychange", () => document.hidden || wake(), { signal });
  return () => ended.abort();
}
