/**
 * The actions on an alert: acknowledge, resolve, reopen.
 *
 * The expected result is shown at once, as a prediction, and withdrawn if the action fails: because somebody else was
 * first, the token does not allow it, or the server did not answer.
 */

import { ApiError } from "../auth/rest-api.js";
import { element } from "../ui/dom.js";
import { explain } from "../ui/error-messages.js";
import { timeOfDay } from "../ui/format.js";
import { person } from "../ui/people.js";

/** @import { Alert } from "../stream/wire-types.js" */
/** @import { Session } from "../auth/session.js" */

/** @typedef {"acknowledge" | "resolve" | "reopen"} Action */
/** @typedef {Pick<Alert, "status" | "status_by">} Prediction */
/** @typedef {Pick<Alert, "status" | "source">} ActionableAlert */

/**
 * @typedef {object} ActionHost
 * @property {() => Session | null} session
 * @property {(id: string) => ActionableAlert | null} find
 * @property {(id: string, prediction: Prediction | null) => void} predict  Null: the action is over.
 * @property {(alert: Alert) => void} applyResponse  The alert as the server has it.
 * @property {(id: string, message: string | Node) => void} showError  Empty: clears it.
 */

export const MANAGE = "alerts:manage";
const WRITE = "alerts:write";

/** @type {Record<Action, {status: Alert["status"], from: Alert["status"][]}>} */
const ACTIONS = {
  acknowledge: { status: "acknowledged", from: ["open"] },
  resolve: { status: "resolved", from: ["open", "acknowledged"] },
  reopen: { status: "open", from: ["acknowledged", "resolved", "expired"] },
};

/** Whether an action changes an alert in its current status. @param {Action} action @param {ActionableAlert} alert */
export function isApplicable(action, { status }) {
  return ACTIONS[action].from.includes(status);
}

/**
 * Whether the token allows an action: with `alerts:write`, a source may resolve its own alerts.
 * @param {Session} session
 * @param {Action} action
 * @param {ActionableAlert} alert
 */
export function isAllowed(session, action, { source }) {
  return session.hasScope(MANAGE) || (action === "resolve" && session.hasScope(WRITE) && source === session.subject);
}

export class Actions {
  #host;
  /** The running action of each alert. @type {Map<string, Promise<void>>} */ #running = new Map();

  /** @param {ActionHost} host */
  constructor(host) {
    this.#host = host;
  }

  /**
   * Runs the first of the actions that applies to the alert's status, after the one that is running for it, and shows
   * the result or why it failed. Does nothing if somebody else signed in meanwhile.
   * @param {string} id
   * @param {...Action} actions
   */
  async run(id, ...actions) {
    const session = this.#host.session();
    const alert = this.#host.find(id);
    if (!session || !alert) return;
    const action = actions.find((one) => isApplicable(one, alert)) ?? actions[0];
    const before = this.#running.get(id) ?? Promise.resolve();
    const running = before
      .then(() => this.#run(session, id, action))
      .finally(() => {
        if (this.#running.get(id) === running) this.#running.delete(id);
      });
    this.#running.set(id, running);
    await running;
  }

  /** @param {Session} session @param {string} id @param {Action} action */
  async #run(session, id, action) {
    const { session: current, find, predict, applyResponse, showError } = this.#host;
    const alert = find(id);
    if (session !== current() || !alert) return;
    if (!isAllowed(session, action, alert))
      return showError(id, `To ${action} it, your token needs the scope ${MANAGE}.`);
    if (!isApplicable(action, alert)) return showError(id, `It is ${alert.status} already.`);
    showError(id, "");
    predict(id, { status: ACTIONS[action].status, status_by: session.subject });
    try {
      const answer = await session.post(`v1/alerts/${id}/${action}`);
      if (session === current()) applyResponse(answer);
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (session !== current()) return;
      if (error.problem.alert) applyResponse(error.problem.alert);
      showError(id, explainFailure(error, action));
    } finally {
      if (session === current()) predict(id, null);
    }
  }
}

/**
 * Why a request failed, and what to do about it.
 * @param {ApiError} error
 * @param {string} doing  Such as "acknowledge".
 */
export function explainFailure({ reason, status, retryAfter, problem }, doing) {
  if (status === 409) return problem.alert ? describeConflict(problem.alert) : String(problem.detail);
  if (status === 401) return `${explain(reason)} Sign in again to ${doing}; nothing on this page is lost.`;
  if (status === 403) return `To ${doing}, your token needs the scope ${MANAGE}.`;
  if (status === 404) return "This alert is gone, or you may not see it any more.";
  if (status === 422) return String(problem.detail ?? explain(reason));
  if (reason === "outcome_unknown")
    return `The server cannot say whether it was done: if you do not see it, ${doing} again.`;
  const when = retryAfter ? `in ${Math.ceil(retryAfter / 1000)} s` : "when you are online again";
  return `${explain(reason)} It may not have been done: ${doing} again ${retryAfter || !status ? when : "in a moment"}.`;
}

/** @param {Alert} alert */
function describeConflict({ status, status_by, status_at }) {
  const at = timeOfDay(Date.parse(status_at));
  if (status === "expired") return `It expired, at ${at}.`;
  return element("span", "", person("", status_by), ` was first: ${status === "open" ? "opened" : status} at ${at}.`);
}
