/**
 * The content and the details of an alert, as elements.
 *
 * All strings of an alert are untrusted. Each becomes text in a bidi isolate, and a link only if it is a web address.
 */

import { element, foreign } from "../ui/dom.js";
import { secondOfDay } from "../ui/format.js";
import { age, countdown } from "../ui/live-times.js";
import { person } from "../ui/people.js";
import { linkTo } from "./links.js";
import { render } from "./markdown.js";

/** @import { Alert } from "../stream/wire-types.js" */

/** Body, attributes and links. @param {Alert} alert @returns {HTMLElement[]} */
export function contentOf({ body, attributes, links }) {
  const parts = [];
  if (body) parts.push(element("div", { class: "markdown", "data-testid": "body" }, ...render(body)));
  const rows = Object.entries(attributes).map(([name, value]) =>
    element(
      "tr",
      "",
      element("th", { scope: "row" }, foreign("", name)),
      element("td", "", foreign("", asText(value))),
    ),
  );
  if (rows.length) {
    const caption = element("caption", "for-screen-readers", "Attributes");
    parts.push(element("table", "attributes", caption, element("tbody", "", ...rows)));
  }
  if (links.length) {
    parts.push(element("ul", "links", ...links.map(({ title, url }) => element("li", "", linkTo(title, url)))));
  }
  return parts;
}

/**
 * Source, times, recipients, and what is due.
 * @param {Alert} alert
 * @param {string | null} occurredAt  When it occurred last; null: unknown.
 * @returns {HTMLElement[]}
 */
export function factsOf(alert, occurredAt) {
  const isUnresolved = alert.status === "open" || alert.status === "acknowledged";
  const facts = [
    pair("Raised", age(alert.created_at), " by ", person("", alert.source), `, ${clock(alert.created_at)}`),
  ];
  if (alert.occurrences > 1) {
    const last = occurredAt ? [", the last of them ", age(occurredAt)] : [];
    facts.push(pair("Occurred", `${alert.occurrences} times`, ...last));
  }
  const { escalate_at: escalates, expires_at: expires } = alert;
  if (escalates && alert.status === "open")
    facts.push(pair("Goes to all", countdown(escalates), ", unless acknowledged"));
  if (expires && isUnresolved) facts.push(pair("Expires", countdown(expires)));
  if (alert.recipients) facts.push(pair("For", ...separated(alert.recipients.map((subject) => person("", subject)))));
  if (alert.dedup_key) facts.push(pair("Dedup key", foreign("", alert.dedup_key)));
  facts.push(pair("Alert", element("code", "", alert.id)));
  return facts.flat();
}

/** @param {string} timestamp */
function clock(timestamp) {
  return secondOfDay(Date.parse(timestamp));
}

/** @param {Node[]} nodes */
function separated(nodes) {
  return nodes.flatMap((node, index) => (index ? [", ", node] : [node]));
}

/** @param {string} name @param {...(Node | string)} value */
function pair(name, ...value) {
  return [element("dt", "", name), element("dd", "", ...value)];
}

/** @param {unknown} value */
function asText(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
