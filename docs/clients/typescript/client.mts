/**
 * Posts alerts to Tocsin, handles them, and follows the stream. Node 20 or newer is needed, and nothing else.
 *
 *     client.mjs                                 shows each operation once, then follows
 *     client.mjs post                            posts an alert for each job that failed, a JSON object a line of
 *                                                standard input
 *     client.mjs follow CONSUMER TOPIC [AFTER]   handles the events of a topic
 */

import { createHmac } from "node:crypto";
import { createInterface } from "node:readline";

const BASE = process.env.TOCSIN_URL ?? "";
const SECRET = process.env.TOCSIN_JWT_SECRET ?? "";

interface NewAlert {
  title: string;
  topic?: string;
  severity?: "info" | "warning" | "error" | "critical";
  attributes?: object;
  idempotency_key?: string;
}

/** A job that failed: an item of the queue. */
interface Failed {
  job: string;
  run: number;
}

interface Alert {
  id: string;
  seq: number;
  title: string;
  status: "open" | "acknowledged" | "resolved" | "expired";
  status_by: string;
  attributes: { seconds?: number };
}

interface BatchResult {
  status: number;
  id?: string;
  code?: string;
}

interface AlertEvent {
  type: "event";
  seq: number;
  kind: string;
  alert: Alert;
}

type Frame = { cursor?: string } & (
  | AlertEvent
  | { type: "welcome"; heartbeat_seconds: number }
  | { type: "gap" | "reset" | "caught_up" | "heartbeat" | "presence" | "error" }
);

/** A refusal: a problem document (RFC 9457), or a close of the stream, whose status is 0. */
class Refused extends Error {
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, detail: string) {
    super(`${status} ${code}: ${detail}`);
    this.status = status;
    this.code = code;
  }
}

