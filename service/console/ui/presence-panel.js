/**
 * The connected admins, since when and on how many screens: loaded once, then kept current by presence frames. Somebody
 * who joins is highlighted for a moment.
 */

import { byId, element, foreign, write } from "./dom.js";
import { exactTime, timeOfDay } from "./format.js";

/** @import { PresentRecipient, PresenceFrame } from "../stream/wire-types.js" */

const MAX_NAMES = 30;

export class PresencePanel {
  #panel = byId("presence");
  #count = byId("presence-count");
  #names = byId("presence-names");
  #details = /** @type {HTMLDetailsElement} */ (byId("presence-details"));
  /** @type {Map<string, PresentRecipient>} */ #present = new Map();
  /** @type {Map<string, HTMLLIElement>} */ #shown = new Map();

  constructor() {
    this.#details.open = !matchMedia("(max-width: 48rem)").matches; // On a phone, the alerts need the space.
  }

  /** @param {PresentRecipient[]} present */
  show(present) {
    this.#present = new Map(present.map((admin) => [admin.recipient, admin]));
    this.#render(new Set());
  }

  /**
   * @param {PresenceFrame} frame
   * @returns {boolean}  Whether the list has as many names as the server counts. If not, it has to be loaded again.
   */
  apply({ joined, left, changed, present }) {
    const names = new Set(joined.map(({ recipient }) => recipient).filter((name) => !this.#present.has(name)));
    for (const admin of [...joined, ...changed]) this.#present.set(admin.recipient, admin);
    for (const recipient of left) this.#present.delete(recipient);
    this.#render(names);
    return this.#present.size === present;
  }

  /** Marks the list as outdated while offline. @param {boolean} current */
  setCurrent(current) {
    this.#panel.classList.toggle("stale", !current);
    this.#render(new Set());
  }

  /** Keeps existing rows, which may be selected or highlighted. @param {Set<string>} joined */
  #render(joined) {
    const admins = [...this.#present.values()].sort((a, b) => a.recipient.localeCompare(b.recipient));
    const rows = new Map(
      admins.slice(0, MAX_NAMES).map((admin) => [admin.recipient, this.#row(admin, joined.has(admin.recipient))]),
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

  /** @param {PresentRecipient} admin @param {boolean} isNew */
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
