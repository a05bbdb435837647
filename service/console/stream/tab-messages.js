/**
 * What the tabs that share a stream say to one another over their channel, as types (JSDoc; nothing here runs).
 * `from` is the tab that says it.
 */

/** @import { ErrorFrame, EventFrame, GapFrame, PresenceFrame, WelcomeFrame } from "./wire-types.js" */
/** @import { Status } from "./stream-client.js" */

/**
 * What the stream brought: which callback of the tab it is for, and with what.
 * @typedef {{call: "onState", value: Status}
 *   | {call: "onWelcome", value: WelcomeFrame}
 *   | {call: "onEvent", value: EventFrame}
 *   | {call: "onCursor", value: number}
 *   | {call: "onGap", value: {frame: GapFrame, cursor: number}}
 *   | {call: "onPresence", value: PresenceFrame}
 *   | {call: "onError", value: ErrorFrame}} StreamCallback
 */

/**
 * From the leader. `leader`: it leads from now on, join it. `joined`: the answer to `join`; what came since the
 * cursor follows. `stream` is for all that have joined where `to` is null.
 * @typedef {{type: "leader"} | {type: "joined", to: string} | {type: "stream", to: string | null, callback: StreamCallback}} LeaderMessage
 */

/**
 * "I have shown everything up to `cursor`; send me what comes after." From a tab that has joined: "are you still there?"
 * `start`: a person wants the stream, whatever ended it.
 * @typedef {object} JoinMessage
 * @property {"join"} type
 * @property {string} from
 * @property {number | null} cursor  Null: from where the stream is now.
 * @property {boolean} visible
 * @property {string | null} token
 * @property {boolean} start
 */

/**
 * To the tab that leads. `visibility`: up to where all was shown, and whether anybody can see it.
 * @typedef {JoinMessage
 *   | {type: "visibility", from: string, visible: boolean, shown: number}
 *   | {type: "wake", from: string}
 *   | {type: "leave", from: string}} FollowerMessage
 */

/** @typedef {(LeaderMessage & {from: string}) | FollowerMessage} TabMessage */

export {};
