/** Posts alerts to Tocsin, handles them, and follows the stream. Node 20 or newer is needed, and nothing else. */

import { createHmac } from "node:crypto";

const BASE = process.env.TOCSIN_URL ?? "";
const SECRET = process.env.TOCSIN_JWT_SECRET ?? "";

/** The reasons of a close after which reconnecting does not help. */
const FINAL = new Set([
  "scope_missing",
  "topic_forbidden",
  "origin_forbidden",
  "kicked",
  "invalid_request",
  "bad_message",
  "binary_message",
  "invalid_utf8",
  "message_too_big",
]);
const TRANSIENT = new Set([429, 502, 503, 504]);

interface NewAlert {
  title: string;
  topic?: string;
  severity?: "info" | "warning" | "error" | "critical";
  idempotency_key?: string;
}

interface Alert {
  id: string;
  seq: number;
  title: string;
  status: "open" | "acknowledged" | "resolved" | "expired";
  status_by: string;
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

/** Mints a token that is valid for five minutes. */
function token(): string {
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

const sleep = (ms: number) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits for a random time that doubles with each attempt, up to 30 seconds. */
const backOff = (attempt: number) => sleep(Math.random() * Math.min(1000 * 2 ** attempt, 30_000));

/**
 * Sends a request and returns the answer. For a minute it is sent again, which stores nothing twice: alerts have their
 * keys, and an action that is repeated changes nothing.
 */
async function call<T>(method: string, path: string, body?: unknown, key?: string): Promise<T> {
  const deadline = Date.now() + 60_000;
  for (let attempt = 0; ; attempt++) {
    const headers = new Headers({ Authorization: `Bearer ${token()}` });
    if (body !== undefined) headers.set("Content-Type", "application/json");
    if (key !== undefined) headers.set("Idempotency-Key", key);
    try {
      const signal = AbortSignal.timeout(30_000);
      const response = await fetch(BASE + path, { method, headers, body: JSON.stringify(body), signal });
      if (response.ok) return (await response.json()) as T;
      if (!TRANSIENT.has(response.status) || Date.now() > deadline) throw await refusal(response);
      await sleep(1000 * Number(response.headers.get("Retry-After") ?? 0));
    } catch (error) {
      if (error instanceof Refused || Date.now() > deadline) throw error;
    }
    await backOff(attempt);
  }
}

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

/** Calls `handle` with each event after a cursor, over as many connections as it takes. */
async function follow(topic: string, after: string, handle: (event: AlertEvent) => void): Promise<never> {
  const query = new URLSearchParams({ topic, after });
  for (let attempt = 0; ; attempt++) {
    const { isWelcome, reason } = await followOnce(query, handle);
    if (FINAL.has(reason)) throw new Refused(0, reason, "the stream was closed");
    console.error("reconnecting:", reason || "the connection was lost");
    if (isWelcome) attempt = 0;
    await backOff(attempt);
  }
}

/** Follows over one connection and keeps the cursor in `query`; returns whether it was opened, and why it ended. */
function followOnce(
  query: URLSearchParams,
  handle: (event: AlertEvent) => void,
): Promise<{ isWelcome: boolean; reason: string }> {
  return new Promise((resolve) => {
    const socket = new WebSocket(`${BASE.replace("http", "ws")}/v1/ws?${query}`, ["tocsin.v1", `bearer.${token()}`]);
    let isWelcome = false;
    let silence = 60_000;
    let [handled, acknowledged, at] = [0, 0, 0];
    const end = (reason: string) => {
      clearTimeout(timer);
      socket.onmessage = null;
      socket.close();
      resolve({ isWelcome, reason });
    };
    let timer = setTimeout(end, silence, "nothing arrived");
    socket.onclose = ({ reason }) => end(reason.split(":")[0] ?? "");
    socket.onerror = () => end("");
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data as string) as Frame;
      if (frame.type === "welcome") {
        isWelcome = true;
        silence = 2500 * frame.heartbeat_seconds;
      } else if (frame.type === "event") {
        handle(frame);
        handled = frame.seq;
      } else if (frame.type === "gap" || frame.type === "reset") {
        console.error("load the list again:", frame);
      }
      if (frame.cursor !== undefined) query.set("after", frame.cursor);
      if (handled > acknowledged && Date.now() - at > 1000) {
        // The next heartbeat brings the rest.
        socket.send(JSON.stringify({ type: "ack", seq: handled }));
        [acknowledged, at] = [handled, Date.now()];
      }
      clearTimeout(timer);
      timer = setTimeout(end, silence, "nothing arrived");
    };
  });
}

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

await follow("jobs.backup", "0", ({ seq, kind, alert }) => console.log("event", seq, kind, alert.title));
