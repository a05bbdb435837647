/**
 * Signing in and out: with a token from the form or from a link (`/#token=…`), or with an OpenID provider.
 *
 * The token of a link is removed from the address at once, so that it stays out of the history, bookmarks and shared
 * screens. Tokens are kept in memory only: closing or reloading the page signs out.
 */

import { backoff, mayRenew } from "../stream/close-policy.js";
import { SIGNED_OUT } from "../stream/stream-client.js";
import { explain } from "../ui/error-messages.js";
import { currentRoute, hashOf } from "../ui/router.js";
import { claimsOf } from "./jwt-claims.js";
import { nameOf, OidcError } from "./oidc-protocol.js";
import { providerAnswer } from "./oidc-redirect.js";
import { OidcLogin } from "./oidc-sign-in.js";
import { ApiError, fetchPresence, fetchSettings } from "./rest-api.js";
import { Session } from "./session.js";
import { SignInForm, SwitchDialog } from "./sign-in-form.js";

/** @import { Status } from "../stream/stream-client.js" */
/** @import { SessionListener } from "./session.js" */

/**
 * @typedef {object} SignInHost
 * @property {SessionListener} listener  Of each session.
 * @property {(subject: string) => void} onBegin  A session begins.
 * @property {() => void} onEnd                   A session ended.
 * @property {(token: string, renewal: string) => void} onToken  A token is in use; `renewal` says how it is renewed.
 * @property {(problem: string | null) => void} onRenewalProblem
 * @property {() => void} onFormClosed            The form had the focus, and was closed.
 * @property {(text: string) => void} showNotice
 */

const NOT_ASKED_FOR = "This page did not ask for this sign-in. Sign in again.";

