import assert from "node:assert/strict";
import test from "node:test";

import { claimsOf, expiryOf, lifeOf, viewOf } from "../../../service/console/auth/jwt-claims.js";

const tokenOf = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.c2ln`;

test("what a token says about itself can be read, in any script", () => {
  assert.deepEqual(claimsOf(tokenOf({ sub: "алиса ☎ ÿ", exp: 7 })), { sub: "алиса ☎ ÿ", exp: 7 });
  assert.equal(expiryOf(tokenOf({ exp: 7 })), 7);
  for (const text of ["", "no token", "a.b", "a.b.c.d", "a.!.c"]) {
    assert.equal(claimsOf(text), null);
    assert.equal(expiryOf(text), 0);
  }
});

test("the lifetime of a token counts from when it was issued, or from now where it does not say", () => {
  assert.equal(lifeOf(tokenOf({ iat: 5, exp: 305 })), 300);
  assert.ok(Math.abs(lifeOf(tokenOf({ exp: Date.now() / 1000 + 300 })) - 300) < 5);
  for (const claims of [{ iat: 5 }, { iat: "5", exp: 305 }, { iat: null, exp: 305 }, { exp: "305" }, {}]) {
    assert.ok(Number.isNaN(lifeOf(tokenOf(claims))));
  }
});

test("tokens share a view where admin, issuer and topics are the same", () => {
  const alice = { iss: "a", sub: "alice", topics: ["b", "a"] };
  assert.equal(viewOf(tokenOf({ ...alice, exp: 1 })), viewOf(tokenOf({ ...alice, topics: ["a", "b"], exp: 2 })));
  const others = [
    { ...alice, sub: "bob" },
    { ...alice, iss: "b" },
    { ...alice, topics: ["a"] },
    { iss: "a", sub: "alice" },
  ];
  assert.equal(new Set([alice, ...others].map((claims) => viewOf(tokenOf(claims)))).size, 5);
});
