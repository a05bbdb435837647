/**
 * One alert, beside the feed: what it says, what happened to it, who has it, and what to do about it.
 *
 *     closed --open(id)--> loading --its timeline and itself--> shown, placed in the log
 *                             |                                   ^
 *                             +--> missing: it says why ----------+  (on events, and when the stream is live again)
 *
 * An event of the stream is newer than those before it, by `seq`. What a request brings is shown where it is not older
 * than what is shown, by `updated_at`. Events are compared with it in the same way until its timeline is there, which
 * tells where in the log it stands: the stream may still be catching up with what it says already.
 */

import { ApiError } from "../auth/rest-api.js";
import { statusOf } from "../feed/alert-row.js";
import { byId, element, foreign } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";
import { keepAgesCurrent, keepCountdownsCurrent } from "../ui/live-times.js";
import { isAllowed, leadsOn, MANAGE } from "./actions.js";
import { contentOf, factsOf } from "./alert-details.js";
import { CommentForm } from "./comment-form.js";
import { Receipts } from "./receipts.js";
import { Timeline } from "./timeline.js";

/** @import { Alert, EventFrame, TimelinePage } from "../stream/wire-types.js" */
/** @import { Action, Prediction } from "./actions.js" */
/** @import { Session } from "../auth/session.js" */

const PAGE = 500;
const MAX_PAGES = 4;
const ALERT = "The alert";
const TIMELINE = "What happened to it";
const ID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

export class AlertPanel {
  #panel = byId("detail");
  #shown = byId("detail-shown");
  #missing = byId("detail-missing");
  #retry = byId("detail-retry");
  #title = byId("detail-title");
  #head = byId("detail-head");
  #content = byId("detail-content");
  #facts = byId("detail-facts");
  #message = byId("detail-message");
  #hint = byId("detail-hint");
  #more = byId("timeline-more");
  #buttons = /** @type {NodeListOf<HTMLButtonElement>} */ (this.#panel.querySelectorAll("[data-action]"));
  #timeline = new Timeline(byId("timeline"));
  #receipts = new Receipts(byId("receipts-summary"), byId("receipts"));
  #comments;

  /** @type {Session | null} */ #session = null;
  /** @type {Alert | null} */ #alert = null;
  /** @type {Prediction | null} */ #prediction = null;
  #position = -1;
  #isPlaced = false; // Whether that holds for what was loaded too.
  #wanted = ""; // The id that is open, whether or not there is such an alert.
  #attempt = 0; // Numbers the loads: what an earlier one brings is ignored.
  /** @type {string | null} */ #next = null;
  #isIncomplete = false; // What was asked for last did not all come.
  /** What could not be loaded, and why. @type {Map<string, string>} */ #problems = new Map();
  #shownContent = "";
  #wantsToComment = false;

