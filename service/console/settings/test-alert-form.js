/**
 * A test alert: posted like any other, so that it shows whether and how fast alerts arrive.
 */

import { ApiError } from "../auth/rest-api.js";
import { SEVERITIES, TOPIC } from "../stream/wire-constants.js";
import { element } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";

/** @import { EventFrame } from "../stream/wire-types.js" */
/** @import { Session } from "../auth/session.js" */

const SCOPE = "alerts:write";
const ALERT = { title: "Test alert", body: "Raised from the settings of the console. There is nothing to do." };
const REMEMBERED_MAX = 100;

export class TestAlertForm {
  #session;
  #topic = element("input", { id: "test-topic", maxlength: "100", autocomplete: "off", spellcheck: "false" });
  #severity = element(
    "select",
    { id: "test-severity" },
    ...SEVERITIES.map((name) => element("option", { value: name }, name)),
  );
  #send = element("button", { type: "submit" }, "Send a test alert");
  #outcome = element("p", { class: "outcome", "data-testid": "test-outcome", role: "status" });
  #form;
  #scopeHint = element("p", { class: "hint", "data-testid": "test-refusal" });
  /** When the newest alerts arrived, by id: the event may arrive before the response. @type {Map<string, number>} */ #arrivedAt =
    new Map();
  /** @type {{id: string, sentAt: number, accepted: string} | null} */ #sent = null;

  /** @param {() => Session | null} session */
  constructor(session) {
    this.#session = session;
    this.#topic.required = true;
    this.#topic.pattern = TOPIC.source.replaceAll("_-]", "_\\-]"); // The attribute has the syntax of the flag `v`.
    this.#topic.title = "Parts of a-z, 0-9, _ and -, with dots between them";
    this.#form = element(
      "form",
      "test",
      element("label", { for: "test-topic" }, "Topic"),
      this.#topic,
      element("label", { for: "test-severity" }, "Severity"),
      this.#severity,
      this.#send,
    );
    this.element = element("div", "", this.#scopeHint, this.#form, this.#outcome);
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
  }

  /** @param {string[]} scopes @param {string[] | null} topics  Patterns, null for all. */
  showToken(scopes, topics) {
    const may = scopes.includes(SCOPE);
    this.#form.hidden = !may;
    this.#scopeHint.hidden = may;
    this.#scopeHint.textContent = `Your token does not allow raising alerts; that needs the scope ${SCOPE}.`;
    const [first = "*"] = topics ?? [];
    if (!this.#topic.value) this.#topic.value = first === "*" ? "test" : first.replace(/\*$/, "test");
  }

  /** @param {EventFrame} event */
  applyEvent({ kind, alert }) {
    if (kind !== "alert.created") return;
    this.#arrivedAt.set(alert.id, Date.now());
    for (const id of this.#arrivedAt.keys()) if (this.#arrivedAt.size > REMEMBERED_MAX) this.#arrivedAt.delete(id);
    this.#showRoundTrip();
  }

  /** The session ended. */
  clear() {
    this.#sent = null;
    this.#arrivedAt.clear();
    this.#topic.value = "";
    this.#outcome.textContent = "";
  }

  async #submit() {
    const session = this.#session();
    if (!session) return;
    const sentAt = Date.now();
    this.#sent = null;
    this.#send.disabled = true;
    this.#outcome.textContent = "Sending …";
    try {
      const body = { ...ALERT, topic: this.#topic.value, severity: this.#severity.value };
      const { id, seq } = await session.post("v1/alerts", { body });
      this.#sent = { id, sentAt, accepted: `Stored as number ${seq} of the log after ${Date.now() - sentAt} ms.` };
      this.#outcome.textContent = `${this.#sent.accepted} It has not come back to this page yet.`;
      this.#showRoundTrip();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      this.#outcome.textContent = `It was not sent. ${explain(error.reason)}`;
    } finally {
      this.#send.disabled = false;
    }
  }

  /** Shows how long the round trip took, once both response and event are there. */
  #showRoundTrip() {
    const arrivedAt = this.#sent && this.#arrivedAt.get(this.#sent.id);
    if (!this.#sent || arrivedAt === null || arrivedAt === undefined) return;
    const { sentAt, accepted } = this.#sent;
    this.#outcome.textContent = `${accepted} It came back to this page ${arrivedAt - sentAt} ms after it was sent.`;
    this.#sent = null;
  }
}
