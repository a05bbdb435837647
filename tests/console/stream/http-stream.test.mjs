import assert from "node:assert/strict";
import test from "node:test";

import { openStream, readEvents, StreamClosed } from "../../../service/console/stream/http-stream.js";

/** A response that arrives in chunks of so many bytes. */
function responseOf(text, size) {
  const bytes = new TextEncoder().encode(text);
  const body = new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
      controller.close();
    },
  });
  return new Response(body);
}

async function read(text, size = 1_000) {
  const data = [];
  for await (const one of readEvents(responseOf(text, size))) data.push(one);
  return data;
}

test("events are read whatever the chunks in which they arrive", async () => {
  const text = ': comment\n\nid: 7\ndata: {"title":"é\u2028☎"}\n\ndata: {}\n\ndata: cut off';
  for (const size of [1, 2, 3, 7, 1_000])
    assert.deepEqual(await read(text, size), ['{"title":"é\u2028☎"}', "{}"], `${size}`);
});

test("a close frame ends the stream with its code and reason", async () => {
  const text = 'data: 1\n\ndata: {"type":"close","code":1012,"reason":"shutting_down"}\n\ndata: 2\n\n';
  await assert.rejects(read(text), (error) => {
    assert.ok(error instanceof StreamClosed);
    assert.deepEqual([error.code, error.reason], [1012, "shutting_down"]);
    return true;
  });
});

test("a refusal is told from a failure of the server or of a proxy", async (t) => {
  const answers = [
    [401, { code: "token_expired" }, 1008, "token_expired"],
    [503, { code: "overloaded" }, 1006, "overloaded"],
    [403, null, 1006, ""],
  ];
  for (const [status, problem, code, reason] of answers) {
    t.mock.method(globalThis, "fetch", async (_url, { headers }) => {
      assert.equal(headers.Authorization, "Bearer t1");
      return new Response(problem ? JSON.stringify(problem) : "<p>No.", { status });
    });
    const options = { token: "t1", accept: "text/event-stream", signal: new AbortController().signal };
    await assert.rejects(openStream("http://localhost/v1/events", options), { code, reason });
  }
});
