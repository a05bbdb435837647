/**
 * A login with OpenID Connect: redirect, renewal and logout.
 *
 *     out --begin()--> at the provider --finish()--> in --renew()--> in … --signOut()--> at the provider --> out
 *
 * Tokens are kept in memory only. Renewal starts a minute before the access token expires, or a third of a short
 * lifetime. The time is counted from the arrival of the token, so a wrong clock does no harm. If the provider is down,
 * renewal is retried; if it refuses, or if the server refuses several fresh tokens in a row, the person has to sign in
 * again. Tokens that are discarded are revoked at the provider.
 */

import { backoff } from "../stream/close-policy.js";
import { lifeOf } from "./jwt-claims.js";
import {
  authorizationUrl,
  discover,
  logoutUrl,
  newSecrets,
  OidcError,
  redeem,
  renew,
  revoke,
} from "./oidc-protocol.js";
import { providerAnswer, redirectAddress, rememberSignIn } from "./oidc-redirect.js";

/** @import { OidcSettings, Provider, Tokens } from "./oidc-protocol.js" */

/**
 * @typedef {object} OidcLoginListener
 * @property {(token: string) => void} onSignedIn   The person is back with a token.
 * @property {(token: string) => void} onRenewed
 * @property {(problem: string | null) => void} onRenewalProblem  Null: renewal works again.
 */

const RENEW_BEFORE_EXPIRY_MS = 60_000;
const RENEWAL_MIN_MS = 5_000; // However short the lifetime of a token is.
const REFUSED_TOKENS_MAX = 3;
const TIMER_MAX_MS = 2 ** 31 - 1;

export class OidcLogin {
  #settings;
  #listener;
  /** @type {Provider | null} */ #provider = null;
  /** @type {Tokens | null} */ #tokens = null;
  /** @type {Promise<string | null> | null} */ #renewing = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #renewAt = Infinity;
  #failures = 0;
  #unconfirmedTokens = 0;
  #startedSignIns = 0;

  /** @param {OidcSettings} settings @param {OidcLoginListener} listener */
  constructor(settings, listener) {
    this.#settings = settings;
    this.#listener = listener;
    const wake = () => Date.now() >= this.#renewAt && this.#renewQuietly();
    addEventListener("online", wake);
    document.addEventListener("visibilitychange", () => document.hidden || wake()); // Timers stop while a laptop sleeps.
  }

  get issuer() {
    return this.#settings.issuer;
  }

