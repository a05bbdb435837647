/**
 * The loop of a page, or of a program in Node, that receives with the console's stream client.
 *
 *     stream-client.mjs follow CONSUMER TOPIC [AFTER]   handles the events of a topic
 */

import { createHmac } from "node:crypto";
import { StreamClient } from "/tocsin/client.js";

const BASE = process.env.TOCSIN_URL ?? "";
const SECRET = process.env.TOCSIN_JWT_SECRET ?? "";

/** Mints a token that is valid for five minutes. A page fetches one from its own backend instead. */
async function token() {
  const now = Date.now() / 1000;
  const claims = { sub: "page", iss: "tocsin", aud: "tocsin", iat: now, exp: now + 300, scope: "alerts:read" };
  const encode = (part) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

// --8<-- [start:follow]
/** Calls `handle` with each event of a topic, one after another, over as many connections as it takes. */
function follow(consumer, topic, handle, after) {
  let work = Promise.resolve();
  const stream = new StreamClient({
    url: `${BASE.replace("http", "ws")}/v1/ws`,
    token,
    consumer,
    topics: [topic],
    after, // Without it the stream begins where the consumer ended.
    acknowledge: "manual",
    onEvent: (event) => {
      work = work.then(() => handle(event)).then(() => stream.acknowledge(event.seq));
    },
    onGap: (gap) => console.error("load the list of alerts:", gap),
    onReset: (reset) => console.error("load the list of alerts:", reset),
    onState: ({ state, reason }) => {
      console.error(state, reason ?? "");
      if (state === "signed-out") process.exitCode = 1; // For good: it reconnects by itself after all else.
    },
  });
  stream.start();
}
// --8<-- [end:follow]

/** Takes as long as the job says. */
async function work({ seq, kind, alert }) {
  await new Promise((resolve) => setTimeout(resolve, 1000 * (alert.attributes.seconds ?? 0)));
  console.log("event", seq, kind, alert.title);
}

const [, consumer, topic, after] = process.argv.slice(2);
follow(consumer, topic, work, after);
