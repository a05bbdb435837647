/**
 * The receipts of the open alert: who has received it, from the ledger, for tokens with the scope `audit:read`.
 *
 * They are reloaded while the page is visible: every 10 s, and soon after each event of the alert, because the ledger is
 * written a moment later.
 */

import { ApiError } from "../auth/rest-api.js";
import { element, foreign } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";
import { exactTime, formatDuration } from "../ui/format.js";
import { renderKeyed } from "../ui/keyed-list.js";

/** @import { AlertAudit, Alert, AlertRecipient } from "../stream/wire-types.js" */
/** @import { KeyedItem } from "../ui/keyed-list.js" */
/** @import { Session } from "../auth/session.js" */

export const SCOPE = "audit:read";
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
    if (session.hasScope(SCOPE)) return void this.#load();
    this.#summary.replaceChildren(
      "To see who has received this alert, your token needs the scope ",
      element("code", "", SCOPE),
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
    if (this.#session?.hasScope(SCOPE)) this.#loadIn(RELOAD_AFTER_EVENT_MS);
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
      const audit = await readAll(this.#session, alert.id);
      if (alert === this.#alert) this.#show(audit, alert);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (alert === this.#alert)
        this.#summary.textContent = `Who has received it could not be asked. ${explain(error.reason)}`;
    } finally {
      this.#loading = false;
    }
    if (this.#alert) this.#loadIn(RELOAD_INTERVAL_MS);
  }

  /** @param {AlertAudit} audit @param {Pick<Alert, "created_at">} alert */
  #show({ counts, recipients }, alert) {
    const { recipients: all, received_by: some } = counts;
    const meter = element("meter", {
      max: String(all),
      value: String(some),
      "aria-label": "Admins who have received it",
    });
    const text =
      all === 0 ? "Nobody may see it yet." : `${some} of ${all} ${all === 1 ? "admin has" : "admins have"} received it`;
    if (this.#summary.textContent !== text) this.#summary.replaceChildren(...(all ? [meter] : []), text);
    const waitingFirst = [...recipients].sort((a, b) => Number(hasReceived(a)) - Number(hasReceived(b)));
    renderKeyed(
      this.#list,
      waitingFirst.map((recipient) => itemOf(recipient, alert)),
    );
  }
}

/** @param {Session} session @param {string} id @returns {Promise<AlertAudit>} */
async function readAll(session, id) {
  const path = `/v1/audit/alerts/${id}?limit=${PAGE}`;
  /** @type {AlertAudit} */ const first = await session.get(path);
  const recipients = [...first.recipients];
  let page = first;
  for (let pages = 1; pages < MAX_PAGES && page.next && page.recipients.length === PAGE; pages += 1) {
    page = await session.get(`${path}&cursor=${encodeURIComponent(page.next)}`);
    recipients.push(...page.recipients);
  }
  return { ...first, recipients };
}

/** @param {AlertRecipient} recipient */
function hasReceived({ first_received_at }) {
  return first_received_at !== null;
}

/** @param {AlertRecipient} recipient @param {Pick<Alert, "created_at">} alert @returns {KeyedItem} */
function itemOf(recipient, { created_at }) {
  const { recipient: name, first_sent_at: sent, first_received_at: received } = recipient;
  return {
    key: name,
    state: received ? "received" : sent ? "sent" : "waiting",
    build: () => {
      const attributes = { "data-received": String(received !== null), title: received ? exactTime(received) : "" };
      const took = received && formatDuration(Date.parse(received) - Date.parse(created_at));
      const what = took ? `received after ${took}` : sent ? "sent, not confirmed" : "not sent yet";
      return element("li", attributes, foreign("name", name), " ", element("span", "small", what));
    },
  };
}
