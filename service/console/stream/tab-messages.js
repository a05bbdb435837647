/**
 * The messages between the tabs that share a stream, as types (JSDoc only). `from` is the id of the sending tab.
 */

/** @import { ErrorFrame, EventFrame, GapFrame, PresenceFrame, ResetFrame, WelcomeFrame } from "./wire-types.js" */
/** @import { Status } from "./stream-client.js" */

/**
 * A call of one of the tab's stream callbacks.
 * @typedef {{call: "onState", value: Status}
 *   | {call: "onWelcome", value: WelcomeFrame}
 *   | {call: "onEvent", value: EventFrame}
 *   | {call: "onCursor", value: string}
 *   | {call: "onGap", value: {frame: GapFrame, cursor: string}}
 *   | {call: "onReset", value: ResetFrame}
 *   | {call: "onPresence", value: PresenceFrame}
 *   | {call: "onSeenReported", value: string[]}
 *   | {call: "onError", value: ErrorFrame}} StreamCallback
 */

/**
 * From the leader. `leader`: it leads from now on; join it. `joined`: the reply to `join`; the events after the cursor
 * follow. `unknown`: the stream is not known to have been at the tab's cursor, so the tab cannot follow, or not any more.
 * `stream`: to one tab, or with `to` null to all that have joined.
 * @typedef {{type: "leader"}
 *   | {type: "joined" | "unknown", to: string}
 *   | {type: "stream", to: string | null, callback: StreamCallback}} LeaderMessage
 */

/**
 * Whether the tab has a stream of its own. `settled`: for longer than a node needs to notice that the log's history
 * changed, so its cursor is one of the log.
 * @typedef {"none" | "live" | "settled"} OwnStream
 */

/**
 * A tab joins: it has shown all events up to `cursor`. From a tab that has joined: a check whether the leader is there.
 * `start`: the person asked for the stream, whatever ended it.
 * @typedef {object} JoinMessage
 * @property {"join"} type
 * @property {string} from
 * @property {string | null} cursor  Null: from the current position.
 * @property {OwnStream} own
 * @property {boolean} visible
 * @property {string | null} token
 * @property {boolean} start
 */

/**
 * To the leader. `shown`: the cursor up to which the tab has shown events. `alerts`: the ids of those that somebody saw; the
 * other tabs keep them too, for the next leader.
 * @typedef {JoinMessage
 *   | {type: "visibility", from: string, visible: boolean, shown: string | null}
 *   | {type: "seen", from: string, alerts: string[]}
 *   | {type: "wake", from: string}
 *   | {type: "leave", from: string}} FollowerMessage
 */

/** @typedef {(LeaderMessage & {from: string}) | FollowerMessage} TabMessage */

export {};
