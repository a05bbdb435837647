/**
 * Keyboard shortcuts, and the dialog that lists them.
 *
 * A shortcut does nothing while a field has the focus, with Ctrl, Alt or Meta, while a dialog is open, or where another
 * part of the page handled the key. Single-character shortcuts can be turned off (WCAG 2.2, 2.1.4: speech input types
 * whole words into the page by mistake).
 */

import { byId, element } from "./dom.js";
import { read, write } from "./local-storage.js";

/**
 * @typedef {object} Shortcut
 * @property {string} key   As in `KeyboardEvent.key`.
 * @property {string} description  For the dialog.
 * @property {() => boolean | void} run  False: there was nothing to do, and the browser may use the key.
 * @property {boolean} [repeats]  Whether it runs again while the key is held down.
 */

const STORAGE_KEY = "tocsin.shortcuts";
const FIELDS = "input, textarea, select, [contenteditable]";
const ACTIVATED_BY_ENTER = "a, button, summary, [role=button]";

export class Shortcuts {
  #shortcuts;
  #dialog = /** @type {HTMLDialogElement} */ (byId("help"));
  #enabled = /** @type {HTMLInputElement} */ (byId("help-enabled"));

  /** @param {Shortcut[]} shortcuts */
  constructor(shortcuts) {
    const showHelp = () => this.#dialog.showModal();
    this.#shortcuts = [...shortcuts, { key: "?", description: "Show this list", run: showHelp }];
    this.#enabled.checked = read(STORAGE_KEY) !== "off";
    this.#enabled.addEventListener("change", () => write(STORAGE_KEY, this.#enabled.checked ? null : "off"));
    byId("help-list").replaceChildren(
      ...this.#shortcuts.flatMap(({ key, description }) => [
        element("dt", "", element("kbd", "", key)),
        element("dd", "", description),
      ]),
    );
    byId("help-open").addEventListener("click", showHelp);
    document.addEventListener("keydown", (event) => this.#onKey(event));
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
