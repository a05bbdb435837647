/**
 * The page: creates its parts and passes on to them what a session brings.
 */

import "./auth/oidc-redirect.js"; // First: it removes the provider's answer from the address before others read it.
import { Selection } from "./alert/selection.js";
import { expiryOf } from "./auth/jwt-claims.js";
import { ApiError } from "./auth/rest-api.js";
import { SignIn } from "./auth/sign-in.js";
import { Dashboard } from "./dashboard/dashboard.js";
import { Feed } from "./feed/feed.js";
import { SettingsPage } from "./settings/settings-page.js";
import { seqOf } from "./stream/cursor.js";
import { ExpiryBanner, OutageBanner } from "./ui/banners.js";
import { describeSkew, onSkew } from "./ui/clock-skew.js";
import { ConnectionStatus } from "./ui/connection-status.js";
import { byId } from "./ui/dom.js";
import { explain } from "./ui/error-messages.js";
import { timeOfDay } from "./ui/format.js";
import { followRoutes } from "./ui/navigation.js";
import { Notifications } from "./ui/notifications.js";
import { askForNames, forgetNames, learnNames, person } from "./ui/people.js";
import { PresencePanel } from "./ui/presence-panel.js";
import { go, onRoute } from "./ui/router.js";
import { ScreenReaderAnnouncer } from "./ui/screen-reader-announcer.js";
import { SightingObserver } from "./ui/sighting-observer.js";
import { TabBadge } from "./ui/tab-badge.js";

/** @import { EventFrame, GapFrame, ResetFrame } from "./stream/wire-types.js" */
/** @import { Status } from "./stream/stream-client.js" */

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

const signIn = new SignIn({
  listener: {
    onStatus: showStatus,
    onMe: (me) => {
      learnNames([me]);
      settingsPage.showMe(me);
    },
    onPage: (list) => {
      feed.show(list);
      if (signIn.session) selection.refresh(signIn.session);
    },
    onWelcome: ({ recipient }) => page.who.replaceChildren(person("", recipient)),
    onEvent: showEvent,
    onReset: ({ after }) => {
      for (const part of [feed, selection]) part.invalidate(after);
    },
    onReloadFailed: ({ reason, isTransient }) =>
      showNotice(`The list is not up to date. ${explain(reason)} ${isTransient ? "The console keeps trying." : ""}`),
    onReloaded: (list, why) => {
      feed.reload(list);
      if (signIn.session) selection.refresh(signIn.session);
      showNotice(`${describeLoss(why)} The list was brought up to date.`);
    },
    onCursor: (cursor) => (page.seq.textContent = `seq ${seqOf(cursor)}`),
    onPresenceList: ({ present }) => presence.show(present),
    onPresence: (frame) => presence.apply(frame),
  },
  onBegin: (subject) => {
    askForNames(async (subjects) => (await signIn.session?.names(subjects)) ?? {});
    page.who.textContent = subject; // The server may refuse the token, and then its names, too.
  },
  onEnd: clear,
  onToken: (token, renewal) => {
    page.tokenUntil.textContent = `token until ${timeOfDay(expiryOf(token) * 1000)}`;
    expiryBanner.watch(expiryOf(token), () => signIn.renews);
    settingsPage.showToken(token, renewal);
    dashboard.use(token);
  },
  onRenewalProblem: (problem) => expiryBanner.explain(problem),
  onFormClosed: () => selection.focus(),
  showNotice,
});
const session = () => signIn.session;

followRoutes(); // Before the parts: what they focus must not be hidden.
const sightings = new SightingObserver((id) => signIn.session?.seen([id]));
const feed = new Feed(async (query) => {
  if (!signIn.session) throw new ApiError("token_missing", 0, 0);
  return signIn.session.get(`v1/alerts?${query}`);
}, sightings);
const selection = new Selection(feed, session, sightings, showNotice);
const presence = new PresencePanel();
const announcer = new ScreenReaderAnnouncer();
const dashboard = new Dashboard();
const connectionStatus = new ConnectionStatus(() => signIn.session?.retry());
const tabBadge = new TabBadge();
const outageBanner = new OutageBanner((isDown) => tabBadge.setOffline(isDown));
const expiryBanner = new ExpiryBanner(
  () => signIn.signInAgain(),
  () => signIn.isFormOpen,
);
const notifications = new Notifications({
  isLeader: () => signIn.session?.isLeader ?? false,
  open: (id) => go(id === null ? { name: "feed" } : { name: "alert", id }),
  onChange: showPreferences,
});
const settingsPage = new SettingsPage(notifications, session);
/** @type {Status["state"]} */ let state = "signed-out";

/** @param {EventFrame} event */
function showEvent(event) {
  const isNew = feed.applyEvent(event);
  selection.applyEvent(event);
  settingsPage.applyEvent(event);
  outageBanner.count();
  if (!isNew) return;
  if (feed.isRelevant(event.alert)) announcer.add(event.alert);
  tabBadge.add();
  notifications.add(event.alert);
}

/** @param {Status} status */
function showStatus(status) {
  const before = state;
  state = status.state;
  const isStarted = signIn.session?.started ?? false;
  connectionStatus.show(status);
  outageBanner.show(status);
  settingsPage.showStatus(status);
  showMuted();
  presence.setCurrent(state === "live");
  if (state === "live" && before !== "live") for (const part of [feed, selection]) part.onLive();
  page.signInAgain.hidden = state !== "signed-out" || !isStarted; // The form may be scrolled out of view.
  const isHidden = !signIn.session || (state === "signed-out" && !isStarted);
  page.account.hidden = page.nav.hidden = page.workspace.hidden = isHidden;
  if (signIn.session && !isStarted) {
    feed.explain(status.reason ? `${explain(status.reason)} The console keeps trying.` : "Loading the alerts …");
  }
  signIn.onStatus(status);
}

/** The session ended. */
function clear() {
  const parts = [feed, announcer, selection, sightings, notifications, settingsPage, expiryBanner, outageBanner];
  for (const part of parts) part.clear();
  presence.show([]);
  forgetNames();
  dashboard.use(null);
  page.notice.hidden = true;
  page.seq.textContent = page.tokenUntil.textContent = page.who.textContent = "";
}

/** The preferences changed, here or in another tab, or the browser now allows sound. */
function showPreferences() {
  settingsPage.showPreferences();
  showMuted();
}

function showMuted() {
  page.muted.hidden = !signIn.session || !notifications.muted;
}

/** @param {string} text */
function showNotice(text) {
  page.noticeText.textContent = text;
  page.notice.hidden = false;
}

/** Why the list had to be loaded again. @param {GapFrame | ResetFrame} frame */
function describeLoss(frame) {
  if (frame.type === "reset") return "Some alerts were lost by the database's failover.";
  return `Events ${frame.from} to ${frame.to} are no longer kept, so they could not be shown one by one.`;
}

page.signInAgain.addEventListener("click", () => signIn.focusForm());
byId("sign-out").addEventListener("click", () => signIn.signOut());
byId("notice-dismiss").addEventListener("click", () => (page.notice.hidden = true));

addEventListener("online", () => signIn.session?.wake());
document.addEventListener("visibilitychange", () => document.hidden || signIn.session?.wake());

onSkew((skew) => showNotice(describeSkew(skew)));
onRoute(showPreferences);
signIn.start();
