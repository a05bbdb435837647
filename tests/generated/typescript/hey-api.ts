/** Uses the client that hey-api makes. */

import { retried } from "./retried.js";
import { client } from "./tocsin/client.gen.js";
import {
  acknowledgeAlert,
  type EventKind,
  type GetEventsData,
  getAlerts,
  getEvents,
  postAlert,
  postBatch,
} from "./tocsin/index.js";

const TOPIC = "jobs.backup";

client.setConfig({ baseUrl: process.env.TOCSIN_URL ?? "", auth: process.env.TOCSIN_TOKEN });

const { data: posted } = await retried(() =>
  postAlert({
    headers: { "Idempotency-Key": "backup-2026-11-21" },
    body: { title: "Backup failed", topic: TOPIC, severity: "error" },
    throwOnError: true,
  }),
);
console.log("posted", posted.seq, posted.severity);

const { data: batch } = await postBatch({
  body: [
    { title: "Disk is 91 % full", topic: TOPIC, idempotency_key: "disk-91" },
    { title: "Disk is 97 % full", topic: TOPIC, idempotency_key: "disk-97" },
    { title: "", topic: TOPIC },
  ],
  throwOnError: true,
});
for (const { status, seq, code } of batch.results) console.log("batch", status, code ?? seq);

let cursor: string | undefined;
do {
  const { data: page } = await getAlerts({ query: { topic: [TOPIC], limit: 2, cursor }, throwOnError: true });
  for (const alert of page.alerts) console.log("listed", alert.title);
  cursor = page.next ?? undefined;
} while (cursor);

const { data: taken } = await acknowledgeAlert({ path: { alert_id: posted.id }, throwOnError: true });
console.log("status", taken.status, taken.status_by);

const { error } = await postAlert({ body: { title: "A title", topic: "Not a topic" } });
console.log("refused", error?.status, error?.code, error?.code === "invalid_request");

const query: GetEventsData["query"] = { after: "0", topic: [TOPIC], wait: 20 };
for (let kind: EventKind | undefined; kind !== "alert.resolved"; ) {
  const { data: answer } = await retried(() => getEvents({ query, throwOnError: true }));
  for (const event of answer.events) {
    console.log("event", event.seq, event.kind, event.alert.title);
    kind = event.kind;
  }
  [query.after, query.connection] = [answer.next, answer.connection];
}
