/**
 * The title and icon of the tab: how many alerts arrived while it was hidden, and whether it is offline. The icons are
 * files, one for each number: the Content Security Policy forbids generated ones (`data:`).
 */

const TITLE = document.title;
const COUNT_MAX = 9;

export class TabBadge {
  #icon = /** @type {HTMLLinkElement} */ (document.querySelector("link[rel=icon]"));
  #count = 0;
  #offline = false;

  constructor() {
    document.addEventListener("visibilitychange", () => document.hidden || this.#set(0, this.#offline));
  }

  /** An alert arrived. */
  add() {
    if (document.hidden) this.#set(this.#count + 1, this.#offline);
  }

  /** @param {boolean} offline */
  setOffline(offline) {
    if (offline !== this.#offline) this.#set(this.#count, offline);
  }

  /** @param {number} count @param {boolean} offline */
  #set(count, offline) {
    this.#count = count;
    this.#offline = offline;
    document.title = [offline && "Offline ·", count && `(${count})`, TITLE].filter(Boolean).join(" ");
    const name = offline ? "offline" : count > COUNT_MAX ? "many" : String(count);
    const file = offline || count ? `favicon-${name}.svg` : "favicon.svg";
    this.#icon.href = new URL(`console/ui/favicons/${file}`, location.href).pathname;
  }
}