  /**
   * @param {(action: Action, id: string) => void} act
   * @param {(id: string, message: string) => void} say  Says what went wrong, also of an alert that is no longer open.
   */
  constructor(act, say) {
    this.#comments = new CommentForm(this.#timeline, say);
    for (const button of this.#buttons) {
      button.addEventListener("click", () => {
        if (button.ariaDisabled !== "true") act(/** @type {Action} */ (button.dataset.action), this.#wanted);
      });
    }
    this.#retry.addEventListener("click", () => this.#load());
    this.#more.addEventListener("click", () => this.#try(TIMELINE, () => this.#loadTimeline(this.#attempt)));
    keepAgesCurrent(this.#panel);
    keepCountdownsCurrent(this.#panel);
  }

  /** The alert that is shown. */
  get alert() {
    return this.#alert;
  }

  /**
   * Opens an alert, or closes the one that is open.
   * @param {string} id     Empty: none.
   * @param {string} title  Where it is known: the focus is about to go there.
   */
  open(id, title) {
    if (id === this.#wanted) return;
    this.#wanted = id;
    this.#reset();
    this.#entitle(title);
    if (id) this.#load();
  }

  /** Somebody is signed in, or what is shown may have been passed over. @param {Session} session @param {string} title */
  refresh(session, title) {
    this.#session = session;
    if (!this.#alert) this.#entitle(title);
    if (this.#wanted) this.#load();
  }

  /** Somebody signed out. */
  clear() {
    this.#session = null;
    this.#reset();
    this.#comments.clear();
  }

  focus() {
    this.#title.focus();
  }

  /** Puts the cursor where one writes a comment, once the alert is there, or says why one may not. */
  comment() {
    this.#wantsToComment = !this.#alert;
    if (!this.#alert || this.#comments.focus()) return;
    this.say(this.#alert.id, `To comment, your token needs the scope ${MANAGE}.`);
  }

  /** The stream is live again: what could not be loaded may be there now. */
  onLive() {
    if (this.#wanted && this.#isIncomplete) this.#load();
    else this.#receipts.soon();
  }

  /** @param {EventFrame} event */
  apply(event) {
    if (event.alert.id !== this.#wanted) return;
    const { alert, seq, kind, at, actor, comment } = event;
    const { status, severity, occurrences } = alert;
    this.#timeline.add([{ seq, kind, at, actor, comment, status, severity, occurrences }]);
    const isOlder = !this.#isPlaced && this.#alert !== null && alert.updated_at < this.#alert.updated_at;
    if (seq > this.#position && !isOlder) {
      this.#position = seq;
      this.#alert = alert;
      this.#render();
    }
    this.#receipts.soon();
  }

  /** What a request brought. @param {Alert} alert */
  take(alert) {
    if (alert.id !== this.#wanted) return;
    if (this.#alert && alert.updated_at < this.#alert.updated_at) return;
    this.#alert = alert;
    this.#render();
  }

  /** Where an action that is under way leads; null: it is over. @param {string} id @param {Prediction | null} prediction */
  predict(id, prediction) {
    if (id !== this.#wanted) return;
    this.#prediction = prediction;
    this.#render();
  }

  /** Says what went wrong. Returns whether the alert is here. @param {string} id @param {string} message */
  say(id, message) {
    if (id !== this.#wanted) return false;
    this.#message.textContent = message;
    this.#message.hidden = !message;
    return true;
  }

  #reset() {
    this.#attempt += 1;
    this.#alert = this.#prediction = this.#next = null;
    this.#position = -1;
    this.#isPlaced = this.#isIncomplete = this.#wantsToComment = false;
    this.#timeline.clear();
    this.#receipts.close();
    this.say(this.#wanted, "");
    this.#shown.hidden = this.#more.hidden = true;
    this.#shownContent = "";
    for (const part of [this.#head, this.#content, this.#facts]) part.replaceChildren();
    this.#panel.scrollTop = 0;
    this.#problems.clear();
    this.#explain();
    this.#entitle("");
  }

  /** @param {string} title  Empty: it is not known yet. */
  #entitle(title) {
    this.#title.replaceChildren(title ? foreign("", title) : "Loading …");
  }

  async #load() {
    const [session, id] = [this.#session, this.#wanted];
    if (!session) return;
    const attempt = ++this.#attempt;
    this.#isPlaced = this.#isIncomplete = false;
    if (!ID.test(id)) return this.#refuse(`There is no alert “${id}”.`);
    this.#next = null;
    const [alert, isToldAll] = await Promise.all([
      this.#try(ALERT, () => this.#loadAlert(session, attempt)),
      this.#try(TIMELINE, () => this.#loadTimeline(attempt)),
    ]);
    if (alert && isToldAll && attempt === this.#attempt) this.#place(alert);
  }

  /** @param {Session} session @param {number} attempt */
  async #loadAlert(session, attempt) {
    /** @type {Alert} */ const alert = await session.get(`/v1/alerts/${this.#wanted}`);
    if (attempt === this.#attempt) this.take(alert);
    return alert;
  }

  /** From the newest events back. Returns whether they are here. @param {number} attempt */
  async #loadTimeline(attempt) {
    const [session, id] = [this.#session, this.#wanted];
    for (let pages = 0; session && pages < MAX_PAGES; pages += 1) {
      const cursor = this.#next ? `&cursor=${encodeURIComponent(this.#next)}` : "";
      const path = `/v1/alerts/${id}/timeline?order=desc&limit=${PAGE}${cursor}`;
      /** @type {TimelinePage} */ const { events, next } = await session.get(path);
      if (attempt !== this.#attempt) return false;
      this.#timeline.add(events);
      this.#next = next;
      if (!next) break;
    }
    this.#more.hidden = !this.#next;
    this.#render(); // Only the timeline tells when it occurred.
    return true;
  }

  /** The timeline of what was loaded is here, and with it the place in the log. @param {Alert} alert */
  #place(alert) {
    const position = this.#timeline.positionAt(alert.updated_at);
    this.#isPlaced = true;
    if (position <= this.#position) return; // An event that came meanwhile is newer.
    this.#position = position;
    this.#alert = alert;
    this.#render();
  }

  /**
   * @template Part
   * @param {string} name  Of what is loaded.
   * @param {() => Promise<Part>} load
   * @returns {Promise<Part | null>}  Null: it could not be.
   */
  async #try(name, load) {
    const attempt = this.#attempt;
    this.#problems.delete(name);
    this.#explain();
    try {
      return await load();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (attempt === this.#attempt) this.#failed(name, error);
      return null;
    }
  }

  /** @param {string} name @param {ApiError} error */
  #failed(name, error) {
    if (error.status === 404) return this.#refuse("There is no such alert, or none that you may see.");
    this.#isIncomplete = true;
    this.#problems.set(name, `${explain(error.reason)} ${name} could not be loaded.`);
    this.#explain();
  }

  /** @param {string} text */
  #refuse(text) {
    this.#attempt += 1;
    this.#alert = null;
    this.#isIncomplete = false;
    this.#shown.hidden = true;
    this.#receipts.close();
    this.#title.replaceChildren("No such alert");
    this.#problems = new Map([[ALERT, text]]);
    this.#explain();
  }

  /** Says what could not be loaded, and why. */
  #explain() {
    const text = this.#problems.get(ALERT) ?? this.#problems.get(TIMELINE) ?? "";
    const mayRetry = text !== "" && this.#isIncomplete;
    if (!mayRetry && document.activeElement === this.#retry) this.focus(); // The button would take the focus with it.
    this.#missing.textContent = text;
    this.#missing.hidden = !text;
    this.#retry.hidden = !mayRetry;
  }

  #render() {
    const [session, actual] = [this.#session, this.#alert];
    if (!session || !actual) return;
    const alert = { ...actual, ...this.#prediction };
    const isNew = this.#shown.hidden;
    this.#shown.hidden = false;
    if (this.#problems.delete(ALERT)) this.#explain();
    Object.assign(this.#panel.dataset, { severity: alert.severity, status: alert.status });
    this.#panel.setAttribute("aria-busy", String(this.#prediction !== null));
    if (this.#title.textContent !== alert.title) this.#title.replaceChildren(foreign("", alert.title));
    this.#head.replaceChildren(...headOf(alert));
    this.#facts.replaceChildren(...factsOf(alert, this.#timeline.occurredAt(alert.occurrences)));
    this.#renderContent(alert);
    this.#renderButtons(session, alert);
    this.#receipts.open(session, actual);
    if (isNew) this.#comments.open(session, alert.id);
    if (this.#wantsToComment) this.comment();
  }

  /** Only when it changed: replacing a link would take the focus from whoever is on it. @param {Alert} alert */
  #renderContent(alert) {
    const content = JSON.stringify([alert.body, alert.attributes, alert.links]);
    if (content === this.#shownContent) return;
    this.#shownContent = content;
    this.#content.replaceChildren(...contentOf(alert));
  }

  /** @param {Session} session @param {Alert} alert */
  #renderButtons(session, alert) {
    for (const button of this.#buttons) {
      const action = /** @type {Action} */ (button.dataset.action);
      // Not `disabled`, which would take the focus from the button that was just pressed.
      button.ariaDisabled = String(!leadsOn(action, alert) || !isAllowed(session, action, alert));
    }
    this.#hint.hidden = session.may(MANAGE);
  }
}

/** @param {Alert} alert */
function headOf(alert) {
  const status = statusOf(alert);
  status.dataset.testid = "status";
  return [
    element("span", "severity", alert.severity),
    status,
    element("span", "origin", foreign("topic", alert.topic), " from ", foreign("source", alert.source)),
  ];
}