export class SignIn {
  /** @type {Session | null} */ session = null;
  /** @type {Status} */ #status = SIGNED_OUT;
  #host;
  /** @type {OidcLogin | null} */ #login = null;
  #dialog = new SwitchDialog();
  #form = new SignInForm({
    onToken: (token) => this.#useToken(token),
    onProvider: () => this.visitProvider(),
  });

  /** @param {SignInHost} host */
  constructor(host) {
    this.#host = host;
    addEventListener("hashchange", () => this.#useLink());
  }

  /** Begins, with the token of a link or the answer of the provider if the page was opened with one. */
  start() {
    this.#host.listener.onStatus(SIGNED_OUT);
    this.#useLink();
    this.#offerProvider();
  }

  /** Whether tokens are renewed without the person. */
  get renews() {
    return this.#login?.renews ?? false;
  }

  get isFormOpen() {
    return this.#form.isOpen;
  }

  focusForm() {
    this.#form.focus();
  }

  /** The person wants to replace a token that is about to expire. */
  signInAgain() {
    if (this.#login?.signedIn) this.visitProvider();
    else if (this.#form.isOpen) this.#form.close();
    else this.#askForToken(null);
  }

  /** Leaves for the OpenID provider, which sends the person back to this place. */
  visitProvider() {
    this.#tryProvider(async () => this.#login?.begin());
  }

  async signOut() {
    this.#end();
    this.#host.listener.onStatus(SIGNED_OUT);
    try {
      const url = await this.#login?.signOut();
      if (url && !this.session) location.assign(url);
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
      if (!this.session) this.#form.say(`You are signed out here. ${error.message} Your session there may go on.`);
    }
  }

  /** Shows the form or hides it. @param {Status} status */
  onStatus(status) {
    const before = this.#status.state;
    this.#status = status;
    if (status.state === "live") this.#login?.confirmTokens();
    if (status.state === "signed-out") return this.#onSignedOut(status.reason);
    if (before !== "signed-out") return;
    const hadFocus = this.#form.hasFocus;
    this.#form.close();
    if (hadFocus) this.#host.onFormClosed();
  }

  async #useLink() {
    const token = new URLSearchParams(location.hash.slice(1)).get("token")?.trim();
    if (!token) return;
    const open = currentRoute().name === "feed" ? "" : hashOf(currentRoute());
    history.replaceState(null, "", location.pathname + location.search + open);
    const subject = claimsOf(token)?.sub;
    const current = this.session?.started || this.#status.state !== "signed-out" ? this.session : null;
    if (current && subject && subject !== current.subject && !(await this.#dialog.ask(current.subject, subject)))
      return;
    this.#useToken(token);
  }

  /** Signs in with a token. A current session ends only once the server accepted the token. @param {string} token */
  async #useToken(token) {
    if (!claimsOf(token)?.sub) return this.#showProblem(explain("token_malformed"));
    const current = this.session;
    const isDown = this.#status.state === "signed-out" && current?.canContinueWith(token);
    if (this.#login?.signedIn || (current?.started && !isDown)) {
      try {
        await fetchPresence(token);
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        return this.session === current ? this.#askForToken(error.reason) : undefined;
      }
      if (this.session !== current) return; // The person signed out, or in as somebody else, meanwhile.
    }
    this.#login?.discard();
    this.#begin(token);
    this.#form.close();
  }

  /** Begins a session, or continues the current one. @param {string} token */
  #begin(token) {
    if (this.session?.canContinueWith(token)) {
      this.#onToken(token);
      return this.#status.state === "signed-out" ? this.session.resume(token) : this.session.updateToken(token);
    }
    this.#end();
    const subject = String(claimsOf(token)?.sub);
    const renew = async () => (await this.#login?.replaceRefusedToken()) ?? null;
    this.session = new Session(subject, token, this.#host.listener, renew);
    this.#host.onBegin(subject);
    this.#onToken(token);
    this.session.begin();
  }

  #end() {
    this.session?.end();
    this.session = null;
    this.#host.onEnd();
  }

  /** @param {string} token */
  #onToken(token) {
    const name = this.#login?.signedIn ? nameOf(this.#login.issuer) : "";
    const renewal = this.renews ? `by itself, by ${name}` : `by you, ${name ? `at ${name}` : "with a new token"}`;
    this.#host.onToken(token, renewal);
  }

  /** @param {string | null} reason */
  #onSignedOut(reason) {
    this.#askForToken(reason);
    const [current, login] = [this.session, this.#login];
    if (!current || !reason || !login?.signedIn) return;
    // The next token of this login would be refused as well, or may not be used without asking the person.
    if (reason === "token_revoked" || !(current.started || reason === "token_expired")) return login.discard();
    // The token that ended was another tab's; this tab's can be renewed.
    if (!login.renews || !mayRenew(reason)) return;
    this.#tryProvider(async () => {
      const token = await login.replaceRefusedToken();
      if (token && this.session === current) current.resume(token);
    });
  }

  /** @param {string | null} reason */
  #askForToken(reason) {
    const isStarted = this.session?.started ?? false;
    this.#form.open(isStarted ? (this.session?.subject ?? null) : null, reason && explain(reason));
    if (!isStarted || this.#status.state !== "signed-out") this.#form.focus();
  }

  async #offerProvider() {
    const { oidc } = await this.#loadSettings();
    if (!oidc) return providerAnswer && this.#form.say(NOT_ASKED_FOR);
    const login = new OidcLogin(oidc, {
      onSignedIn: (token) => this.#begin(token),
      onRenewed: (token) => this.#onRenewed(token),
      onRenewalProblem: this.#host.onRenewalProblem,
    });
    this.#login = login;
    this.#form.offer(nameOf(oidc.issuer));
    if (providerAnswer && !this.session) this.#tryProvider(() => login.finish());
  }

  /** @param {string} token */
  #onRenewed(token) {
    const { session } = this;
    const { state, reason } = this.#status;
    if (!session?.hasSameView(token)) return this.#begin(token);
    this.#onToken(token);
    if (state === "signed-out" && mayRenew(reason ?? "")) session.resume(token);
    else session.updateToken(token);
    if (reason === "token_unavailable") session.retry(); // It was waiting for the provider.
  }

  /** Asks until the server answers: it may be restarting. */
  async #loadSettings() {
    for (let failures = 1; ; failures += 1) {
      try {
        return await fetchSettings();
      } catch (error) {
        if (!(error instanceof ApiError)) throw error;
        if (providerAnswer) this.#form.say(explain(error.reason));
        const delay = Math.max(backoff(failures), error.retryAfter);
        await new Promise((resolve) => setTimeout(resolve, delay));
      }
    }
  }

  /** @param {() => Promise<void>} step  With the provider. */
  async #tryProvider(step) {
    this.#form.setBusy(true);
    try {
      await step();
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
      this.#showProblem(error.message);
    } finally {
      this.#form.setBusy(false);
    }
  }

  /** @param {string} text */
  #showProblem(text) {
    if (this.#form.isOpen) this.#form.say(text);
    else this.#host.showNotice(text);
  }
}
