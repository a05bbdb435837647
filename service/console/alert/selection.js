/**
 * The selected alert of the feed and the open alert beside it, kept in step with each other, the address and the keyboard.
 *
 * A shortcut acts on the pinned alert with the focus, or else on the open alert, or else on the selected one. Opening an
 * alert moves the focus to it, and closing moves the focus back to its row.
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
/** @import { SightingObserver } from "../ui/sighting-observer.js" */

export class Selection {
  #feed;
  #panel;
  #actions;
  #showNotice;
  #opened = "";

  /**
   * @param {Feed} feed
   * @param {() => Session | null} session
   * @param {SightingObserver} sightings
   * @param {(message: string) => void} showNotice  For alerts that are not open.
   */
  constructor(feed, session, sightings, showNotice) {
    this.#feed = feed;
    this.#showNotice = showNotice;
    const showError = (/** @type {string} */ id, /** @type {string | Node} */ message) => this.#showError(id, message);
    this.#panel = new AlertPanel((action, id) => this.#actions.run(id, action), showError, sightings);
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

  /** The list was loaded: loads the open alert too. @param {Session} session */
  refresh(session) {
    this.#panel.refresh(session, this.#feed.find(this.#opened)?.title ?? "");
  }

  /** @param {EventFrame} event */
  applyEvent(event) {
    this.#panel.applyEvent(event);
  }

  /** The history of the log changed: what happened after a seq is void; null: all may be. @param {number | null} after */
  invalidate(after) {
    this.#panel.invalidate(after);
  }

  onLive() {
    this.#panel.onLive();
  }

  clear() {
    this.#panel.clear();
  }

  /** Moves the focus to the open alert, or to the feed. */
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
      this.#feed.reveal(this.#opened); // So that j and k continue from there.
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
      this.#panel.focus(); // Also if there was no further alert.
    }
    return true;
  }

  #open() {
    const id = this.#feed.selected;
    if (!this.#isFeedVisible() || this.#opened || !id) return false;
    go({ name: "alert", id });
    return true;
  }

  /** @param {...Action} actions  The first that applies is run. */
  #run(...actions) {
    const id = this.#target();
    if (!id) return false;
    if (id === this.#opened || this.#find(id)) this.#actions.run(id, ...actions);
    else go({ name: "alert", id }); // A pinned alert that is not loaded is opened first.
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
    if (!field.checkVisibility()) this.#close(); // On a phone the open alert covers the feed.
    field.focus();
    return true;
  }

  /** The alert that shortcuts act on. */
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

  /** @param {string} id @param {string | Node} message */
  #showError(id, message) {
    if (this.#panel.showError(id, message) || !message) return;
    const text = typeof message === "string" ? message : message.textContent;
    this.#showNotice(`${isolated(this.#titleOf(id))}: ${text}`);
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

/** The id of the pinned alert with the focus, or an empty string. */
function focusedPinnedAlert() {
  const link = /** @type {HTMLAnchorElement | null | undefined} */ (document.activeElement?.closest("#pinned a"));
  const target = link && routeOf(link.hash);
  return target?.name === "alert" ? target.id : "";
}
