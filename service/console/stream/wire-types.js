/**
 * The JSON of the wire format, as types (JSDoc only): the part of the AsyncAPI and OpenAPI contracts that the console uses.
 */

/** @typedef {"info" | "warning" | "error" | "critical"} Severity */
/** @typedef {"open" | "acknowledged" | "resolved" | "expired"} AlertStatus */

/**
 * @typedef {object} Alert
 * @property {string} id
 * @property {string} source
 * @property {string} topic
 * @property {Severity} severity
 * @property {string} title
 * @property {string | null} body
 * @property {Record<string, unknown>} attributes
 * @property {{title: string, url: string}[]} links
 * @property {string[] | null} recipients
 * @property {string | null} dedup_key
 * @property {AlertStatus} status
 * @property {string} status_by
 * @property {string} status_at
 * @property {number} occurrences
 * @property {string} created_at
 * @property {string} updated_at
 * @property {string | null} expires_at
 * @property {string | null} escalate_at
 */

/**
 * @typedef {object} WelcomeFrame
 * @property {"welcome"} type
 * @property {string} connection
 * @property {string} recipient
 * @property {number} head
 * @property {number} after
 * @property {string} cursor
 * @property {number} heartbeat_seconds
 * @property {string} token_expires_at
 * @property {number} event_bytes
 */

/** @typedef {{id: string, text: string}} Comment */
/** @typedef {{type: "event", seq: number, cursor: string, id: string, kind: string, at: string, actor: string, alert: Alert, comment?: Comment}} EventFrame */
/** @typedef {{type: "caught_up", seq: number, cursor: string}} CaughtUpFrame */
/** @typedef {{type: "heartbeat", seq: number, cursor: string, at: string}} HeartbeatFrame */
/** @typedef {{type: "gap", from: number, to: number, reason: "purged"}} GapFrame */
/** @typedef {{type: "reset", after: number | null, cursor: string}} ResetFrame */
/** @typedef {{recipient: string, since: string, connections: number, name?: string}} PresentRecipient */
/** @typedef {{type: "presence", joined: PresentRecipient[], left: string[], changed: PresentRecipient[], present: number, truncated: boolean}} PresenceFrame */
/** @typedef {{type: "error", code: string, detail: string, retry_after: number | null}} ErrorFrame */

/**
 * @typedef {WelcomeFrame | EventFrame | CaughtUpFrame | HeartbeatFrame | GapFrame | ResetFrame | PresenceFrame | ErrorFrame} Frame
 */

/** @typedef {{alerts: (Alert & {seq: number})[], next: string | null, head: number, cursor: string}} AlertPage */
/** @typedef {Pick<EventFrame, "seq" | "kind" | "at" | "actor"> & Pick<Alert, "status" | "severity" | "occurrences" | "title" | "body"> & {comment?: Comment | null}} TimelineEvent */
/** @typedef {{events: TimelineEvent[], next: string | null}} TimelinePage */
/** @typedef {Comment & {actor: string, at: string}} CommentOut */

/**
 * @typedef {object} AlertRecipient
 * @property {string} recipient
 * @property {number} sent
 * @property {number} received
 * @property {string | null} first_sent_at
 * @property {string | null} first_received_at
 * @property {string | null} seen_at
 * @property {number | null} waiting  Seconds; null: they received it.
 */

/** @typedef {{recipients: number, sent_to: number, received_by: number, seen_by: number}} RecipientCounts */
/** @typedef {{counts: RecipientCounts, recipients: AlertRecipient[], next: string | null}} AlertReceipts */
/** @typedef {{present: PresentRecipient[]}} PresenceOut */
/** @typedef {{subject: string, name: string | null, scopes: string[], topics: string[], expires_at: string}} Me */

export {};
