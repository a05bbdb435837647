/**
 * The settings page: the token, the stream, notifications, and a test alert.
 */

import { claimsOf } from "../auth/jwt-claims.js";
import { STATE_LABELS } from "../ui/connection-status.js";
import { byId, element, foreign } from "../ui/dom.js";
import { exactTime, secondOfDay } from "../ui/format.js";
import { NotificationForm } from "./notification-form.js";
import { TestAlertForm } from "./test-alert-form.js";

/** @import { Notifications } from "../ui/notifications.js" */
/** @import { EventFrame, Me } from "../stream/wire-types.js" */
/** @import { Session } from "../auth/session.js" */
/** @import { Status } from "../stream/stream-client.js" */

/** @type {Record<string, string>} */
const SCOPES = {
  "alerts:read": "see alerts, and who is present",
  "alerts:manage": "acknowledge, resolve and reopen alerts, and comment on them",
  "alerts:write": "raise alerts",
  "audit:read": "read the ledger: who was told of what, and who did what",
  admin: "revoke tokens and close connections",
};

const TRANSPORTS = {
  websocket: "a WebSocket",
  sse: "server-sent events, because WebSockets are blocked on the way",
  longpoll: "long polls, because WebSockets and streams are blocked on the way",
};

export class SettingsPage {
  #token = element("dl", { class: "details", "data-testid": "token-facts" });
  #stream = element("dl", { class: "details", "data-testid": "stream-facts" });
  #test;
  #form;
  /** @type {number | null} */ #liveSince = null;
  #shown = { token: "", renewal: "" };
  /** @type {Me | null} */ #me = null;

  /** @param {Notifications} notifications @param {() => Session | null} session */
  constructor(notifications, session) {
    this.#form = new NotificationForm(notifications);
    this.#test = new TestAlertForm(session);
    byId("settings").append(
      element("h2", { id: "settings-title", tabindex: "-1" }, "Settings"),
      card("Your sign-in", this.#token),
      card("The stream", this.#stream),
      card("Notifications", this.#form.element),
      card("Test alert", this.#test.element),
    );
  }

  /** @param {string} token @param {string} renewal  How it is renewed, in words. */
  showToken(token, renewal) {
    this.#shown = { token, renewal };
    this.#showSignIn();
  }

  /** @param {Me} me  What the server reads in the token. */
  showMe(me) {
    this.#me = me;
    this.#test.showToken(me.scopes, me.topics);
    this.#showSignIn();
  }

  #showSignIn() {
    if (!this.#me) return;
    const { subject, name, scopes, topics } = this.#me;
    const { token, renewal } = this.#shown;
    const { iss, jti, iat, exp } = claimsOf(token) ?? {};
    this.#token.replaceChildren(
      ...fact("Who", foreign("", name ? `${name} (${subject})` : subject)),
      ...fact("May", scopes.length ? list(scopes.map(scopeInWords)) : "nothing: the token names no scope"),
      ...fact("Topics", topics.includes("*") ? "all" : list(topics.map(topicInWords))),
      ...fact("Issuer", foreign("", String(iss))),
      ...fact("Issued", moment(iat)),
      ...fact("Expires", moment(exp)),
      ...fact("Renewed", renewal),
      ...fact("Token id", jti ? foreign("", String(jti)) : "none, so only all tokens of yours can be revoked together"),
    );
  }

  /** @param {Status} status */
  showStatus({ state, transport, since }) {
    if (state === "live") this.#liveSince ??= Date.now();
    else this.#liveSince = null;
    const from = this.#liveSince ?? since;
    this.#stream.replaceChildren(
      ...fact("Comes by", TRANSPORTS[transport]),
      ...fact(
        "Now",
        `${STATE_LABELS[state].toLowerCase()}${from === null ? "" : `, ${this.#liveSince ? "since" : "interrupted since"} ${secondOfDay(from)}`}`,
      ),
    );
  }

  /** The session ended. */
  clear() {
    this.#me = null;
    this.#token.replaceChildren();
    this.#test.clear();
  }

  /** The preferences may have changed in another tab. */
  showPreferences() {
    this.#form.show();
  }

  /** @param {EventFrame} event */
  applyEvent(event) {
    this.#test.applyEvent(event);
  }
}

/** @param {string} title @param {Node} content */
function card(title, content) {
  return element("section", "card", element("h3", "", title), content);
}

/** @param {string} name @param {Node | string} value */
function fact(name, value) {
  return [element("dt", "", name), element("dd", "", value)];
}

/** @param {(Node | string)[]} items */
function list(items) {
  return element("ul", "", ...items.map((item) => element("li", "", item)));
}

/** @param {string} scope */
function scopeInWords(scope) {
  const words = SCOPES[scope];
  return words ? element("span", "", `${words} `, element("code", "small", scope)) : foreign("", scope);
}

/** @param {string} pattern */
function topicInWords(pattern) {
  if (pattern === "*") return "all";
  return pattern.endsWith(".*")
    ? element("span", "", "all beneath ", foreign("", pattern.slice(0, -2)))
    : foreign("", pattern);
}

/** @param {unknown} seconds  Since the epoch. */
function moment(seconds) {
  const at = new Date(Number(seconds) * 1000);
  if (seconds === undefined || Number.isNaN(at.getTime())) return "unknown";
  return element("time", { datetime: at.toISOString(), title: exactTime(at.toISOString()) }, secondOfDay(at.getTime()));
}
