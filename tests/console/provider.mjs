/**
 * A real OpenID provider for the tests: `node provider.mjs <port> <console's origin>`.
 *
 * It listens on loopback, prints "up" when it does, and obeys the lines that it reads, each of which it prints when it is
 * done: "down" (it refuses connections, and forgets nothing), "up", and "seconds 6" (how long the access tokens live that
 * it issues from then on). The form of its sign-in is our own, because the one it brings loads fonts from elsewhere.
 */

import { generateKeyPairSync } from "node:crypto";
import { createServer } from "node:http";
import { createInterface } from "node:readline";
import Provider from "oidc-provider";

const [port, origin] = process.argv.slice(2);
let accessTokenTTL = 600;
const { privateKey } = generateKeyPairSync("rsa", { modulusLength: 2048 });

const provider = new Provider(`http://127.0.0.1:${port}`, {
  clients: [
    {
      client_id: "tocsin-console",
      token_endpoint_auth_method: "none",
      grant_types: ["authorization_code", "refresh_token"],
      redirect_uris: [`${origin}/`],
      post_logout_redirect_uris: [`${origin}/`],
    },
  ],
  jwks: { keys: [{ ...privateKey.export({ format: "jwk" }), kid: "of-the-tests", use: "sig", alg: "RS256" }] },
  cookies: { keys: ["of the tests"] },
  interactions: { url: (_ctx, { uid }) => `/interaction/${uid}` },
  ttl: { Interaction: 600, Session: 600, Grant: 600, RefreshToken: 600, IdToken: 600 },
  features: {
    devInteractions: { enabled: false },
    revocation: { enabled: true },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: (ctx, form) => {
        ctx.body = `<title>Sign out</title>${form}<button form="op.logoutForm" name="logout" value="yes">Sign out</button>`;
      },
    },
    resourceIndicators: {
      enabled: true,
      getResourceServerInfo: () => ({
        scope: "alerts:read alerts:write alerts:manage",
        audience: "tocsin",
        accessTokenFormat: "jwt",
        accessTokenTTL,
        jwt: { sign: { alg: "RS256" } },
      }),
    },
  },
});

provider.use(async (ctx, next) => {
  if (ctx.path === "/favicon.ico") {
    ctx.status = 204; // A browser would complain of its absence.
    return;
  }
  if (!ctx.path.startsWith("/interaction/")) return next();
  if (ctx.method === "GET") {
    ctx.body =
      '<title>Sign in</title><form method="post"><input name="name" aria-label="Name">' +
      '<button>Sign in</button><button name="refuse" value="yes">Cancel</button></form>';
    return;
  }
  let body = "";
  for await (const chunk of ctx.req) body += chunk;
  const form = new URLSearchParams(body);
  if (form.has("refuse")) {
    const result = { error: "access_denied", error_description: "The person cancelled" };
    return provider.interactionFinished(ctx.req, ctx.res, result);
  }
  const { params } = await provider.interactionDetails(ctx.req, ctx.res);
  const accountId = form.get("name") ?? "";
  const grant = new provider.Grant({ accountId, clientId: params.client_id });
  grant.addOIDCScope("openid offline_access");
  grant.addResourceScope(params.resource, params.scope);
  const result = { login: { accountId }, consent: { grantId: await grant.save() } };
  return provider.interactionFinished(ctx.req, ctx.res, result);
});

let server = null;

const orders = {
  async up() {
    if (server) return;
    server = createServer(provider.callback());
    await new Promise((resolve) => server.listen(Number(port), "127.0.0.1", resolve));
  },
  async down() {
    server?.closeAllConnections();
    await new Promise((resolve) => (server ? server.close(resolve) : resolve()));
    server = null;
  },
  seconds(number) {
    accessTokenTTL = Number(number);
  },
};

async function obey(line) {
  const [order, ...details] = line.split(" ");
  await orders[order](...details);
  console.log(line);
}

await obey("up");
for await (const line of createInterface({ input: process.stdin })) await obey(line);
