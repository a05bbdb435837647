/**
 * Which admins are connected, since when and on how many screens: loaded once, then kept current by the stream's presence
 * frames. Somebody who joins is marked for a moment; nothing else moves.
 */

import { byId, element, foreign, write } from "./dom.js";
import { exactTime, timeOfDay } from "./format.js";

/** @import { Admin, PresenceFrame } from "../stream/wire-types.js" */

const MAX_NAMES = 30;

export class PresencePanel {
  #panel = byId("presence");
  #count = byId("presence-count");
  #names = byId("presence-names");
  #details = /** @type {HTMLDetailsElement} */ (byId("presence-details"));
  /** @type {Map<string, Admin>} */ #present = new Map();
  /** @type {Map<string, HTMLLIElement>} */ #shown = new Map();

  constructor() {
    this.#details.open = !matchMedia("(max-width: 48rem)").matches; // On a phone the alerts need the room.
  }

  /** @param {Admin[]} present */
  show(present) {
    this.#present = new Map(present.map((admin) => [admin.recipient, admin]));
    this.#render(new Set());
  }

  /**
   * @param {PresenceFrame} frame
   * @returns {boolean}  Whether the names add up to the server's count. If not, something was missed: load them again.
   */
  apply({ joined, left, changed, present }) {
    const news = new Set(joined.map(({ recipient }) => recipient).filter((name) => !this.#present.has(name)));
    for (const admin of [...joined, ...changed]) this.#present.set(admin.recipient, admin);
    for (const recipient of left) this.#present.delete(recipient);
    this.#render(news);
    return this.#present.size === present;
  }

  /** Offline, the list is only a memory, and says so. @param {boolean} current */
  setCurrent(current) {
    this.#panel.classList.toggle("stale", !current);
    this.#render(new Set());
  }

  /** Keeps the rows of those who stay, so that nothing that is read or marked is made anew. @param {Set<string>} news */
  #render(news) {
    const admins = [...this.#present.values()].sort((a, b) => a.recipient.localeCompare(b.recipient));
    const rows = new Map(
      admins.slice(0, MAX_NAMES).map((admin) => [admin.recipient, this.#row(admin, news.has(admin.recipient))]),
    );
    this.#shown = rows;
    const more = admins.length - rows.size;
    const rest = more > 0 ? [element("li", "more-names", `and ${more} more`)] : [];
    const list = [...rows.values(), ...rest];
    if (list.length !== this.#names.children.length || list.some((row, index) => row !== this.#names.children[index])) {
      this.#names.replaceChildren(...list);
    }
    const stale = this.#panel.classList.contains("stale");
    const [one, many] = stale ? ["admin was", "admins were"] : ["admin", "admins"];
    this.#count.textContent = `${admins.length} ${admins.length === 1 ? one : many} present`;
    this.#panel.hidden = admins.length === 0;
  }

  /** @param {Admin} admin @param {boolean} isNew */
  #row({ recipient, since, connections }, isNew) {
    const row =
      this.#shown.get(recipient) ??
      element("li", isNew ? "joined" : "", foreign("", recipient), element("span", "small"));
    const details = /** @type {HTMLElement} */ (row.lastElementChild);
    const screens = connections === 1 ? "1 screen" : `${connections} screens`;
    const text = `${screens}, since ${timeOfDay(Date.parse(since))}`;
    write(details, text);
    row.title = `Connected since ${exactTime(since)}`;
    return row;
  }
}
