/**
 * The page: signing in and out, and which part of it shows what a session brings.
 *
 * A token comes from the address (`/#token=…`, wiped at once so that it stays out of the history, bookmarks and shared
 * screens), from the form, or from the OpenID provider. It is kept in memory only: closing or reloading the page signs out.
 */

import "./auth/oidc-redirect.js"; // First: it removes the provider's answer from the address before others read it.
import { Selection } from "./alert/selection.js";
import { claimsOf, expiryOf } from "./auth/jwt-claims.js";
import { nameOf, OidcError } from "./auth/oidc.js";
import { OidcLogin } from "./auth/oidc-login.js";
import { providerAnswer } from "./auth/oidc-redirect.js";
import { ApiError, fetchPresence, fetchSettings } from "./auth/rest-api.js";
import { Session } from "./auth/session.js";
import { SignInForm, SwitchDialog } from "./auth/sign-in-form.js";
import { Dashboard } from "./dashboard/dashboard.js";
import { Feed } from "./feed/feed.js";
import { SettingsPage } from "./settings/settings-page.js";
import { backoff, mayRenew } from "./stream/close-policy.js";
import { ExpiryBanner, OutageBanner } from "./ui/banners.js";
import { describeSkew, onSkew } from "./ui/clock-skew.js";
import { ConnectionStatus } from "./ui/connection-status.js";
import { byId } from "./ui/dom.js";
import { explain } from "./ui/error-messages.js";
import { timeOfDay } from "./ui/format.js";
import { followRoutes } from "./ui/navigation.js";
import { Notifications } from "./ui/notifications.js";
import { PresencePanel } from "./ui/presence-panel.js";
import { currentRoute, go, hashOf, onRoute } from "./ui/router.js";
import { ScreenReaderAnnouncer } from "./ui/screen-reader-announcer.js";
import { TabBadge } from "./ui/tab-badge.js";

/** @import { GapFrame } from "./stream/wire-types.js" */
/** @import { Status } from "./stream/stream-client.js" */
/** @import { SessionListener } from "./auth/session.js" */

const page = {
  signInAgain: byId("sign-in-again"),
  notice: byId("notice"),
  noticeText: byId("notice-text"),
  workspace: byId("workspace"),
  account: byId("account"),
  nav: byId("nav"),
  who: byId("who"),
  tokenUntil: byId("token-until"),
  seq: byId("seq"),
  muted: byId("muted"),
};

/** @type {Status} */ const SIGNED_OUT = {
  state: "signed-out",
  reason: null,
  since: null,
  transport: "websocket",
  retryAt: null,
};
/** @type {Session | null} */ let session = null;
/** @type {OidcLogin | null} */ let login = null;
let status = SIGNED_OUT;

followRoutes(); // First, so that what the others focus is no longer hidden.
const feed = new Feed(async (query) => {
  if (!session) throw new ApiError("token_missing", 0, 0);
  return session.get(`/v1/alerts?${query}`);
});
const selection = new Selection(feed, () => session, showNotice);
const presence = new PresencePanel();
const announcer = new ScreenReaderAnnouncer();
const dashboard = new Dashboard();
const connectionStatus = new ConnectionStatus(() => session?.retry());
const form = new SignInForm({
  onToken: (token) => useToken(token),
  onProvider: () => visitProvider(),
});
const tabBadge = new TabBadge();
const outageBanner = new OutageBanner((isDown) => tabBadge.setOffline(isDown));
const expiryBanner = new ExpiryBanner(
  () => (login?.signedIn ? visitProvider() : form.isOpen ? form.close() : askForToken(null)),
  () => form.isOpen,
);
const switchDialog = new SwitchDialog();
const notifications = new Notifications({
  isLeader: () => session?.isLeader ?? false,
  open: (id) => go(id === null ? { name: "feed" } : { name: "alert", id }),
  onChange: showPreferences,
});
const settingsPage = new SettingsPage(notifications, () => session);

