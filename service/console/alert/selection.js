/**
 * What is selected in the feed and what is open beside it: keeps the two, the address and the keyboard together.
 *
 * An action is for the pinned alert that has the focus, or else for the alert that is open, or else for the one that is
 * selected. Opening moves the focus to the alert,
 * and closing brings it back to where it was in the feed.
 */

import { byId, isolated } from "../ui/dom.js";
import { go, onPlace, place, placeAt } from "../ui/router.js";
import { Keys } from "../ui/shortcuts.js";
import { Actions } from "./actions.js";
import { AlertPanel } from "./alert-panel.js";

/** @import { Alert, EventFrame } from "../stream/wire-types.js" */
/** @import { Actable, Action } from "./actions.js" */
/** @import { Feed } from "../feed/feed.js" */
/** @import { Session } from "../auth/session.js" */

export class Desk {
  #feed;
  #panel;
  #actions;
  #notice;
  #opened = "";

  /**
   * @param {Feed} feed
   * @param {() => Session | null} session
   * @param {(message: string) => void} notice  Says something about an alert that is not open.
   */
  constructor(feed, session, notice) {
    this.#feed = feed;
    this.#notice = notice;
    const say = (/** @type {string} */ id, /** @type {string} */ message) => this.#say(id, message);
    this.#panel = new AlertPanel((action, id) => this.#actions.run(id, action), say);
    this.#actions = new Actions({
      session,
      find: (id) => this.#find(id),
      predict: (id, prediction) => {
        this.#panel.predict(id, prediction);
        feed.predict(id, prediction);
      },
      take: (alert) => this.#take(alert),
      say,
    });
    byId("detail-close").addEventListener("click", () => this.#close());
    onPlace(() => this.#follow());
    this.#listen();
  }

  /** The list was loaded, and with it what is open. @param {Session} session */
  refresh(session) {
    this.#panel.refresh(session, this.#feed.find(this.#opened)?.title ?? "");
  }

  /** @param {EventFrame} event */
  apply(event) {
    this.#panel.apply(event);
  }

  onLive() {
    this.#panel.onLive();
  }

  clear() {
    this.#panel.clear();
  }

  /** Puts the focus where the work is. */
  focus() {
    if (this.#opened) this.#panel.focus();
    else byId("feed-title").focus();
  }

  #follow() {
    const open = place();
    const before = this.#opened;
    this.#opened = open.name === "alert" ? open.id : "";
    byId("workspace").classList.toggle("with-alert", this.#opened !== "");
    this.#panel.open(this.#opened, this.#feed.find(this.#opened)?.title ?? "");
    if (this.#opened) {
      this.#feed.reveal(this.#opened); // So that j and k go on from there.
      this.#panel.focus();
    } else if (before && open.name === "feed" && !this.#feed.reveal(before)) {
      byId("feed-title").focus();
    }
  }

  #close() {
    go({ name: "feed" });
  }

  #listen() {
    new Keys([
      { key: "j", does: "Next alert", run: () => this.#move(1), repeats: true },
      { key: "k", does: "Previous alert", run: () => this.#move(-1), repeats: true },
      { key: "Enter", does: "Open the selected alert", run: () => this.#open() },
      { key: "Escape", does: "Back to the list", run: () => (this.#opened ? this.#close() : false) },
      { key: "a", does: "Acknowledge", run: () => this.#act("acknowledge") },
      { key: "r", does: "Resolve, or reopen what is over", run: () => this.#act("resolve", "reopen") },
      { key: "c", does: "Comment", run: () => this.#comment() },
      { key: "/", does: "Search", run: () => this.#search() },
    ]);
  }

  /** @param {number} by */
  #move(by) {
    if (!this.#isHere()) return false;
    this.#feed.move(by);
    const id = this.#feed.selected;
    if (this.#opened && id) {
      go({ name: "alert", id }, { instead: true });
      this.#panel.focus(); // Also where there was no further one to go to.
    }
    return true;
  }

  #open() {
    const id = this.#feed.selected;
    if (!this.#isHere() || this.#opened || !id) return false;
    go({ name: "alert", id });
    return true;
  }

  /** @param {...Action} actions  The first that leads on from where the alert is. */
  #act(...actions) {
    const id = this.#target();
    if (!id) return false;
    if (id === this.#opened || this.#find(id)) this.#actions.run(id, ...actions);
    else go({ name: "alert", id }); // A pinned one may be far down in the list: what is not loaded is looked at first.
    return true;
  }

  #comment() {
    const id = this.#target();
    if (!id) return false;
    if (this.#opened !== id) go({ name: "alert", id });
    this.#panel.comment();
    return true;
  }

  #search() {
    if (!this.#isHere()) return false;
    const field = byId("filter-text");
    if (!field.checkVisibility()) this.#close(); // On a phone the alert stands in its place.
    field.focus();
    return true;
  }

  /** The alert that keys are for. */
  #target() {
    return this.#isHere() ? focused() || this.#opened || this.#feed.selected : null;
  }

  #isHere() {
    return place().name === "feed" || place().name === "alert";
  }

  /** @param {string} id @returns {Actable | null} */
  #find(id) {
    const open = this.#panel.alert;
    return open?.id === id ? open : this.#feed.find(id);
  }

  /** @param {string} id @param {string} message */
  #say(id, message) {
    if (!this.#panel.say(id, message) && message) this.#notice(`${isolated(this.#titleOf(id))}: ${message}`);
  }

  /** @param {Alert} alert */
  #take(alert) {
    this.#panel.take(alert);
    this.#feed.take(alert);
  }

  /** @param {string} id */
  #titleOf(id) {
    return this.#feed.find(id)?.title ?? "The alert";
  }
}

/** The id of the pinned alert that has the focus; empty: none has. */
function focused() {
  const link = /** @type {HTMLAnchorElement | null | undefined} */ (document.activeElement?.closest("#pinned a"));
  const target = link && placeAt(link.hash);
  return target?.name === "alert" ? target.id : "";
}