/** Mints a token that is valid for five minutes. A page fetches one from its own backend instead. */
async function token(): Promise<string> {
  const now = Math.floor(Date.now() / 1000);
  const claims = {
    sub: "typescript",
    iss: "tocsin",
    aud: "tocsin",
    iat: now,
    exp: now + 300,
    scope: "alerts:write alerts:read alerts:manage",
  };
  const encode = (part: object) => Buffer.from(JSON.stringify(part)).toString("base64url");
  const signed = `${encode({ alg: "HS256", typ: "JWT" })}.${encode(claims)}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

// --8<-- [start:post]

const TRANSIENT = new Set([429, 502, 503, 504]);

/** Posts an alert for each job that failed. */
async function postAll(queue: AsyncIterable<Failed>): Promise<void> {
  for await (const failed of queue) {
    const { job, run } = failed;
    const alert = { title: `${job} failed`, topic: `jobs.${job}`, severity: "error", attributes: failed };
    try {
      // The key is what happened; the same in each attempt.
      const posted = await call<Alert>("POST", "/v1/alerts", alert, `${job}/${run}`);
      console.log("stored", posted.seq); // Now remove it from the queue.
    } catch (error) {
      // Where the token is wrong, no alert would be stored.
      if (!(error instanceof Refused) || error.status === 401 || error.status === 403) throw error;
      console.log("refused", error.status, error.code); // Put it aside.
    }
  }
}

/**
 * Sends a request until it is answered or refused, and returns the answer. Nothing is stored twice: alerts have their
 * keys, and an action that is repeated changes nothing.
 */
async function call<T>(method: string, path: string, body?: unknown, key?: string): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    const headers = new Headers({ Authorization: `Bearer ${await token()}` });
    if (body !== undefined) headers.set("Content-Type", "application/json");
    if (key !== undefined) headers.set("Idempotency-Key", key);
    try {
      const signal = AbortSignal.timeout(30_000);
      const response = await fetch(BASE + path, { method, headers, body: JSON.stringify(body), signal });
      if (response.ok) return (await response.json()) as T;
      if (!TRANSIENT.has(response.status)) throw await refusal(response);
      console.error("again:", response.status);
      await sleep(1000 * Number(response.headers.get("Retry-After") ?? 0));
    } catch (error) {
      if (error instanceof Refused) throw error;
      console.error("again:", error);
    }
    await backOff(attempt);
  }
}

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits for a random time that doubles with each attempt, up to 30 seconds. */
const backOff = (attempt: number) => sleep(Math.random() * Math.min(1000 * 2 ** attempt, 30_000));

// --8<-- [end:post]

/** Decodes a problem document; what a proxy answers in its stead has no code. */
async function refusal(response: Response): Promise<Refused> {
  const text = await response.text();
  try {
    const { code, detail } = JSON.parse(text) as { code: string; detail: string };
    return new Refused(response.status, code, detail);
  } catch {
    return new Refused(response.status, "", text);
  }
}

/** Yields the alerts of a topic, newest first, over all pages. */
async function* list(topic: string): AsyncGenerator<Alert> {
  const query = new URLSearchParams({ topic, limit: "2" });
  for (;;) {
    const page = await call<{ alerts: Alert[]; next: string | null }>("GET", `/v1/alerts?${query}`);
    yield* page.alerts;
    if (page.next === null) return;
    query.set("cursor", page.next);
  }
}

// --8<-- [start:follow]

/** The reasons of a close after which reconnecting does not help. */
const FINAL = new Set([
  "scope_missing",
  "topic_forbidden",
  "origin_forbidden",
  "consumer_limit",
  "kicked",
  "invalid_request",
  "bad_message",
  "binary_message",
  "invalid_utf8",
  "message_too_big",
]);

/**
 * Calls `handle` with each event of a topic, over as many connections as it takes. Without a cursor in `after` it begins
 * where the consumer ended.
 */
async function follow(
  consumer: string,
  topic: string,
  handle: (event: AlertEvent) => Promise<void>,
  after?: string,
): Promise<never> {
  const query = new URLSearchParams({ consumer, topic });
  if (after !== undefined) query.set("after", after);
  for (let attempt = 0; ; attempt++) {
    const address = `${BASE.replace("http", "ws")}/v1/ws?${query}`;
    const socket = new WebSocket(address, ["tocsin.v1", `bearer.${await token()}`]);
    const frames = framesOf(socket);
    try {
      for (;;) {
        const frame = await frames();
        if (frame.type === "welcome") attempt = 0;
        else if (frame.type === "event") await handle(frame);
        else if (frame.type === "gap" || frame.type === "reset") console.error("load the list of alerts:", frame);
        if (frame.cursor !== undefined) query.set("after", frame.cursor);
        if (frame.type === "event") socket.send(JSON.stringify({ type: "ack", seq: frame.seq }));
      }
    } catch (error) {
      if (!(error instanceof Refused) || FINAL.has(error.code)) throw error;
      console.error("reconnecting:", error.code || "the connection was lost");
    } finally {
      socket.close();
    }
    await backOff(attempt);
  }
}

/** Returns a function that returns the next frame. Once the connection has ended it throws; what waited then comes again. */
function framesOf(socket: WebSocket): () => Promise<Frame> {
  const start = (waiting: ReadableStreamDefaultController<Frame>) => {
    let silence = 60_000;
    const end = (reason: string) => {
      clearTimeout(timer);
      socket.onmessage = null;
      waiting.error(new Refused(0, reason, "the stream was closed"));
    };
    let timer = setTimeout(end, silence, "nothing arrived");
    socket.onclose = ({ reason }) => end(reason.split(":")[0] ?? "");
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data as string) as Frame;
      if (frame.type === "welcome") silence = 2500 * frame.heartbeat_seconds;
      waiting.enqueue(frame);
      clearTimeout(timer);
      timer = setTimeout(end, silence, "nothing arrived");
    };
  };
  const reader = new ReadableStream({ start }).getReader();
  return async () => (await reader.read()).value as Frame; // It never ends without an error.
}

// --8<-- [end:follow]

/** Yields the jobs that failed. */
async function* failures(): AsyncGenerator<Failed> {
  for await (const line of createInterface({ input: process.stdin })) yield JSON.parse(line) as Failed;
}

/** Takes as long as the job says. */
async function work({ seq, kind, alert }: AlertEvent): Promise<void> {
  await sleep(1000 * (alert.attributes.seconds ?? 0));
  console.log("event", seq, kind, alert.title);
}

/** Shows each operation once. */
async function tour(): Promise<never> {
  // The key names what happened, so that a second run of the program does not post it again.
  const failed: NewAlert = { title: "Backup failed", topic: "jobs.backup", severity: "error" };
  const posted = await call<Alert>("POST", "/v1/alerts", failed, "backup-2026-11-21");
  console.log("posted", posted.seq);

  const alerts: NewAlert[] = [
    { title: "Disk is 91 % full", topic: "jobs.backup", idempotency_key: "disk-91" },
    { title: "Disk is 97 % full", topic: "jobs.backup", idempotency_key: "disk-97" },
    { title: "", topic: "jobs.backup" },
  ];
  const { results } = await call<{ results: BatchResult[] }>("POST", "/v1/alerts/batch", alerts);
  for (const { status, code } of results) console.log("batch", status, code ?? "");

  for await (const { title } of list("jobs.backup")) console.log("listed", title);

  const taken = await call<Alert>("POST", `/v1/alerts/${posted.id}/acknowledge`);
  console.log("status", taken.status, taken.status_by);

  try {
    await call("POST", "/v1/alerts", { title: "A title", topic: "Not a topic" }, "title-1");
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    console.log("refused", error.status, error.code);
  }

  return follow("tour", "jobs.backup", work, "0");
}

const [command, ...rest] = process.argv.slice(2);
if (command === "post") await postAll(failures());
else if (command === "follow" && rest[0] && rest[1]) await follow(rest[0], rest[1], work, rest[2]);
else await tour();
