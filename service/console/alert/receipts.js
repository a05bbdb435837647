/**
 * The receipts of the open alert: who was sent it, received it and saw it, from the ledger, for tokens with one of SCOPES.
 *
 * They are reloaded while the page is visible: every 10 s, and soon after each event of the alert, because the ledger is
 * written a moment later.
 */

import { ApiError } from "../auth/rest-api.js";
import { element } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";
import { exactTime, formatDuration } from "../ui/format.js";
import { renderKeyed } from "../ui/keyed-list.js";
import { person } from "../ui/people.js";

/** @import { Alert, AlertReceipts, AlertRecipient } from "../stream/wire-types.js" */
/** @import { KeyedItem } from "../ui/keyed-list.js" */
/** @import { Session } from "../auth/session.js" */

const SCOPES = ["alerts:manage", "audit:read"];
const RELOAD_INTERVAL_MS = 10_000;
const RELOAD_AFTER_EVENT_MS = 700;
const PAGE = 200;
const MAX_PAGES = 5;

export class Receipts {
  #summary;
  #list;
  /** @type {Session | null} */ #session = null;
  /** @type {Pick<Alert, "id" | "created_at"> | null} */ #alert = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #dueAt = Infinity;
  #loading = false;

  /**
   * @param {HTMLElement} summary  How many have received it, or why that is unknown.
   * @param {HTMLElement} list     The recipients.
   */
  constructor(summary, list) {
    this.#summary = summary;
    this.#list = list;
    document.addEventListener("visibilitychange", () => document.hidden || this.reloadSoon());
  }

  /** @param {Session} session @param {Pick<Alert, "id" | "created_at">} alert */
  open(session, alert) {
    if (session === this.#session && alert.id === this.#alert?.id) return this.reloadSoon();
    this.close();
    this.#session = session;
    this.#alert = alert;
    if (mayLoad(session)) return void this.#load();
    this.#summary.replaceChildren(
      "To see who has received this alert, your token needs the scope ",
      element("code", "", SCOPES[0]),
      ".",
    );
  }

  close() {
    clearTimeout(this.#timer);
    this.#dueAt = Infinity;
    this.#session = this.#alert = null;
    this.#summary.replaceChildren();
    this.#list.replaceChildren();
  }

  /** The receipts may have changed. */
  reloadSoon() {
    if (this.#session && mayLoad(this.#session)) this.#loadIn(RELOAD_AFTER_EVENT_MS);
  }

  /** @param {number} delay  In ms; an earlier load stays due. */
  #loadIn(delay) {
    const dueAt = Date.now() + delay;
    if (dueAt >= this.#dueAt) return;
    this.#dueAt = dueAt;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#load(), delay);
  }

  async #load() {
    this.#dueAt = Infinity;
    if (document.hidden || !this.#session || !this.#alert) return;
    if (this.#loading) return this.#loadIn(RELOAD_AFTER_EVENT_MS);
    const alert = this.#alert;
    this.#loading = true;
    try {
      const receipts = await readAll(this.#session, alert.id);
      if (alert === this.#alert) this.#show(receipts, alert);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (alert === this.#alert)
        this.#summary.textContent = `Who has received it could not be asked. ${explain(error.reason)}`;
    } finally {
      this.#loading = false;
    }
    if (this.#alert) this.#loadIn(RELOAD_INTERVAL_MS);
  }

  /** @param {AlertReceipts} receipts @param {Pick<Alert, "created_at">} alert */
  #show({ counts, recipients }, alert) {
    const { recipients: all, received_by: some, seen_by: seen } = counts;
    const meter = element("meter", {
      max: String(all),
      value: String(some),
      "aria-label": "Admins who have received it",
    });
    const sawIt = seen && `; ${seen} ${seen === 1 ? "has" : "have"} seen it`;
    const receivedIt = `${some} of ${all} ${all === 1 ? "admin has" : "admins have"} received it`;
    const text = all === 0 ? "Nobody may see it yet." : receivedIt + (sawIt || "");
    if (this.#summary.textContent !== text) this.#summary.replaceChildren(...(all ? [meter] : []), text);
    const waitingFirst = [...recipients].sort((one, other) => Number(hasGot(one)) - Number(hasGot(other)));
    renderKeyed(
      this.#list,
      waitingFirst.map((recipient) => itemOf(recipient, alert)),
    );
  }
}

/** @param {Session} session */
function mayLoad(session) {
  return SCOPES.some((scope) => session.hasScope(scope));
}

/** @param {Session} session @param {string} id @returns {Promise<AlertReceipts>} */
async function readAll(session, id) {
  const path = `v1/alerts/${id}/receipts?limit=${PAGE}`;
  /** @type {AlertReceipts} */ const first = await session.get(path);
  const recipients = [...first.recipients];
  let page = first;
  for (let pages = 1; pages < MAX_PAGES && page.next; pages += 1) {
    page = await session.get(`${path}&cursor=${encodeURIComponent(page.next)}`);
    recipients.push(...page.recipients);
  }
  return { ...first, recipients };
}

/** Whether somebody received the alert or saw it. @param {AlertRecipient} recipient */
function hasGot({ first_received_at, seen_at }) {
  return (first_received_at ?? seen_at) !== null;
}

/** @param {AlertRecipient} recipient @param {Pick<Alert, "created_at">} alert @returns {KeyedItem} */
function itemOf(recipient, { created_at }) {
  const { recipient: name, first_sent_at: sent, first_received_at: received, seen_at: seen } = recipient;
  const times = [
    { what: "received", at: received },
    { what: "seen", at: seen },
  ].flatMap(({ what, at }) => (at === null ? [] : { what, at }));
  times.sort((one, other) => Date.parse(one.at) - Date.parse(other.at));
  return {
    key: name,
    state: JSON.stringify([sent !== null, received, seen]),
    build: () => {
      const after = times.map(({ what, at }) => {
        return `${what} after ${formatDuration(Date.parse(at) - Date.parse(created_at))}`;
      });
      const attributes = {
        "data-received": String(received !== null),
        "data-seen": String(seen !== null),
        title: times.map(({ what, at }) => `${what} ${exactTime(at)}`).join(", "),
      };
      const text = after.join(", ") || (sent ? "sent, not confirmed" : "not sent yet");
      return element("li", attributes, person("name", name), " ", element("span", "small", text));
    },
  };
}
