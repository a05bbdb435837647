/**
 * Which admins are connected: loaded once, then kept current by the stream's presence frames.
 */

import { byId, element, foreign } from "./dom.js";
import { exactTime } from "./time.js";

/** @import { Admin, PresenceFrame } from "./wire.js" */

const MAX_NAMES = 30;

export class PresencePanel {
  #panel = byId("presence");
  #count = byId("presence-count");
  #names = byId("presence-names");
  /** @type {Map<string, string>} Since when, by name. */ #present = new Map();

  /** @param {Admin[]} present */
  show(present) {
    this.#present = new Map(present.map(({ recipient, since }) => [recipient, since]));
    this.#render();
  }

  /**
   * @param {PresenceFrame} frame
   * @returns {boolean}  Whether the names add up to the server's count. If not, something was missed: load them again.
   */
  apply({ joined, left, present }) {
    for (const { recipient, since } of joined) this.#present.set(recipient, since);
    for (const recipient of left) this.#present.delete(recipient);
    this.#render();
    return this.#present.size === present;
  }

  /** Offline, the list is only a memory, and says so. @param {boolean} current */
  setCurrent(current) {
    this.#panel.classList.toggle("stale", !current);
    this.#render();
  }

  #render() {
    const names = [...this.#present].sort(([a], [b]) => a.localeCompare(b));
    const shown = names.slice(0, MAX_NAMES).map(([name, since]) =>
      element("li", { title: `Connected since ${exactTime(since)}` }, foreign("", name)),
    );
    if (names.length > MAX_NAMES) shown.push(element("li", "more-names", `and ${names.length - MAX_NAMES} more`));
    const stale = this.#panel.classList.contains("stale");
    const [one, many] = stale ? ["admin was", "admins were"] : ["admin", "admins"];
    this.#count.textContent = `${names.length} ${names.length === 1 ? one : many} present`;
    this.#names.replaceChildren(...shown);
    this.#panel.hidden = names.length === 0;
  }
}
