/** Uses the types that openapi-typescript makes, with openapi-fetch. */

import createClient from "openapi-fetch";
import { retried } from "./retried.js";
import type { components, paths } from "./tocsin.js";

const TOPIC = "jobs.backup";

/** Returns the data of an answer that is no problem. */
function data<T>(answer: { data?: T; error?: components["schemas"]["Problem"] }): T {
  if (answer.data === undefined) throw new Error(answer.error?.code);
  return answer.data;
}

const tocsin = createClient<paths>({
  baseUrl: process.env.TOCSIN_URL,
  headers: { Authorization: `Bearer ${process.env.TOCSIN_TOKEN}` },
});

const posted = data(
  await retried(() =>
    tocsin.POST("/v1/alerts", {
      params: { header: { "Idempotency-Key": "backup-2026-11-21" } },
      body: { title: "Backup failed", topic: TOPIC, severity: "error" },
    }),
  ),
);
console.log("posted", posted.seq, posted.severity);

const batch = await tocsin.POST("/v1/alerts/batch", {
  body: [
    { title: "Disk is 91 % full", topic: TOPIC, idempotency_key: "disk-91" },
    { title: "Disk is 97 % full", topic: TOPIC, idempotency_key: "disk-97" },
    { title: "", topic: TOPIC },
  ],
});
for (const { status, seq, code } of data(batch).results) console.log("batch", status, code ?? seq);

let cursor: string | undefined;
do {
  const page = data(await tocsin.GET("/v1/alerts", { params: { query: { topic: [TOPIC], limit: 2, cursor } } }));
  for (const alert of page.alerts) console.log("listed", alert.title);
  cursor = page.next ?? undefined;
} while (cursor);

const path = { alert_id: posted.id };
const taken = data(await tocsin.POST("/v1/alerts/{alert_id}/acknowledge", { params: { path } }));
console.log("status", taken.status, taken.status_by);

const { error } = await tocsin.POST("/v1/alerts", { body: { title: "A title", topic: "Not a topic" } });
console.log("refused", error?.status, error?.code, error?.code === "invalid_request");

const query: paths["/v1/events"]["get"]["parameters"]["query"] = { after: "0", topic: [TOPIC], wait: 20 };
for (let kind: components["schemas"]["EventKind"] | undefined; kind !== "alert.resolved"; ) {
  const answer = data(await retried(() => tocsin.GET("/v1/events", { params: { query } })));
  for (const event of answer.events) {
    console.log("event", event.seq, event.kind, event.alert.title);
    kind = event.kind;
  }
  [query.after, query.connection] = [answer.next, answer.connection];
}
