/**
 * Keyboard shortcuts, and the dialog that lists them.
 *
 * A key does nothing while somebody types in a field, with Ctrl, Alt or Meta, while a dialog is open, or where another
 * part of the page has used it. Keys of a single character can be turned off (WCAG 2.2, 2.1.4: who speaks to a computer
 * types whole words into the page by mistake).
 */

import { byId, element } from "./dom.js";

/**
 * @typedef {object} Shortcut
 * @property {string} key   As in `KeyboardEvent.key`.
 * @property {string} description  For the dialog.
 * @property {() => boolean | void} run  False: it had nothing to do here, and the browser may use the key.
 * @property {boolean} [repeats]  Whether it goes on while it is held down.
 */

const STORAGE_KEY = "tocsin.shortcuts";
const FIELDS = "input, textarea, select, [contenteditable]";
const ACTIVATED_BY_ENTER = "a, button, summary, [role=button]"; // What Enter is for already.

export class Shortcuts {
  #shortcuts;
  #dialog = /** @type {HTMLDialogElement} */ (byId("help"));
  #enabled = /** @type {HTMLInputElement} */ (byId("help-enabled"));

  /** @param {Shortcut[]} shortcuts */
  constructor(shortcuts) {
    this.#shortcuts = [...shortcuts, { key: "?", description: "Show this list", run: () => this.#showHelp() }];
    this.#enabled.checked = isEnabled();
    this.#enabled.addEventListener("change", () => remember(this.#enabled.checked));
    byId("help-list").replaceChildren(
      ...this.#shortcuts.flatMap(({ key, description }) => [
        element("dt", "", element("kbd", "", key)),
        element("dd", "", description),
      ]),
    );
    byId("help-open").addEventListener("click", () => this.#showHelp());
    document.addEventListener("keydown", (event) => this.#onKey(event));
  }

  #showHelp() {
    this.#dialog.showModal();
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const found = this.#shortcuts.find(({ key }) => key === event.key);
    if (!found || this.#isIgnored(event) || (event.repeat && !found.repeats)) return;
    if (found.run() !== false) event.preventDefault();
  }

  /** @param {KeyboardEvent} event */
  #isIgnored(event) {
    const { key, target } = event;
    if (event.defaultPrevented || event.isComposing || event.ctrlKey || event.altKey || event.metaKey) return true;
    if (!this.#enabled.checked && key.length === 1) return true;
    if (!(target instanceof Element) || document.querySelector("dialog[open]")) return true;
    return target.closest(FIELDS) !== null || (key === "Enter" && target.closest(ACTIVATED_BY_ENTER) !== null);
  }
}

/** Whether keys of a single character are on, as far as the browser kept it. */
function isEnabled() {
  try {
    return localStorage.getItem(STORAGE_KEY) !== "off";
  } catch {
    return true;
  }
}

/** @param {boolean} enabled */
function remember(enabled) {
  try {
    if (enabled) localStorage.removeItem(STORAGE_KEY);
    else localStorage.setItem(STORAGE_KEY, "off");
  } catch {
    // Storage is blocked in this browser: then it holds until the page is closed.
  }
}
