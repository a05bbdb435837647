/**
 * The page: signing in and out, and which part of it shows what a session brings.
 *
 * A token comes from the address (`/#token=…`, wiped at once so that it stays out of the history, bookmarks and shared
 * screens) or from the form. It is kept in memory only: closing or reloading the page signs out.
 */

import { ApiError } from "./api.js";
import { Desk } from "./desk.js";
import { Dashboard } from "./dashboard.js";
import { byId } from "./dom.js";
import { Feed } from "./feed.js";
import { followPlaces } from "./nav.js";
import { News } from "./news.js";
import { PresencePanel } from "./presence.js";
import { explain } from "./reasons.js";
import { hashOf, place } from "./router.js";
import { Session } from "./session.js";
import { StateLine } from "./state.js";
import { timeOfDay } from "./time.js";
import { claimsOf } from "./token.js";

/** @import { GapFrame } from "./wire.js" */
/** @import { Status } from "./client.js" */
/** @import { View } from "./session.js" */

const NEWS = new Set(["alert.created", "alert.reopened", "alert.escalated"]);

const page = {
  signIn: byId("sign-in"),
  signInTitle: byId("sign-in-title"),
  signInLead: byId("sign-in-lead"),
  signInAgain: byId("sign-in-again"),
  token: /** @type {HTMLInputElement} */ (byId("token")),
  reason: byId("reason"),
  notice: byId("notice"),
  noticeText: byId("notice-text"),
  workspace: byId("workspace"),
  account: byId("account"),
  nav: byId("nav"),
  who: byId("who"),
  tokenUntil: byId("token-until"),
  seq: byId("seq"),
};
const firstLead = page.signInLead.textContent;

/** @type {Status} */ const SIGNED_OUT = { state: "signed-out", reason: null, since: null, way: "socket", retryAt: null };
/** @type {Session | null} */ let session = null;
let status = SIGNED_OUT;

followPlaces(); // First, so that what the others focus is no longer hidden.
const feed = new Feed(async (query) => {
  if (!session) throw new ApiError("token_missing", 0, 0);
  return session.get(`/v1/alerts?${query}`);
});
const desk = new Desk(feed, () => session, showNotice);
const presence = new PresencePanel();
const news = new News();
const dashboard = new Dashboard();
const stateLine = new StateLine(() => session?.retry());

/** @type {View} */
const view = {
  onStatus: showStatus,
  onPage: (list) => {
    feed.show(list);
    if (session) desk.refresh(session);
  },
  onWelcome: ({ recipient, token_expires_at }) => {
    page.who.textContent = recipient;
    page.tokenUntil.textContent = `token until ${timeOfDay(Date.parse(token_expires_at))}`;
  },
  onEvent: (event) => {
    feed.apply(event);
    desk.apply(event);
    if (NEWS.has(event.kind) && feed.concerns(event.alert)) news.add(event.alert);
  },
  onGap: showGap,
  onStale: (reason) => showNotice(`The list could not be brought up to date. ${explain(reason)} Reload to try again.`),
  onCursor: (seq) => (page.seq.textContent = `seq ${seq}`),
  onPresent: ({ present }) => presence.show(present),
  onPresence: (frame) => presence.apply(frame),
};

/** @param {string} token */
function signIn(token) {
  const subject = claimsOf(token)?.sub;
  if (!subject) return page.signIn.hidden ? showNotice(explain("token_malformed")) : showReason("token_malformed");
  page.token.value = "";
  if (session?.continuesWith(token) && status.state === "signed-out") {
    dashboard.use(token);
    return session.resume(token);
  }
  endSession();
  dashboard.use(token);
  page.who.textContent = subject;
  session = new Session(subject, token, view);
  session.begin();
}

function endSession() {
  session?.end();
  session = null;
  feed.clear();
  desk.clear();
  presence.show([]);
  dashboard.use(null);
  page.notice.hidden = true;
  page.seq.textContent = page.tokenUntil.textContent = page.who.textContent = "";
}

/** @param {Status} next */
function showStatus(next) {
  const before = status.state;
  status = next;
  stateLine.show(next);
  presence.setCurrent(next.state === "live");
  if (next.state === "live" && before !== "live") desk.onLive();
  const signedOut = next.state === "signed-out";
  const formHadFocus = page.signIn.contains(document.activeElement);
  page.signIn.hidden = !signedOut;
  page.signInAgain.hidden = !signedOut || !session?.started; // The form may be far above what is being read.
  page.account.hidden = page.nav.hidden = page.workspace.hidden = !session || (signedOut && !session.started);
  if (session && !session.started) {
    feed.explain(next.reason ? `${explain(next.reason)} The console keeps trying.` : "Loading the alerts …");
  }
  if (signedOut) askForToken(next.reason);
  else if (before === "signed-out" && formHadFocus) desk.focus(); // The form took the focus with it.
}

/** @param {string | null} reason */
function askForToken(reason) {
  page.signInTitle.textContent = session?.started ? "Sign in again" : "Sign in";
  page.signInLead.textContent = session?.started
    ? `Your alerts stay on this page. With a new token for ${session.subject}, they go on where they stopped.`
    : firstLead;
  showReason(reason);
  if (!session?.started) page.token.focus();
}

/** @param {string | null} reason */
function showReason(reason) {
  page.reason.textContent = reason ? explain(reason) : "";
  page.reason.hidden = !reason;
  page.token.setAttribute("aria-invalid", String(Boolean(reason)));
}

/** @param {GapFrame} gap */
function showGap({ from, to, reason }) {
  if (reason === "reset") {
    feed.clear();
    desk.clear();
    return showNotice("The server started a new log. The list was loaded again from it.");
  }
  showNotice(
    `Events ${from} to ${to} are no longer kept, so they could not be shown one by one. ` +
      "The list was brought up to date.",
  );
}

/** @param {string} text */
function showNotice(text) {
  page.noticeText.textContent = text;
  page.notice.hidden = false;
}

function signInFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  const open = place().name === "feed" ? "" : hashOf(place());
  history.replaceState(null, "", location.pathname + location.search + open);
  signIn(token.trim());
}

page.signIn.addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(page.token.value.trim());
});
page.signInAgain.addEventListener("click", () => page.token.focus());
byId("sign-out").addEventListener("click", () => {
  endSession();
  showStatus(SIGNED_OUT);
});
byId("notice-dismiss").addEventListener("click", () => (page.notice.hidden = true));

addEventListener("hashchange", signInFromAddress);
addEventListener("online", () => session?.retry());
document.addEventListener("visibilitychange", () => document.hidden || session?.retry());

showStatus(status);
signInFromAddress();
