/**
 * One alert as a row of the feed: what matters in the summary line, the rest folded away beneath it.
 *
 * Every string here was written by someone else. It becomes text in a bidi isolate, and a link only where it leads to
 * http or https.
 */

import { element, foreign } from "./dom.js";
import { hashOf } from "./router.js";
import { age, exactTime } from "./time.js";

/** @import { Alert, EventFrame } from "./wire.js" */
/** @import { Prediction } from "./actions.js" */

export class Row {
  /** Where this row stands: rows with a higher place are above it. @type {number} */ place;
  /** The log position at which this row is true. */ position = -1;

  #summary = element("summary", "");
  #content = element("div", "content");
  #facts = element("dl", "facts");
  #shownContent = "";
  /** @type {Prediction | null} */ #prediction = null;
  /** @type {{seq: number, event?: EventFrame}} */ #at;

  /**
   * @param {Alert} alert
   * @param {number} place
   */
  constructor(alert, place) {
    this.alert = alert;
    this.place = place;
    this.#at = { seq: place };
    const details = element("details", "", this.#summary, element("div", "more", this.#content, this.#facts));
    this.element = element("li", { class: "alert", "data-testid": "alert", "data-id": alert.id }, details);
  }

  /**
   * Shows the alert as it was at a log position, unless the row knows better already.
   * @param {Alert} alert
   * @param {{position: number, seq: number, event?: EventFrame}} at
   */
  update(alert, { position, seq, event }) {
    if (position <= this.position) return;
    if (event) this.#highlight();
    this.position = position;
    this.alert = alert;
    this.#at = { seq, event };
    this.#render();
  }

  /** Where an action leads that is under way; null: it is over. @param {Prediction | null} prediction */
  predict(prediction) {
    this.#prediction = prediction;
    this.#render();
  }

  /** What a request says that the alert is now. @param {Alert} alert */
  take(alert) {
    if (alert.updated_at < this.alert.updated_at) return;
    this.alert = alert;
    this.#render();
  }

  focus() {
    this.#summary.focus();
  }

  #render() {
    const alert = { ...this.alert, ...this.#prediction };
    const { seq, event } = this.#at;
    Object.assign(this.element.dataset, { seq, severity: alert.severity, status: alert.status });
    this.#summary.replaceChildren(...summaryOf(alert));
    this.#facts.replaceChildren(...factsOf(alert, seq, event));
    // Only when it changed: replacing a link would take the focus from whoever is on it.
    const content = JSON.stringify([alert.body, alert.attributes, alert.links]);
    if (content === this.#shownContent) return;
    this.#shownContent = content;
    this.#content.replaceChildren(...contentOf(alert));
  }

  /** Draws the eye to the row, once. */
  #highlight() {
    this.element.classList.add("fresh");
    this.element.addEventListener("animationend", () => this.element.classList.remove("fresh"), { once: true });
  }
}

/** @param {Alert} alert */
function summaryOf(alert) {
  const origin = element("span", "origin", foreign("topic", alert.topic), " from ", foreign("source", alert.source));
  if (alert.occurrences > 1) origin.append(element("span", "occurrences", `${alert.occurrences} times`));
  return [
    element("span", "severity", alert.severity),
    foreign("title", alert.title),
    statusOf(alert),
    origin,
    age(alert.created_at),
  ];
}

/**
 * Who has it, or who brought it to an end.
 * @param {Alert} alert
 */
function statusOf({ status, status_by }) {
  const by = status === "acknowledged" || status === "resolved" ? [" by ", foreign("", status_by)] : [];
  return element("span", "status", status, ...by);
}

/** @param {Alert} alert */
function contentOf(alert) {
  const parts = [];
  if (alert.body) parts.push(element("p", { class: "body", dir: "auto" }, alert.body));
  const attributes = Object.entries(alert.attributes);
  if (attributes.length) {
    const pairs = attributes.flatMap(([name, value]) => pair(foreign("", name), foreign("", asText(value))));
    parts.push(element("dl", "attributes", ...pairs));
  }
  const links = alert.links.map((link) => element("li", "", linkTo(link)));
  if (links.length) parts.push(element("ul", "links", ...links));
  return parts;
}

/**
 * @param {Alert} alert
 * @param {number} seq
 * @param {EventFrame} [event]
 */
function factsOf(alert, seq, event) {
  const facts = [pair("Raised", exactTime(alert.created_at))];
  if (event) {
    const what = event.kind.replace("alert.", "");
    facts.push(pair("Last event", `${what} by `, foreign("", event.actor), `, ${exactTime(event.at)}`));
  }
  if (alert.escalate_at) facts.push(pair("Goes to all", exactTime(alert.escalate_at)));
  if (alert.expires_at) facts.push(pair("Expires", exactTime(alert.expires_at)));
  if (alert.recipients) facts.push(pair("For", foreign("", alert.recipients.join(", "))));
  if (alert.dedup_key) facts.push(pair("Dedup key", foreign("", alert.dedup_key)));
  facts.push(pair("Event", `seq ${seq}`), pair("Alert", element("a", { href: hashOf({ name: "alert", id: alert.id }) }, alert.id)));
  return facts.flat();
}

/**
 * @param {Node | string} name
 * @param {...(Node | string)} value
 */
function pair(name, ...value) {
  return [element("dt", "", name), element("dd", "", ...value)];
}

/** @param {unknown} value */
function asText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/**
 * A link that says where it leads, whatever its title claims; plain text where that is not the web.
 * @param {{title: string, url: string}} link
 */
function linkTo({ title, url }) {
  const target = URL.canParse(url) ? new URL(url) : null;
  if (target?.protocol !== "https:" && target?.protocol !== "http:") {
    return element("span", "", foreign("", title), " ", foreign("host", `not a web link: ${url}`));
  }
  const attributes = { href: target.href, target: "_blank", rel: "noopener noreferrer" };
  const anchor = element("a", attributes, foreign("", title || target.host));
  return element("span", "", anchor, " ", foreign("host", target.host));
}
