/**
 * OpenID Connect for a public client: authorization code with PKCE, renewal, revocation and logout.
 *
 *     discover -> authorizationUrl -> (the person signs in there) -> redeem -> renew, renew, … -> revoke, logoutUrl
 *
 * OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE, S256 only), RFC 8707 (`resource`), RFC 9207 (`iss` of the
 * answer), RFC 7009 (revocation), RP-Initiated Logout 1.0, and RFC 9700 (best current practice). This module keeps no
 * state: oidc-sign-in.js does. The ID token comes from the token endpoint over TLS, which replaces checking its signature
 * (Core, 3.1.3.7, step 6); it is never sent to Tocsin. Tocsin gets the access token and verifies it.
 */

import { claimsOf, lifeOf } from "./jwt-claims.js";

/**
 * @typedef {object} OidcSettings
 * @property {string} issuer
 * @property {string} client_id
 * @property {string} scope
 * @property {string | null} resource
 * @property {Record<string, string>} parameters  More of the authorization request.
 */

/** The metadata of a provider (Discovery 1.0, section 3). @typedef {Record<string, any>} Provider */

/**
 * @typedef {object} Tokens
 * @property {string} access
 * @property {string | null} refresh
 * @property {string} id  The ID token.
 */

/** @typedef {{state: string, nonce: string, verifier: string}} Secrets  Fresh for each sign-in. */

const TIMEOUT_MS = 10_000;
const SKEW_SECONDS = 300;

/** @type {Record<string, string>} */
const ERRORS = {
  access_denied: "The sign-in was cancelled, or you may not use Tocsin.",
  login_required: "The provider wants you to sign in there first.",
  interaction_required: "The provider wants to ask you something first.",
  consent_required: "The provider wants your consent first.",
  invalid_scope: "The provider does not know one of the scopes that Tocsin asks for (TOCSIN_OIDC_SCOPE).",
  invalid_target: "The provider does not know the resource that Tocsin asks for (TOCSIN_OIDC_RESOURCE).",
  invalid_client: "The provider does not know this console as a public client (TOCSIN_OIDC_CLIENT_ID).",
  unauthorized_client: "The provider does not let this console sign people in this way.",
  invalid_grant: "The provider no longer honours this sign-in.",
  temporarily_unavailable: "The provider is overloaded.",
  server_error: "The provider had an internal error.",
};

const TRANSIENT = new Set(["temporarily_unavailable", "server_error"]);

/** A sign-in failed. The message is shown to the person. */
export class OidcError extends Error {
  /**
   * @param {string} message
   * @param {{isTransient?: boolean}} [how]  `isTransient`: a retry may succeed.
   */
  constructor(message, { isTransient = false } = {}) {
    super(message);
    this.isTransient = isTransient;
  }
}

/** The display name of a provider. @param {string} issuer */
export function nameOf(issuer) {
  return new URL(issuer).host;
}

/** @returns {Secrets} */
export function newSecrets() {
  return { state: random(), nonce: random(), verifier: random() };
}

/**
 * @param {OidcSettings} settings
 * @returns {Promise<Provider>}
 */
export async function discover({ issuer }) {
  const provider = await ask(`${issuer.replace(/\/$/, "")}/.well-known/openid-configuration`, issuer, {});
  if (provider.issuer !== issuer) {
    throw new OidcError(`The provider calls itself ${provider.issuer}, and not ${issuer} (TOCSIN_OIDC_ISSUER).`);
  }
  const methods = provider.code_challenge_methods_supported;
  if (methods && !methods.includes("S256")) throw new OidcError("The provider does not know PKCE with S256.");
  for (const name of ["authorization_endpoint", "token_endpoint"]) {
    if (!isHttp(provider[name])) throw new OidcError(`The provider does not say where its ${name} is.`);
  }
  if (!isOf(issuer, provider.token_endpoint)) {
    throw new OidcError("The provider has its token endpoint at another origin, which this page may not talk to.");
  }
  return provider;
}

/**
 * Where to send the person.
 * @param {OidcSettings} settings
 * @param {Provider} provider
 * @param {Secrets} secrets
 * @param {string} redirect
 */
