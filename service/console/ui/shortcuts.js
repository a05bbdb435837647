/**
 * The keyboard: which key does what, and the dialog that tells.
 *
 * A key does nothing while somebody types in a field, with Ctrl, Alt or Meta, while a dialog is open, or where another
 * part of the page has used it. Keys of a single character can be turned off (WCAG 2.2, 2.1.4: who speaks to a computer
 * types whole words into the page by mistake).
 */

import { byId, element } from "./dom.js";

/**
 * @typedef {object} Key
 * @property {string} key   As in `KeyboardEvent.key`.
 * @property {string} does  For the dialog.
 * @property {() => boolean | void} run  False: it had nothing to do here, and the browser may use the key.
 * @property {boolean} [repeats]  Whether it goes on while it is held down.
 */

const STORED = "tocsin.keys";
const FIELDS = "input, textarea, select, [contenteditable]";
const PRESSED = "a, button, summary, [role=button]"; // What Enter is for already.

export class Keys {
  #keys;
  #dialog = /** @type {HTMLDialogElement} */ (byId("help"));
  #enabled = /** @type {HTMLInputElement} */ (byId("help-enabled"));

  /** @param {Key[]} keys */
  constructor(keys) {
    this.#keys = [...keys, { key: "?", does: "Show this list", run: () => this.#help() }];
    this.#enabled.checked = isEnabled();
    this.#enabled.addEventListener("change", () => remember(this.#enabled.checked));
    byId("help-list").replaceChildren(
      ...this.#keys.flatMap(({ key, does }) => [element("dt", "", element("kbd", "", key)), element("dd", "", does)]),
    );
    byId("help-open").addEventListener("click", () => this.#help());
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  #help() {
    this.#dialog.showModal();
  }

  /** @param {KeyboardEvent} event */
  #press(event) {
    const found = this.#keys.find(({ key }) => key === event.key);
    if (!found || this.#isForOthers(event) || (event.repeat && !found.repeats)) return;
    if (found.run() !== false) event.preventDefault();
  }

  /** @param {KeyboardEvent} event */
  #isForOthers(event) {
    const { key, target } = event;
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return true;
    if (!this.#enabled.checked && key.length === 1) return true;
    if (!(target instanceof Element) || document.querySelector("dialog[open]")) return true;
    return target.closest(FIELDS) !== null || (key === "Enter" && target.closest(PRESSED) !== null);
  }
}

/** Whether keys of a single character are on, as far as the browser kept it. */
function isEnabled() {
  try {
    return localStorage.getItem(STORED) !== "off";
  } catch {
    return true;
  }
}

/** @param {boolean} enabled */
function remember(enabled) {
  try {
    if (enabled) localStorage.removeItem(STORED);
    else localStorage.setItem(STORED, "off");
  } catch {
    // Storage is blocked in this browser: then it holds until the page is closed.
  }
}
