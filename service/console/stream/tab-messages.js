/**
 * The messages between the tabs that share a stream, as types (JSDoc only). `from` is the id of the sending tab.
 */

/** @import { ErrorFrame, EventFrame, GapFrame, PresenceFrame, WelcomeFrame } from "./wire-types.js" */
/** @import { Status } from "./stream-client.js" */

/**
 * A call of one of the tab's stream callbacks.
 * @typedef {{call: "onState", value: Status}
 *   | {call: "onWelcome", value: WelcomeFrame}
 *   | {call: "onEvent", value: EventFrame}
 *   | {call: "onCursor", value: number}
 *   | {call: "onGap", value: {frame: GapFrame, cursor: number}}
 *   | {call: "onPresence", value: PresenceFrame}
 *   | {call: "onError", value: ErrorFrame}} StreamCallback
 */

/**
 * From the leader. `leader`: it leads from now on; join it. `joined`: the reply to `join`; the events after the cursor
 * follow. `stream`: to one tab, or with `to` null to all that have joined.
 * @typedef {{type: "leader"} | {type: "joined", to: string} | {type: "stream", to: string | null, callback: StreamCallback}} LeaderMessage
 */

/**
 * A tab joins: it has shown all events up to `cursor`. From a tab that has joined: a check whether the leader is there.
 * `start`: the person asked for the stream, whatever ended it.
 * @typedef {object} JoinMessage
 * @property {"join"} type
 * @property {string} from
 * @property {number | null} cursor  Null: from the current position.
 * @property {boolean} visible
 * @property {string | null} token
 * @property {boolean} start
 */

/**
 * To the leader. `shown`: up to where the tab has shown events. `alerts`: the ids of those that somebody saw there.
 * @typedef {JoinMessage
 *   | {type: "visibility", from: string, visible: boolean, shown: number}
 *   | {type: "seen", from: string, alerts: string[]}
 *   | {type: "wake", from: string}
 *   | {type: "leave", from: string}} FollowerMessage
 */

/** @typedef {(LeaderMessage & {from: string}) | FollowerMessage} TabMessage */

export {};
