/**
 * Signing in with OpenID Connect, as far as the page is concerned: there and back, renewing in time, signing out.
 *
 *     out --begin()--> away --finish()--> in --renew()--> in … --signOut()--> away --> out
 *
 * The tokens live in this object's memory and nowhere else. Renewal starts before the access token expires: a minute, or
 * a third of a short life. It counts from when the token came, by the life that it says it has, so a clock that is wrong
 * does no harm. A provider that is down is asked again until it is there; one that refuses wants the person. So does a
 * server that refuses one fresh token after the other. Tokens that are forgotten are revoked at the provider.
 */

import { backoff } from "../stream/close-policy.js";
import { lifeOf } from "./jwt-claims.js";
import { authorizationUrl, discover, logoutUrl, newSecrets, OidcError, redeem, renew, revoke } from "./oidc.js";
import { providerAnswer, redirectAddress, rememberSignIn } from "./oidc-redirect.js";

/** @import { OidcSettings, Provider, Tokens } from "./oidc.js" */

/**
 * @typedef {object} OidcLoginListener
 * @property {(token: string) => void} onSignedIn   The person came back with a token.
 * @property {(token: string) => void} onRenewed
 * @property {(problem: string | null) => void} onRenewalProblem  Renewing fails, or, with null, no longer does.
 */

const RENEW_BEFORE_EXPIRY_MS = 60_000;
const RENEWAL_MIN_MS = 5_000; // However short a life a token says it has.
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
    document.addEventListener("visibilitychange", () => document.hidden || wake()); // A laptop's sleep stops timers.
  }

  get issuer() {
    return this.#settings.issuer;
  }

  /** Whether tokens are renewed without a person, and the last attempt did not fail. */
  get renews() {
    return Boolean(this.#tokens?.refresh) && this.#failures === 0;
  }

  /** Whether the token that is in use came from here. */
  get signedIn() {
    return this.#tokens !== null;
  }

  /** Sends the person to the provider. Throws an OidcError where that cannot be done. */
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

  /** Goes on where the person came back from the provider. Throws an OidcError where the answer will not do. */
  async finish() {
    if (!providerAnswer) return;
    const { pending, answer } = providerAnswer;
    if (pending?.issuer !== this.issuer) throw new OidcError("This page did not ask for this sign-in. Sign in again.");
    this.#provider = await discover(this.#settings);
    this.#store(await redeem(this.#settings, this.#provider, answer, pending, redirectAddress()));
    this.#listener.onSignedIn(/** @type {Tokens} */ (this.#tokens).access);
  }

  /**
   * A fresh access token, or null where the person has to sign in again.
   * Throws an OidcError where the provider may have one later.
   */
  renew() {
    if (!this.#tokens?.refresh) return Promise.resolve(null);
    this.#renewing ??= this.#renew().finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  /**
   * The same for a token that the server refused. Where it refuses the fresh ones too, the login is forgotten: another
   * would be refused as well, and the person may have another way.
   */
  async replaceRefusedToken() {
    if (this.#unconfirmedTokens >= REFUSED_TOKENS_MAX) this.forget();
    const token = await this.renew();
    if (token) this.#unconfirmedTokens += 1;
    return token;
  }

  /** The server takes the tokens. */
  confirmTokens() {
    this.#unconfirmedTokens = 0;
  }

  /** Forgets the tokens, here without waiting for anybody. */
  forget() {
    const tokens = this.#clear();
    if (tokens) this.#revokeQuietly(tokens);
  }

  /**
   * Signs out here, and then at the provider. Returns where to send the person to end their session there; null where that
   * cannot be done, or they are signing in again. Throws an OidcError where the provider is not there.
   */
  async signOut() {
    const [started, renewing] = [this.#startedSignIns, this.#renewing];
    const tokens = this.#clear();
    if (!this.#provider || !tokens) return null;
    const [revoked, there] = await Promise.allSettled([
      revoke(this.#settings, this.#provider, tokens),
      discover(this.#settings), // A person who is sent to a provider that is down would be left with nothing.
      renewing, // What it brings is to be revoked too.
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

  /** Nobody waits for it, and nobody can help where it fails. @param {Tokens} tokens */
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
