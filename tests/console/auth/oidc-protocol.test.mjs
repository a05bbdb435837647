import assert from "node:assert/strict";
import test from "node:test";

import { discover, OidcError, redeem, renew } from "../../../service/console/auth/oidc-protocol.js";

const ISSUER = "https://login.example";
const SETTINGS = { issuer: ISSUER, client_id: "console", scope: "openid", resource: null, parameters: {} };
const PROVIDER = { token_endpoint: `${ISSUER}/token`, authorization_response_iss_parameter_supported: true };
const SECRETS = { state: "s", nonce: "n", verifier: "v" };
const NOW = Math.floor(Date.now() / 1000);
const ID = { iss: ISSUER, aud: "console", sub: "alice", nonce: "n", exp: NOW + 600 };
const ACCESS = { sub: "alice", iat: NOW, exp: NOW + 600 };
const ANSWER = `code=c&state=s&iss=${ISSUER}`;

const tokenOf = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;

/** What an honest provider gives for a code. */
const tokensOf = ({ id = {}, access = {}, ...fields } = {}) => ({
  token_type: "Bearer",
  access_token: tokenOf({ ...ACCESS, ...access }),
  refresh_token: "r1",
  id_token: tokenOf({ ...ID, ...id }),
  ...fields,
});

/** A provider that answers each request alike, and the addresses that it was asked at. */
function answering(t, content, status = 200) {
  const asked = [];
  t.mock.method(globalThis, "fetch", async (url) => {
    asked.push(url);
    return new Response(JSON.stringify(content), { status });
  });
  return asked;
}

const redeemed = (answer = ANSWER) =>
  redeem(SETTINGS, PROVIDER, new URLSearchParams(answer), SECRETS, "https://tocsin.example/");
const refusedWith = (part) => (error) => error instanceof OidcError && error.message.includes(part);

test("a code is redeemed for tokens", async (t) => {
  const asked = answering(t, tokensOf());
  assert.deepEqual(await redeemed(), { access: tokenOf(ACCESS), refresh: "r1", id: tokenOf(ID) });
  assert.deepEqual(asked, [PROVIDER.token_endpoint]);
});

test("of an answer that does not fit no code is redeemed", async (t) => {
  const asked = answering(t, tokensOf());
  for (const [answer, reason] of [
    [`code=c&state=other&iss=${ISSUER}`, "for another sign-in"],
    ["code=c&state=s&iss=https://evil.example", "of another provider"],
    ["code=c&state=s", "of another provider"], // This one says that it names itself.
    [`error=server_error&state=s&iss=${ISSUER}`, "internal error"],
    [`error=odd&error_description=words&state=s&iss=${ISSUER}`, "refused the sign-in. (odd: words)"],
  ]) {
    await assert.rejects(redeemed(answer), refusedWith(reason), answer);
  }
  assert.deepEqual(asked, []);
});

test("tokens that do not fit are refused", async (t) => {
  for (const [tokens, reason] of [
    [tokensOf({ id: { nonce: "other" } }), "(nonce)"],
    [tokensOf({ id: { aud: "another" } }), "not for this console"],
    [tokensOf({ id: { iss: "https://evil.example" } }), "not for this console"],
    [tokensOf({ id: { azp: "another" } }), "not for this console"],
    [tokensOf({ id: { exp: 1 } }), "has expired"],
    [tokensOf({ id_token: null }), "no ID token"],
    [tokensOf({ token_type: "DPoP" }), "no bearer token"],
    [tokensOf({ access_token: "opaque" }), "is no JWT"],
    [tokensOf({ access: { exp: "soon" } }), "does not say how long"],
  ]) {
    answering(t, tokens);
    await assert.rejects(redeemed(), refusedWith(reason), reason);
  }
});

test("a renewal keeps what it does not bring, and is of the same person", async (t) => {
  const before = { access: "a", refresh: "r0", id: tokenOf(ID) };
  answering(t, tokensOf({ refresh_token: undefined, id_token: undefined }));
  const { refresh, id } = await renew(SETTINGS, PROVIDER, before);
  assert.deepEqual([refresh, id], ["r0", before.id]);
  answering(t, tokensOf({ id: { sub: "mallory" } }));
  await assert.rejects(renew(SETTINGS, PROVIDER, before), refusedWith("somebody else"));
});

test("only an error in the words of OAuth is final", async (t) => {
  for (const [content, status, isTransient] of [
    [{ error: "invalid_grant" }, 400, false],
    [{ error: "temporarily_unavailable" }, 400, true],
    [{ error: "Forbidden" }, 403, true], // A proxy's.
    [{ error: { code: 408 } }, 408, true],
    [{ error: "invalid_grant" }, 503, true],
    ["<h1>Welcome</h1>", 200, true],
  ]) {
    answering(t, content, status);
    await assert.rejects(redeemed(), { isTransient }, JSON.stringify([content, status]));
  }
});

test("a provider of another name, without PKCE or with its endpoints elsewhere is refused", async (t) => {
  const honest = { issuer: ISSUER, authorization_endpoint: `${ISSUER}/auth`, token_endpoint: `${ISSUER}/token` };
  const asked = answering(t, honest);
  assert.deepEqual(await discover(SETTINGS), honest);
  assert.deepEqual(asked, [`${ISSUER}/.well-known/openid-configuration`]);
  for (const [said, reason] of [
    [{ issuer: "https://evil.example" }, "calls itself https://evil.example"],
    [{ code_challenge_methods_supported: ["plain"] }, "does not know PKCE"],
    [{ token_endpoint: "https://elsewhere.example/token" }, "at another origin"],
    [{ authorization_endpoint: "javascript:alert(1)" }, "does not say where its authorization_endpoint is"],
    [{ token_endpoint: "https://" }, "does not say where its token_endpoint is"],
  ]) {
    answering(t, { ...honest, ...said });
    await assert.rejects(discover(SETTINGS), refusedWith(reason), reason);
  }
});
