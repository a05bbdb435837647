/**
 * Cumulative acknowledgements: at most one message per `ACK_DELAY_MS`, whatever number of events it covers.
 */

const ACK_DELAY_MS = 250;

export class Acknowledgements {
  #send;
  #received = 0; // The last event that was passed on,
  #shown = 0; // the last that may be acknowledged,
  #sent = 0; // and the last whose acknowledgement was sent.
  /** @type {ReturnType<typeof setTimeout> | undefined} */ #timer;
  #dueAt = 0;

  /** @param {(seq: number) => boolean | Promise<boolean>} send  Returns whether it was sent. */
  constructor(send) {
    this.#send = send;
  }

  /** An event was passed on. @param {number} seq */
  received(seq) {
    this.#received = seq;
  }

  /** Acknowledges everything up to `seq`, as far as it was received. @param {number} seq */
  acknowledge(seq) {
    this.#shown = Math.max(this.#shown, Math.min(seq, this.#received));
    this.schedule();
  }

  /** Sends what is due soon. In a hidden tab the timer may be a minute late: then the next call sends it. */
  schedule() {
    if (this.#shown <= this.#sent) return;
    if (this.#timer && Date.now() > this.#dueAt) return this.flush();
    if (this.#timer) return;
    this.#dueAt = Date.now() + ACK_DELAY_MS;
    this.#timer = setTimeout(() => this.flush(), ACK_DELAY_MS);
  }

  /** Sends what is due now. */
  flush() {
    this.pause();
    if (this.#shown <= this.#sent) return;
    const seq = this.#shown;
    const before = this.#sent;
    this.#sent = seq;
    Promise.resolve(this.#send(seq)).then((isSent) => {
      if (!isSent && this.#sent === seq) this.#sent = before; // The next heartbeat sends it again.
    });
  }

  /** Stops the timer: the connection is closed. */
  pause() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** A new connection opens: the last acknowledgement may have been lost with the old one, so it is sent again. */
  resend() {
    this.#sent = 0;
  }

  /** What was received may not be in the log any more: nothing of it is acknowledged. */
  reset() {
    this.#received = this.#shown = this.#sent = 0;
  }
}
