/**
 * The connected admins, since when and on how many screens: loaded once, then kept current by presence frames. Somebody
 * who joins is highlighted for a moment.
 */

import { byId, element } from "./dom.js";
import { exactTime, timeOfDay } from "./format.js";
import { renderKeyed } from "./keyed-list.js";
import { learnNames, nameOf, person } from "./people.js";

/** @import { KeyedItem } from "./keyed-list.js" */
/** @import { PresentRecipient, PresenceFrame } from "../stream/wire-types.js" */

const MAX_NAMES = 30;

export class PresencePanel {
  #panel = byId("presence");
  #count = byId("presence-count");
  #names = byId("presence-names");
  #details = /** @type {HTMLDetailsElement} */ (byId("presence-details"));
  /** @type {Map<string, PresentRecipient>} */ #present = new Map();

  constructor() {
    this.#details.open = !matchMedia("(max-width: 48rem)").matches; // On a phone, the alerts need the space.
  }

  /** @param {PresentRecipient[]} present */
  show(present) {
    this.#present = new Map(present.map((admin) => [admin.recipient, admin]));
    learnNamesOf(present);
    this.#render(new Set());
  }

  /**
   * @param {PresenceFrame} frame
   * @returns {boolean}  Whether the list has as many names as the server counts. If not, it has to be loaded again.
   */
  apply({ joined, left, changed, present }) {
    const names = new Set(joined.map(({ recipient }) => recipient).filter((name) => !this.#present.has(name)));
    for (const admin of [...joined, ...changed]) this.#present.set(admin.recipient, admin);
    learnNamesOf([...joined, ...changed]);
    for (const recipient of left) this.#present.delete(recipient);
    this.#render(names);
    return this.#present.size === present;
  }

  /** Marks the list as outdated while offline. @param {boolean} current */
  setCurrent(current) {
    this.#panel.classList.toggle("stale", !current);
    this.#render(new Set());
  }

  /** @param {Set<string>} joined  Who is highlighted. */
  #render(joined) {
    const admins = [...this.#present.values()].sort(byName);
    const items = admins.slice(0, MAX_NAMES).map((admin) => itemOf(admin, joined.has(admin.recipient)));
    const more = admins.length - items.length;
    const rest = { key: "", state: String(more), build: () => element("li", "more-names", `and ${more} more`) };
    renderKeyed(this.#names, more > 0 ? [...items, rest] : items);
    const stale = this.#panel.classList.contains("stale");
    const [one, many] = stale ? ["admin was", "admins were"] : ["admin", "admins"];
    this.#count.textContent = `${admins.length} ${admins.length === 1 ? one : many} present`;
    this.#panel.hidden = admins.length === 0;
  }
}

/** @param {PresentRecipient} one @param {PresentRecipient} other */
function byName({ recipient: one }, { recipient: other }) {
  return nameOf(one).localeCompare(nameOf(other)) || one.localeCompare(other);
}

/** @param {PresentRecipient[]} admins */
function learnNamesOf(admins) {
  learnNames(admins.map(({ recipient: subject, name = null }) => ({ subject, name })));
}

/** @param {PresentRecipient} admin @param {boolean} isNew @returns {KeyedItem} */
function itemOf({ recipient, since, connections }, isNew) {
  const screens = connections === 1 ? "1 screen" : `${connections} screens`;
  return {
    key: recipient,
    state: `${screens} ${since}`,
    build: () => {
      const details = element("span", "small", `${screens}, since ${timeOfDay(Date.parse(since))}`);
      const attributes = { class: isNew ? "joined" : "", title: `Connected since ${exactTime(since)}` };
      return element("li", attributes, person("", recipient), details);
    },
  };
}
