/**
 * One alert as a row of the feed.
 *
 * All strings of an alert are untrusted. Each becomes text in a bidi isolate.
 */

import { element, foreign } from "../ui/dom.js";
import { age } from "../ui/live-times.js";
import { person } from "../ui/people.js";

/** @import { Item, AlertSummary } from "./alert-store.js" */

const FRESH_MS = 1_000;

export class AlertRow {
  #version = 0;

  /** @param {string} id */
  constructor(id) {
    const attributes = { class: "alert", role: "option", id: `alert-${id}`, "data-testid": "alert", "data-id": id };
    this.element = element("div", attributes);
  }

  /** Shows the alert, if it changed since the last call. @param {Item} item */
  update(item) {
    if (item.version === this.#version) return;
    this.#version = item.version;
    const { seq, changedAt } = item;
    const alert = { ...item.alert, ...item.prediction };
    Object.assign(this.element.dataset, { seq, severity: alert.severity, status: alert.status });
    this.element.replaceChildren(
      element("span", "severity", alert.severity),
      titleOf(alert),
      statusOf(alert),
      originOf(alert),
      age(alert.created_at),
    );
    if (Date.now() - changedAt < FRESH_MS) this.#highlight();
  }

  /**
   * Sets the position in the list, for screen readers.
   * @param {number} position  From 1.
   * @param {number} size      -1: unknown.
   * @param {boolean} selected
   */
  setPosition(position, size, selected) {
    const { element } = this;
    // Only if changed: with hundreds of alerts a second, each write matters.
    if (element.ariaPosInSet !== String(position)) element.ariaPosInSet = String(position);
    if (element.ariaSetSize !== String(size)) element.ariaSetSize = String(size);
    if (element.ariaSelected !== String(selected)) element.ariaSelected = String(selected);
  }

  /** Highlights the row once. */
  #highlight() {
    this.element.classList.add("fresh");
    this.element.addEventListener("animationend", () => this.element.classList.remove("fresh"), { once: true });
  }
}

/** The title; where it is cut off, the tooltip has all of it. @param {AlertSummary} alert */
export function titleOf({ title }) {
  const node = foreign("title", title);
  node.title = title;
  return node;
}

/** Topic, source and number of occurrences. @param {AlertSummary} alert */
export function originOf({ topic, source, occurrences }) {
  const origin = element("span", "origin", foreign("topic", topic), " from ", person("source", source));
  if (occurrences > 1) origin.append(element("span", "occurrences", `${occurrences} times`));
  return origin;
}

/** The status, and who acknowledged or resolved the alert. @param {Pick<AlertSummary, "status" | "status_by">} alert */
export function statusOf({ status, status_by }) {
  const by = status === "acknowledged" || status === "resolved" ? [" by ", person("", status_by)] : [];
  return element("span", "status", status, ...by);
}
