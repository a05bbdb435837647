/**
 * Streams over plain HTTP: `fetch` with the token in a header, and a reader of server-sent events. An `EventSource` could
 * only send the token in the address, where it would end up in logs.
 */

/** The server closed the stream or refused the request. */
export class StreamClosed extends Error {
  /**
   * @param {number} code  1008: a refusal by the server. 1006: the network or a proxy, or the server failed.
   * @param {string} reason
   * @param {string} [hint]  What the server says more about it, for people.
   */
  constructor(code, reason, hint = "") {
    super(reason);
    this.code = code;
    this.reason = reason;
    this.hint = hint;
  }
}

/**
 * Requests a stream. Throws a StreamClosed where the answer is an error.
 * @param {string} url
 * @param {{token: string, accept: string, signal: AbortSignal}} options
 */
export async function openStream(url, { token, accept, signal }) {
  const headers = { Authorization: `Bearer ${token}`, Accept: accept };
  const response = await fetch(url, { headers, signal, cache: "no-store" });
  if (response.ok) return response;
  const problem = await response.json().catch(() => ({})); // A proxy's own page is no problem document.
  throw new StreamClosed(problem.code && response.status < 500 ? 1008 : 1006, problem.code ?? "", problem.detail);
}

/**
 * The data of each server-sent event, until the answer ends. Throws a StreamClosed at a `close` frame.
 * @param {Response} response
 * @returns {AsyncGenerator<string, void>}
 */
export async function* readEvents(response) {
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  const decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const messages = (text + decoder.decode(value, { stream: true })).split("\n\n");
    text = messages.pop() ?? "";
    for (const message of messages) {
      const data = message
        .split("\n")
        .find((line) => line.startsWith("data: "))
        ?.slice("data: ".length);
      if (data?.startsWith('{"type":"close",')) {
        const { code, reason } = JSON.parse(data);
        throw new StreamClosed(code, reason);
      }
      if (data) yield data;
    }
  }
}