/** @type {SessionListener} */
const sessionListener = {
  onStatus: showStatus,
  onPage: (list) => {
    feed.show(list);
    if (session) selection.refresh(session);
  },
  onWelcome: ({ recipient }) => (page.who.textContent = recipient),
  onEvent: (event) => {
    const isNew = feed.applyEvent(event);
    selection.applyEvent(event);
    settingsPage.applyEvent(event);
    outageBanner.count();
    if (!isNew) return;
    if (feed.matchesFilters(event.alert)) announcer.add(event.alert);
    tabBadge.add();
    notifications.add(event.alert);
  },
  onGap: showGap,
  onReloadFailed: ({ reason, isTransient }) =>
    showNotice(`The list is not up to date. ${explain(reason)} ${isTransient ? "The console keeps trying." : ""}`),
  onReloaded: () => showNotice("The list was brought up to date."),
  onCursor: (seq) => (page.seq.textContent = `seq ${seq}`),
  onPresenceList: ({ present }) => presence.show(present),
  onPresence: (frame) => presence.apply(frame),
};

/** Signs in with a token from outside. What goes on without it ends only once the server takes it. @param {string} token */
async function useToken(token) {
  if (!claimsOf(token)?.sub) {
    return form.isOpen ? form.say(explain("token_malformed")) : showNotice(explain("token_malformed"));
  }
  const current = session;
  const isDown = status.state === "signed-out" && session?.canContinueWith(token);
  if (login?.signedIn || (session?.started && !isDown)) {
    try {
      await fetchPresence(token);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      return session === current ? askForToken(error.reason) : undefined;
    }
    if (session !== current) return; // Signed out, or in as somebody else, meanwhile.
  }
  login?.forget();
  signIn(token);
  form.close();
}

/** @param {string} token */
function signIn(token) {
  if (session?.canContinueWith(token)) {
    showToken(token);
    return status.state === "signed-out" ? session.resume(token) : session.updateToken(token);
  }
  endSession();
  const subject = String(claimsOf(token)?.sub);
  page.who.textContent = subject;
  session = new Session(subject, token, sessionListener, async () => (await login?.replaceRefusedToken()) ?? null);
  showToken(token);
  session.begin();
}

/** @param {string} token  The one that is in use from now on. */
function showToken(token) {
  const name = login?.signedIn ? nameOf(login.issuer) : "";
  const renewal = login?.renews ? `by itself, by ${name}` : `by you, ${name ? `at ${name}` : "with a new token"}`;
  page.tokenUntil.textContent = `token until ${timeOfDay(expiryOf(token) * 1000)}`;
  expiryBanner.watch(expiryOf(token), () => login?.renews ?? false);
  settingsPage.showToken(token, renewal);
  dashboard.use(token);
}

function endSession() {
  session?.end();
  session = null;
  feed.clear();
  announcer.clear();
  selection.clear();
  presence.show([]);
  dashboard.use(null);
  notifications.clear();
  settingsPage.clear();
  expiryBanner.clear();
  outageBanner.clear();
  page.notice.hidden = true;
  page.seq.textContent = page.tokenUntil.textContent = page.who.textContent = "";
}

/** @param {Status} next */
function showStatus(next) {
  const before = status.state;
  status = next;
  connectionStatus.show(next);
  outageBanner.show(next);
  settingsPage.showStatus(next);
  showMuted();
  presence.setCurrent(next.state === "live");
  if (next.state === "live" && before !== "live") for (const part of [feed, selection]) part.onLive();
  if (next.state === "live") login?.confirmTokens();
  const signedOut = next.state === "signed-out";
  page.signInAgain.hidden = !signedOut || !session?.started; // The form may be far above what is being read.
  page.account.hidden = page.nav.hidden = page.workspace.hidden = !session || (signedOut && !session.started);
  if (session && !session.started) {
    feed.explain(next.reason ? `${explain(next.reason)} The console keeps trying.` : "Loading the alerts …");
  }
  if (signedOut) onSignedOut(next.reason);
  else if (before === "signed-out") {
    const formHadFocus = form.hasFocus;
    form.close();
    if (formHadFocus) selection.focus(); // The form took the focus with it.
  }
}

/** @param {string | null} reason */
function onSignedOut(reason) {
  askForToken(reason);
  const current = session;
  if (!current || !reason || !login?.signedIn) return;
  // The next token of this sign-in would be refused like this one, or is not to be had behind the person's back.
  if (reason === "token_revoked" || !(current.started || reason === "token_expired")) return login.forget();
  // Another tab had the stream, and its token ended; ours can be renewed.
  if (!login.renews || !mayRenew(reason)) return;
  runSignInStep(async () => {
    const token = await login?.replaceRefusedToken();
    if (token && session === current) current.resume(token);
  });
}