export async function authorizationUrl(settings, provider, { state, nonce, verifier }, redirect) {
  const url = new URL(provider.authorization_endpoint);
  const challenge = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier));
  const parameters = {
    ...settings.parameters,
    ...targetOf(settings),
    response_type: "code",
    client_id: settings.client_id,
    redirect_uri: redirect,
    scope: settings.scope,
    state,
    nonce,
    code_challenge: base64url(new Uint8Array(challenge)),
    code_challenge_method: "S256",
  };
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return url.href;
}

/**
 * Exchanges the code for tokens.
 * @param {OidcSettings} settings
 * @param {Provider} provider
 * @param {URLSearchParams} answer  From the address.
 * @param {Secrets} secrets
 * @param {string} redirect
 * @returns {Promise<Tokens>}
 */
export async function redeem(settings, provider, answer, { state, nonce, verifier }, redirect) {
  if (answer.get("state") !== state) throw new OidcError("This answer is for another sign-in. Sign in again.");
  const issuer = answer.get("iss");
  if (issuer === null ? provider.authorization_response_iss_parameter_supported : issuer !== settings.issuer) {
    throw new OidcError("This answer is of another provider than the one that was asked. Sign in again.");
  }
  const error = answer.get("error");
  if (error) throw refusal(error, answer.get("error_description"));
  const fields = { code: answer.get("code") ?? "", redirect_uri: redirect, code_verifier: verifier };
  const tokens = await grant(settings, provider, "authorization_code", fields);
  const id = idClaims(settings, tokens.id_token);
  if (id.nonce !== nonce) throw new OidcError("The provider's answer is for another sign-in (nonce). Sign in again.");
  return { access: tokens.access_token, refresh: tokens.refresh_token ?? null, id: tokens.id_token };
}

/**
 * Exchanges the refresh token for an access token. If there is a new refresh token, the old one is no longer valid.
 * @param {OidcSettings} settings
 * @param {Provider} provider
 * @param {Tokens} tokens
 * @returns {Promise<Tokens>}
 */
export async function renew(settings, provider, { refresh, id }) {
  const tokens = await grant(settings, provider, "refresh_token", { refresh_token: refresh ?? "" });
  if (tokens.id_token && idClaims(settings, tokens.id_token).sub !== claimsOf(id)?.sub) {
    throw new OidcError("The provider renewed the sign-in of somebody else. Sign in again.");
  }
  return { access: tokens.access_token, refresh: tokens.refresh_token ?? refresh, id: tokens.id_token ?? id };
}

/**
 * Revokes the refresh token at the provider.
 * @param {OidcSettings} settings
 * @param {Provider} provider
 * @param {Tokens} tokens
 */
export async function revoke(settings, provider, { refresh }) {
  const { revocation_endpoint: endpoint } = provider;
  if (!refresh || !endpoint || !isOf(settings.issuer, endpoint)) return;
  const body = new URLSearchParams({ token: refresh, token_type_hint: "refresh_token", client_id: settings.client_id });
  await send(endpoint, settings.issuer, { method: "POST", body, keepalive: true }); // The page may be closing.
}

/**
 * Where to send the person to end their session at the provider; null: not supported.
 * @param {OidcSettings} settings
 * @param {Provider} provider
 * @param {Tokens} tokens
 * @param {string} home
 */
export function logoutUrl(settings, provider, { id }, home) {
  if (!isHttp(provider.end_session_endpoint)) return null;
  const url = new URL(provider.end_session_endpoint);
  const parameters = { id_token_hint: id, client_id: settings.client_id, post_logout_redirect_uri: home };
  for (const [name, value] of Object.entries(parameters)) url.searchParams.set(name, value);
  return url.href;
}

/**
 * @param {OidcSettings} settings
 * @param {Provider} provider
 * @param {string} type
 * @param {Record<string, string>} fields
 */
