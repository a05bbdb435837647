/** Uses the functions that orval makes, which call `fetch` with a path. */

import { retried } from "./retried.js";
import {
  acknowledgeAlert,
  type EventKind,
  type GetEventsParams,
  getAlerts,
  getEvents,
  postAlert,
  postBatch,
} from "./tocsin.js";

const TOPIC = "jobs.backup";

const send = globalThis.fetch;
globalThis.fetch = (path, options) => {
  const headers = new Headers(options?.headers);
  headers.set("Authorization", `Bearer ${process.env.TOCSIN_TOKEN}`);
  return send(`${process.env.TOCSIN_URL}${path}`, { ...options, headers });
};

const failed = { title: "Backup failed", topic: TOPIC, severity: "error" } as const;
const posted = await retried(() => postAlert(failed, { headers: { "Idempotency-Key": "backup-2026-11-21" } }));
if (posted.status !== 201) throw new Error(`${posted.status}`);
console.log("posted", posted.data.seq, posted.data.severity);

const batch = await postBatch([
  { title: "Disk is 91 % full", topic: TOPIC, idempotency_key: "disk-91" },
  { title: "Disk is 97 % full", topic: TOPIC, idempotency_key: "disk-97" },
  { title: "", topic: TOPIC },
]);
if (batch.status !== 200) throw new Error(batch.data.code);
for (const { status, seq, code } of batch.data.results) console.log("batch", status, code ?? seq);

let cursor: string | undefined;
do {
  const page = await getAlerts({ topic: [TOPIC], limit: 2, cursor });
  if (page.status !== 200) throw new Error(page.data.code);
  for (const alert of page.data.alerts) console.log("listed", alert.title);
  cursor = page.data.next ?? undefined;
} while (cursor);

const taken = await acknowledgeAlert(posted.data.id);
if (taken.status !== 200) throw new Error(taken.data.code);
console.log("status", taken.data.status, taken.data.status_by);

const refused = await postAlert({ title: "A title", topic: "Not a topic" });
if (refused.status !== 422) throw new Error(`${refused.status}`);
console.log("refused", refused.data.status, refused.data.code, refused.data.code === "invalid_request");

const query: GetEventsParams = { after: "0", topic: [TOPIC], wait: 20 };
for (let kind: EventKind | undefined; kind !== "alert.resolved"; ) {
  const answer = await retried(() => getEvents(query));
  if (answer.status !== 200) throw new Error(answer.data.code);
  for (const event of answer.data.events) {
    console.log("event", event.seq, event.kind, event.alert.title);
    kind = event.kind;
  }
  [query.after, query.connection] = [answer.data.next, answer.data.connection];
}