/** @param {string | null} reason */
function askForToken(reason) {
  form.open(session?.started ? session.subject : null, reason && explain(reason));
  if (!session?.started || status.state !== "signed-out") form.focus();
}

/** Leaves for the OpenID provider, and comes back to this place. */
function visitProvider() {
  runSignInStep(async () => login?.begin());
}

async function offerProvider() {
  const settings = await retryUntilAnswered(fetchSettings, (reason) => providerAnswer && form.say(explain(reason)));
  if (!settings.oidc) return providerAnswer && form.say("This page did not ask for this sign-in. Sign in again.");
  const provider = new OidcLogin(settings.oidc, {
    onSignedIn: signIn,
    onRenewed: (token) => {
      if (!session?.hasSameView(token)) return signIn(token);
      showToken(token);
      if (status.state === "signed-out" && mayRenew(status.reason ?? "")) session.resume(token);
      else session.updateToken(token);
      if (status.reason === "token_unavailable") session.retry(); // It was the provider that it waited for.
    },
    onRenewalProblem: (problem) => expiryBanner.explain(problem),
  });
  login = provider;
  form.offer(nameOf(settings.oidc.issuer));
  if (providerAnswer && !session) runSignInStep(() => provider.finish());
}

/**
 * Asks until there is an answer: the server may be restarting.
 * @template Answer
 * @param {() => Promise<Answer>} ask
 * @param {(reason: string) => void} onFailure
 * @returns {Promise<Answer>}
 */
async function retryUntilAnswered(ask, onFailure) {
  for (let failures = 1; ; failures += 1) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      onFailure(error.reason);
      const delay = Math.max(backoff(failures), error.retryAfter);
      await new Promise((resolve) => setTimeout(resolve, delay));
    }
  }
}

/** @param {() => Promise<void>} step  Of the sign-in with the provider. */
async function runSignInStep(step) {
  form.setBusy(true);
  try {
    await step();
  } catch (error) {
    if (!(error instanceof OidcError)) throw error;
    if (form.isOpen) form.say(error.message);
    else showNotice(error.message);
  } finally {
    form.setBusy(false);
  }
}

async function signOut() {
  endSession();
  showStatus(SIGNED_OUT);
  try {
    const url = await login?.signOut();
    if (url && !session) location.assign(url);
  } catch (error) {
    if (!(error instanceof OidcError)) throw error;
    if (!session) form.say(`You are signed out here. ${error.message} Your session there may go on.`);
  }
}

/** @param {GapFrame} gap */
function showGap({ from, to, reason }) {
  if (reason === "reset") {
    feed.clear();
    selection.clear();
    return showNotice("The server started a new log. The list was loaded again from it.");
  }
  showNotice(
    `Events ${from} to ${to} are no longer kept, so they could not be shown one by one. ` +
      "The list was brought up to date.",
  );
}

/** What was chosen in the settings, here or in another tab, and whether the browser lets it be heard. */
function showPreferences() {
  settingsPage.showPreferences();
  showMuted();
}

function showMuted() {
  page.muted.hidden = !session || !notifications.muted;
}

/** @param {string} text */
function showNotice(text) {
  page.noticeText.textContent = text;
  page.notice.hidden = false;
}

async function signInFromAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (!token) return;
  const open = currentRoute().name === "feed" ? "" : hashOf(currentRoute());
  history.replaceState(null, "", location.pathname + location.search + open);
  const subject = claimsOf(token.trim())?.sub;
  const current = session?.started || status.state !== "signed-out" ? session : null;
  if (current && subject && subject !== current.subject && !(await switchDialog.ask(current.subject, subject))) return;
  useToken(token.trim());
}

page.signInAgain.addEventListener("click", () => form.focus());
byId("sign-out").addEventListener("click", signOut);
byId("notice-dismiss").addEventListener("click", () => (page.notice.hidden = true));

addEventListener("hashchange", signInFromAddress);
addEventListener("online", () => session?.wake());
document.addEventListener("visibilitychange", () => document.hidden || session?.wake());

onSkew((skew) => showNotice(describeSkew(skew)));
onRoute(showPreferences);

showStatus(status);
signInFromAddress();
offerProvider();
