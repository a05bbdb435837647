/**
 * What the page keeps in the browser, for all of its tabs. Where the browser blocks storage, nothing is kept and nothing
 * fails: what was chosen then holds until the page is closed.
 */

/** @param {string} key */
export function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

/** @param {string} key @param {string | null} value  Null removes it. */
export function write(key, value) {
  try {
    if (value === null) localStorage.removeItem(key);
    else localStorage.setItem(key, value);
  } catch {
    // Storage is blocked.
  }
}

/** Calls back when another tab writes. @param {string} key @param {(value: string | null) => void} callback */
export function onWrittenInOtherTab(key, callback) {
  addEventListener("storage", (event) => event.key === key && callback(event.newValue));
}
