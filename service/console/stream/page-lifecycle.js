/**
 * The page lifecycle, for a stream. A page that is frozen or in the back/forward cache runs no code: its connection would
 * time out, and would keep the browser from freezing the page in the first place.
 */

/** @typedef {{pause: () => void, wake: () => void}} Pausable */

/**
 * Pauses a stream while the page is frozen or in the back/forward cache, and wakes it when the page is resumed, becomes
 * visible, or is online.
 * @param {Pausable} stream
 * @returns {() => void}  Removes the listeners.
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