async function grant(settings, provider, type, fields) {
  const body = new URLSearchParams({
    grant_type: type,
    client_id: settings.client_id,
    ...targetOf(settings),
    ...fields,
  });
  const tokens = await ask(provider.token_endpoint, settings.issuer, { method: "POST", body });
  if (String(tokens.token_type).toLowerCase() !== "bearer" || typeof tokens.access_token !== "string") {
    throw new OidcError("The provider gave no bearer token.");
  }
  if (!claimsOf(tokens.access_token)?.sub) {
    throw new OidcError(
      "The provider gave an access token that is no JWT of a person, which Tocsin cannot check. Providers often want to " +
        "be told for whom it is (TOCSIN_OIDC_RESOURCE, or an audience in TOCSIN_OIDC_PARAMETERS).",
    );
  }
  if (!(lifeOf(tokens.access_token) > 0)) {
    throw new OidcError("The provider gave an access token that does not say how long it lives (exp).");
  }
  return tokens;
}

/**
 * The claims of a valid ID token of this provider for this console (Core, 3.1.3.7).
 * @param {OidcSettings} settings
 * @param {unknown} token
 */
function idClaims(settings, token) {
  const claims = typeof token === "string" ? claimsOf(token) : null;
  if (!claims)
    throw new OidcError("The provider gave no ID token; its scopes have to include openid (TOCSIN_OIDC_SCOPE).");
  const audience = [claims.aud].flat();
  const isForUs = audience.includes(settings.client_id) && (claims.azp ?? settings.client_id) === settings.client_id;
  if (claims.iss !== settings.issuer || !isForUs)
    throw new OidcError("The provider's ID token is not for this console.");
  if (!(claims.exp > Date.now() / 1000 - SKEW_SECONDS)) {
    throw new OidcError("The provider's ID token has expired. Is the clock of this computer right?");
  }
  return claims;
}

/**
 * The document at an address. If it cannot be parsed, a proxy may have answered, or the connection may have been cut.
 * @param {string} url
 * @param {string} issuer
 * @param {RequestInit} request
 * @returns {Promise<Provider>}
 */
async function ask(url, issuer, request) {
  const answer = await send(url, issuer, request);
  if (answer) return answer;
  throw new OidcError(`${nameOf(issuer)} gave an answer that cannot be read.`, { isTransient: true });
}

/**
 * Throws an OidcError on failure. Only an OAuth error (RFC 6749, section 5.2) is final; others are transient.
 * @param {string} url
 * @param {string} issuer
 * @param {RequestInit} request
 * @returns {Promise<Provider | null>}  Null: not a JSON object.
 */
async function send(url, issuer, request) {
  let response;
  try {
    response = await fetch(url, {
      ...request,
      headers: { Accept: "application/json" },
      cache: "no-store",
      credentials: "omit",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
  } catch {
    throw new OidcError(`${nameOf(issuer)} cannot be reached.`, { isTransient: true });
  }
  const answer = await response.json().catch(() => null);
  if (response.ok) return answer instanceof Object ? answer : null;
  const isOverloaded = response.status >= 500 || response.status === 429;
  if (!isOverloaded && isCode(answer?.error)) throw refusal(answer.error, answer.error_description);
  throw new OidcError(`${nameOf(issuer)} answered ${response.status}.`, { isTransient: true });
}

/** Whether this is an OAuth error code: some providers put a sentence or an object there. @param {unknown} error */
function isCode(error) {
  return typeof error === "string" && /^[a-z_]+$/.test(error);
}

/** @param {string} error @param {string | null | undefined} description */
function refusal(error, description) {
  const sentence = ERRORS[error] ?? "The provider refused the sign-in.";
  const isTransient = TRANSIENT.has(error);
  return new OidcError(`${sentence} (${[error, description].filter(Boolean).join(": ")})`, { isTransient });
}

/** @param {OidcSettings} settings @returns {Record<string, string>} */
function targetOf({ resource }) {
  return resource ? { resource } : {};
}

/** @param {unknown} url */
function isHttp(url) {
  return typeof url === "string" && URL.canParse(url) && /^https?:$/.test(new URL(url).protocol);
}

/** Whether the Content Security Policy allows requests to an address. @param {string} issuer @param {string} url */
function isOf(issuer, url) {
  return URL.canParse(url) && new URL(url).origin === new URL(issuer).origin;
}

/** 256 bits. */
function random() {
  return base64url(crypto.getRandomValues(new Uint8Array(32)));
}

/** @param {Uint8Array} bytes */
function base64url(bytes) {
  return btoa(String.fromCharCode(...bytes))
    .replaceAll("+", "-")
    .replaceAll("/", "_")
    .replaceAll("=", "");
}
