/**
 * What is selected in the feed and what is open beside it: keeps the two, the address and the keyboard together.
 *
 * An action is for the pinned alert that has the focus, or else for the alert that is open, or else for the one that is
 * selected. Opening moves the focus to the alert,
 * and closing brings it back to where it was in the feed.
 */

import { byId, isolated } from "../ui/dom.js";
import { currentRoute, go, onRoute, routeOf } from "../ui/router.js";
import { Shortcuts } from "../ui/shortcuts.js";
import { Actions } from "./actions.js";
import { AlertPanel } from "./alert-panel.js";

/** @import { Alert, EventFrame } from "../stream/wire-types.js" */
/** @import { ActionableAlert, Action } from "./actions.js" */
/** @import { Feed } from "../feed/feed.js" */
/** @import { Session } from "../auth/session.js" */

export class Selection {
  #feed;
  #panel;
  #actions;
  #showNotice;
  #opened = "";

  /**
   * @param {Feed} feed
   * @param {() => Session | null} session
   * @param {(message: string) => void} showNotice  Says something about an alert that is not open.
   */
  constructor(feed, session, showNotice) {
    this.#feed = feed;
    this.#showNotice = showNotice;
    const showError = (/** @type {string} */ id, /** @type {string} */ message) => this.#showError(id, message);
    this.#panel = new AlertPanel((action, id) => this.#actions.run(id, action), showError);
    this.#actions = new Actions({
      session,
      find: (id) => this.#find(id),
      predict: (id, prediction) => {
        this.#panel.predict(id, prediction);
        feed.predict(id, prediction);
      },
      applyResponse: (alert) => this.#applyResponse(alert),
      showError,
    });
    byId("detail-close").addEventListener("click", () => this.#close());
    onRoute(() => this.#onRoute());
    this.#addShortcuts();
  }

  /** The list was loaded, and with it what is open. @param {Session} session */
  refresh(session) {
    this.#panel.refresh(session, this.#feed.find(this.#opened)?.title ?? "");
  }

  /** @param {EventFrame} event */
  applyEvent(event) {
    this.#panel.applyEvent(event);
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

  #onRoute() {
    const open = currentRoute();
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

  #addShortcuts() {
    new Shortcuts([
      { key: "j", description: "Next alert", run: () => this.#move(1), repeats: true },
      { key: "k", description: "Previous alert", run: () => this.#move(-1), repeats: true },
      { key: "Enter", description: "Open the selected alert", run: () => this.#open() },
      { key: "Escape", description: "Back to the list", run: () => (this.#opened ? this.#close() : false) },
      { key: "a", description: "Acknowledge", run: () => this.#run("acknowledge") },
      { key: "r", description: "Resolve, or reopen what is over", run: () => this.#run("resolve", "reopen") },
      { key: "c", description: "Comment", run: () => this.#comment() },
      { key: "/", description: "Search", run: () => this.#search() },
    ]);
  }

  /** @param {number} by */
  #move(by) {
    if (!this.#isFeedVisible()) return false;
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
    if (!this.#isFeedVisible() || this.#opened || !id) return false;
    go({ name: "alert", id });
    return true;
  }

  /** @param {...Action} actions  The first that leads on from where the alert is. */
  #run(...actions) {
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
    if (!this.#isFeedVisible()) return false;
    const field = byId("filter-text");
    if (!field.checkVisibility()) this.#close(); // On a phone the alert stands in its place.
    field.focus();
    return true;
  }

  /** The alert that keys are for. */
  #target() {
    return this.#isFeedVisible() ? focusedPinnedAlert() || this.#opened || this.#feed.selected : null;
  }

  #isFeedVisible() {
    return currentRoute().name === "feed" || currentRoute().name === "alert";
  }

  /** @param {string} id @returns {ActionableAlert | null} */
  #find(id) {
    const open = this.#panel.alert;
    return open?.id === id ? open : this.#feed.find(id);
  }

  /** @param {string} id @param {string} message */
  #showError(id, message) {
    if (!this.#panel.showError(id, message) && message) this.#showNotice(`${isolated(this.#titleOf(id))}: ${message}`);
  }

  /** @param {Alert} alert */
  #applyResponse(alert) {
    this.#panel.applyResponse(alert);
    this.#feed.applyResponse(alert);
  }

  /** @param {string} id */
  #titleOf(id) {
    return this.#feed.find(id)?.title ?? "The alert";
  }
}

/** The id of the pinned alert that has the focus; empty: none has. */
function focusedPinnedAlert() {
  const link = /** @type {HTMLAnchorElement | null | undefined} */ (document.activeElement?.closest("#pinned a"));
  const target = link && routeOf(link.hash);
  return target?.name === "alert" ? target.id : "";
}
