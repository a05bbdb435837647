/**
 * The open alert, beside the feed: its content, its timeline, its receipts and its actions.
 *
 *     closed --open(id)--> loading --alert and timeline--> shown, position in the log known
 *                             |                              ^
 *                             +--> missing, with the reason -+  (on events, and when the stream is live again)
 *
 * newest-version.js decides which of the versions that events and responses bring is shown.
 */

import { ApiError } from "../auth/rest-api.js";
import { statusOf } from "../feed/alert-row.js";
import { byId, element, foreign } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";
import { person } from "../ui/people.js";
import { isAllowed, isApplicable, MANAGE } from "./actions.js";
import { contentOf, factsOf } from "./alert-details.js";
import { CommentForm } from "./comment-form.js";
import { NewestVersion } from "./newest-version.js";
import { Receipts } from "./receipts.js";
import { Timeline } from "./timeline.js";

/** @import { Alert, EventFrame, TimelinePage } from "../stream/wire-types.js" */
/** @import { Action, Prediction } from "./actions.js" */
/** @import { Session } from "../auth/session.js" */
/** @import { SightingObserver } from "../ui/sighting-observer.js" */

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
  #sightings;

  /** @type {Session | null} */ #session = null;
  #newest = new NewestVersion();
  /** @type {Prediction | null} */ #prediction = null;
  #openId = ""; // Whether or not there is such an alert.
  #attempt = 0; // Numbers the loads: responses to an earlier one are ignored.
  /** @type {string | null} */ #next = null;
  #isIncomplete = false; // A part could not be loaded.
  /** Why a part could not be loaded. @type {Map<string, string>} */ #problems = new Map();
  #shownContent = "";
  #focusCommentWhenLoaded = false;

  /**
   * @param {(action: Action, id: string) => void} runAction
   * @param {(id: string, message: string | Node) => void} showError  Also for an alert that is no longer open.
   * @param {SightingObserver} sightings
   */
  constructor(runAction, showError, sightings) {
    this.#sightings = sightings;
    this.#comments = new CommentForm(this.#timeline, showError);
    for (const button of this.#buttons) {
      button.addEventListener("click", () => {
        if (button.ariaDisabled !== "true") runAction(/** @type {Action} */ (button.dataset.action), this.#openId);
      });
    }
    this.#retry.addEventListener("click", () => this.#load());
    this.#more.addEventListener("click", () => this.#try(TIMELINE, () => this.#loadTimeline(this.#attempt)));
  }

  /** The shown alert. */
  get alert() {
    return this.#newest.alert;
  }

  /**
   * Opens an alert, or closes the open one.
   * @param {string} id     Empty: none.
   * @param {string} title  Empty: unknown.
   */
  open(id, title) {
    if (id === this.#openId) return;
    this.#openId = id;
    this.#reset();
    this.#showTitle(title);
    if (id) this.#load();
  }

  /** A session began, or events may have been missed. @param {Session} session @param {string} title */
  refresh(session, title) {
    this.#session = session;
    if (!this.alert) this.#showTitle(title);
    if (this.#openId) this.#load();
  }

  /** The history of the log changed: what happened after a seq is void; null: all may be. @param {number | null} after */
  invalidate(after) {
    this.#attempt += 1;
    this.#isIncomplete = this.#openId !== "";
    this.#newest.invalidate(after);
    this.#timeline.invalidate(after);
  }

  /** The session ended. */
  clear() {
    this.#session = null;
    this.#reset();
    this.#comments.clear();
  }

  focus() {
    this.#title.focus();
  }

  /** Moves the focus to the comment field, once the alert is loaded, or says why commenting is not allowed. */
  comment() {
    this.#focusCommentWhenLoaded = !this.alert;
    if (!this.alert || this.#comments.focus()) return;
    this.showError(this.alert.id, `To comment, your token needs the scope ${MANAGE}.`);
  }

  /** The stream is live again: what could not be loaded is asked for again. */
  onLive() {
    if (this.#openId && this.#isIncomplete) this.#load();
    else this.#receipts.reloadSoon();
  }

  /** @param {EventFrame} event */
  applyEvent(event) {
    if (event.alert.id !== this.#openId) return;
    const { alert, seq, kind, at, actor, comment } = event;
    const { status, severity, occurrences, title, body } = alert;
    this.#timeline.add([{ seq, kind, at, actor, comment, status, severity, occurrences, title, body }]);
    if (this.#newest.applyEvent(event)) this.#render();
    this.#receipts.reloadSoon();
  }

  /** Shows an alert as a response has it. @param {Alert} alert */
  applyResponse(alert) {
    if (alert.id === this.#openId && this.#newest.applyResponse(alert)) this.#render();
  }

  /** Shows what a running action will lead to; null: the action is over. @param {string} id @param {Prediction | null} prediction */
  predict(id, prediction) {
    if (id !== this.#openId) return;
    this.#prediction = prediction;
    this.#render();
  }

  /** Shows an error. Returns whether its alert is open. @param {string} id @param {string | Node} message */
  showError(id, message) {
    if (id !== this.#openId) return false;
    this.#message.replaceChildren(message);
    this.#message.hidden = !message;
    return true;
  }

  #reset() {
    this.#attempt += 1;
    this.#newest.reset();
    this.#prediction = this.#next = null;
    this.#isIncomplete = this.#focusCommentWhenLoaded = false;
    this.#timeline.clear();
    this.#receipts.close();
    this.showError(this.#openId, "");
    this.#shown.hidden = this.#more.hidden = true;
    this.#shownContent = "";
    for (const part of [this.#head, this.#content, this.#facts]) part.replaceChildren();
    this.#panel.scrollTop = 0;
    this.#problems.clear();
    this.#showProblems();
    this.#showTitle("");
  }

  /** @param {string} title  Empty: unknown. */
  #showTitle(title) {
    this.#title.replaceChildren(title ? foreign("", title) : "Loading …");
  }

  async #load() {
    const [session, id] = [this.#session, this.#openId];
    if (!session) return;
    const attempt = ++this.#attempt;
    this.#newest.expectResponse();
    this.#isIncomplete = false;
    if (!ID.test(id)) return this.#showMissing(`There is no alert “${id}”.`);
    this.#next = null;
    const [alert, hasTimeline] = await Promise.all([
      this.#try(ALERT, () => this.#loadAlert(session, attempt)),
      this.#try(TIMELINE, () => this.#loadTimeline(attempt)),
    ]);
    if (!alert || !hasTimeline || attempt !== this.#attempt) return;
    if (this.#newest.applyPosition(alert, this.#timeline.positionAt(alert.updated_at))) this.#render();
  }

  /** @param {Session} session @param {number} attempt */
  async #loadAlert(session, attempt) {
    /** @type {Alert} */ const alert = await session.get(`v1/alerts/${this.#openId}`);
    if (attempt === this.#attempt) this.applyResponse(alert);
    return alert;
  }

  /** Loads events from the newest back. Returns whether they were loaded. @param {number} attempt */
  async #loadTimeline(attempt) {
    const [session, id] = [this.#session, this.#openId];
    for (let pages = 0; session && pages < MAX_PAGES; pages += 1) {
      const cursor = this.#next ? `&cursor=${encodeURIComponent(this.#next)}` : "";
      const path = `v1/alerts/${id}/timeline?order=desc&limit=${PAGE}${cursor}`;
      /** @type {TimelinePage} */ const { events, next } = await session.get(path);
      if (attempt !== this.#attempt) return false;
      this.#timeline.addPage(events);
      this.#next = next;
      if (!next) break;
    }
    this.#more.hidden = !this.#next;
    this.#render(); // When the alert last occurred is only in the timeline.
    return true;
  }

  /**
   * @template Part
   * @param {string} name  Of the part.
   * @param {() => Promise<Part>} load
   * @returns {Promise<Part | null>}  Null: it could not be.
   */
  async #try(name, load) {
    const attempt = this.#attempt;
    this.#problems.delete(name);
    this.#showProblems();
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
    if (error.status === 404) return this.#showMissing(this.#missingText);
    this.#isIncomplete = true;
    this.#problems.set(name, `${explain(error.reason)} ${name} could not be loaded.`);
    this.#showProblems();
  }

  get #missingText() {
    if (!this.#newest.isVoid) return "There is no such alert, or none that you may see.";
    const unsent = this.#comments.unsent(this.#openId);
    return `The alert was lost by the database's failover.${unsent && ` Your comment was not sent: “${unsent}”`}`;
  }

  /** @param {string} text */
  #showMissing(text) {
    this.#attempt += 1;
    if (this.#shown.contains(document.activeElement)) this.focus();
    this.#newest.reset();
    this.#isIncomplete = false;
    this.#shown.hidden = true;
    this.#receipts.close();
    this.#title.replaceChildren("No such alert");
    this.#problems = new Map([[ALERT, text]]);
    this.#showProblems();
  }

  /** Shows which part could not be loaded, and why. */
  #showProblems() {
    const text = this.#problems.get(ALERT) ?? this.#problems.get(TIMELINE) ?? "";
    const mayRetry = text !== "" && this.#isIncomplete;
    if (!mayRetry && document.activeElement === this.#retry) this.focus(); // The button with the focus is about to be hidden.
    this.#missing.textContent = text;
    this.#missing.hidden = !text;
    this.#retry.hidden = !mayRetry;
  }

  #render() {
    const [session, actual] = [this.#session, this.alert];
    if (!session || !actual) return;
    const alert = { ...actual, ...this.#prediction };
    const isNew = this.#shown.hidden;
    this.#shown.hidden = false;
    if (this.#problems.delete(ALERT)) this.#showProblems();
    Object.assign(this.#panel.dataset, { severity: alert.severity, status: alert.status });
    this.#panel.setAttribute("aria-busy", String(this.#prediction !== null));
    if (this.#title.textContent !== alert.title) this.#title.replaceChildren(foreign("", alert.title));
    this.#head.replaceChildren(...headOf(alert));
    this.#facts.replaceChildren(...factsOf(alert, this.#timeline.occurredAt(alert.occurrences)));
    this.#renderContent(alert);
    this.#renderButtons(session, alert);
    this.#receipts.open(session, actual);
    if (isNew) this.#comments.open(session, alert.id);
    if (isNew) this.#sightings.observe(this.#head, alert.id);
    if (this.#focusCommentWhenLoaded) this.comment();
  }

  /** Replaces the content only if it changed: a link in it may have the focus. @param {Alert} alert */
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
      // Not `disabled`: the button that was just pressed would lose the focus.
      button.ariaDisabled = String(!isApplicable(action, alert) || !isAllowed(session, action, alert));
    }
    this.#hint.hidden = session.hasScope(MANAGE);
  }
}

/** @param {Alert} alert */
function headOf(alert) {
  const status = statusOf(alert);
  status.dataset.testid = "status";
  return [
    element("span", "severity", alert.severity),
    status,
    element("span", "origin", foreign("topic", alert.topic), " from ", person("source", alert.source)),
  ];
}
