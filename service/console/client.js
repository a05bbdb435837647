/**
 * The public entry point for pages that follow the stream: see docs/receiving-alerts.md.
 */

export { viewOf } from "./auth/jwt-claims.js";
export { keepAlive } from "./stream/page-lifecycle.js";
export { SharedStream } from "./stream/shared-stream.js";
export { StreamClient } from "./stream/stream-client.js";