  /** Whether tokens are renewed without the person, and the last renewal did not fail. */
  get renews() {
    return Boolean(this.#tokens?.refresh) && this.#failures === 0;
  }

  /** Whether the token in use is from this login. */
  get signedIn() {
    return this.#tokens !== null;
  }

  /** Sends the person to the provider. Throws an OidcError if that is not possible. */
  async begin() {
    this.#startedSignIns += 1;
    if (!isSecureContext) throw new OidcError("Signing in with a provider needs this page to be served over https.");
    const provider = await discover(this.#settings);
    const secrets = newSecrets();
    const url = await authorizationUrl(this.#settings, provider, secrets, redirectAddress());
    try {
      rememberSignIn({ ...secrets, issuer: this.issuer });
    } catch {
      throw new OidcError("This browser lets the page keep nothing while it is away. Allow it storage for this site.");
    }
    location.assign(url);
  }

  /** Redeems the provider's answer. Throws an OidcError if it is not valid. */
  async finish() {
    if (!providerAnswer) return;
    const { pending, answer } = providerAnswer;
    if (pending?.issuer !== this.issuer) throw new OidcError("This page did not ask for this sign-in. Sign in again.");
    this.#provider = await discover(this.#settings);
    this.#store(await redeem(this.#settings, this.#provider, answer, pending, redirectAddress()));
    this.#listener.onSignedIn(/** @type {Tokens} */ (this.#tokens).access);
  }

  /**
   * A fresh access token, or null if the person has to sign in again. Throws an OidcError if a retry may succeed.
   */
  renew() {
    if (!this.#tokens?.refresh) return Promise.resolve(null);
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  /**
   * The same for a token that the server refused. If it refuses several fresh tokens, this login is discarded: another
   * token would be refused as well, and the person may have a token from elsewhere.
   */
  async replaceRefusedToken() {
    if (this.#unconfirmedTokens >= REFUSED_TOKENS_MAX) this.discard();
    const token = await this.renew();
    if (token) this.#unconfirmedTokens += 1;
    return token;
  }

  /** The server accepted the last token. */
  confirmTokens() {
    this.#unconfirmedTokens = 0;
  }

  /** Discards the tokens, and revokes them in the background. */
  discard() {
    const tokens = this.#clear();
    if (tokens) this.#revokeQuietly(tokens);
  }

  /**
   * Signs out here, and then at the provider. Returns where to send the person to end their session there; null if there
   * is no such address, or they are signing in again. Throws an OidcError if the provider cannot be reached.
   */
  async signOut() {
    const [started, renewing] = [this.#startedSignIns, this.#renewing];
    const tokens = this.#clear();
    if (!this.#provider || !tokens) return null;
    const [revoked, there] = await Promise.allSettled([
      revoke(this.#settings, this.#provider, tokens),
      discover(this.#settings), // Do not send the person to a provider that is down.
      renewing, // Its tokens are to be revoked too.
    ]);
    if (started !== this.#startedSignIns) return null;
    if (there.status === "rejected") throw there.reason;
    const url = logoutUrl(this.#settings, this.#provider, tokens, redirectAddress());
    if (!url && revoked.status === "rejected") throw revoked.reason;
    return url;
  }

  #clear() {
    const tokens = this.#tokens;
    clearTimeout(this.#timer);
    this.#renewAt = Infinity;
    this.#failures = this.#unconfirmedTokens = 0;
    this.#tokens = null;
    this.#listener.onRenewalProblem(null);
    return tokens;
  }

  /** Ignores failures. @param {Tokens} tokens */
  async #revokeQuietly(tokens) {
    try {
      await revoke(this.#settings, /** @type {Provider} */ (this.#provider), tokens);
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
    }
  }

  /** @returns {Promise<string | null>} */
  async #renew() {
    const before = /** @type {Tokens} */ (this.#tokens);
    try {
      const tokens = await renew(this.#settings, /** @type {Provider} */ (this.#provider), before);
      if (this.#tokens !== before) {
        this.#revokeQuietly(tokens); // Signed out in the meantime.
        return null;
      }
      this.#store(tokens);
      this.#failures = 0;
      this.#listener.onRenewalProblem(null);
      this.#listener.onRenewed(tokens.access);
      return tokens.access;
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
      if (this.#tokens !== before) return null;
      this.#failures += 1;
      this.#listener.onRenewalProblem(error.message);
      if (error.isTransient) throw error;
      this.#tokens = { ...before, refresh: null };
      return null;
    }
  }

  /** @param {Tokens} tokens */
  #store(tokens) {
    this.#tokens = tokens;
    if (!tokens.refresh) return;
    const life = lifeOf(tokens.access) * 1000;
    this.#renewIn(Math.max(RENEWAL_MIN_MS, life - Math.min(RENEW_BEFORE_EXPIRY_MS, life / 3)));
  }

  /** @param {number} delay */
  #renewIn(delay) {
    clearTimeout(this.#timer);
    this.#renewAt = Date.now() + delay;
    this.#timer = setTimeout(() => this.#renewQuietly(), Math.min(delay, TIMER_MAX_MS));
  }

  async #renewQuietly() {
    try {
      await this.renew();
    } catch (error) {
      if (!(error instanceof OidcError)) throw error;
      if (this.#tokens) this.#renewIn(backoff(this.#failures));
    }
  }
}
