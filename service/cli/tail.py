"""``tocsin tail``: the live stream in a terminal, or in a pipe."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, cast

import typer

from service.cli.client_options import Token, TokenFile, Url, bearer, explained, printable
from service.cli.option_checks import one_of, topics
from service.cli.standard_output import LineWriter, ReaderLeft, written_out
from service.client import Client, ClientError, Connected, Disconnected, Gap, Reset
from service.client.validation import checked_consumer, start_of
from service.settings import load
from service.severity import CHOICES, SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from service.client import AlertEvent, Notice
    from service.severity import Severity

FIRST_CONNECTION_SECONDS = 5
LAST_ACK_SECONDS = 1
_COLOURS = {"critical": "\033[1;97;41m", "error": "\033[1;31m", "warning": "\033[33m", "info": "\033[36m"}
_FAINT, _RESET = "\033[2m", "\033[0m"


def tail(  # noqa: PLR0913 - the options of a stream
    *,
    after: Annotated[
        str | None, typer.Option(help="A cursor, a seq, or latest; absent: where this filter ended.")
    ] = None,
    topic: Annotated[
        list[str] | None, typer.Option(help="A topic or a pattern; repeat for several.", callback=topics)
    ] = None,
    min_severity: Annotated[str | None, typer.Option(help=f"{CHOICES}.", callback=one_of(*SEVERITIES))] = None,
    consumer: Annotated[
        str | None, typer.Option(help="A name for this program: it resumes where that ended, whatever others do.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="Leave after so many events.")] = None,
    url: Url = None,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each event as a line of JSON.")] = False,
) -> None:
    """Print events as they happen, until Ctrl-C.

    What was written out is acknowledged: what a file or the terminal has, or what the reader of a pipe has
    read, if it takes no longer than a second for a line. When the service restarts or the network
    breaks, the command reconnects and continues without a gap.
    """
    try:
        start_of(after)
    except ClientError as error:
        raise typer.BadParameter(str(error), param_hint="--after") from None
    try:
        checked_consumer(consumer)
    except ClientError as error:
        raise typer.BadParameter(str(error), param_hint="--consumer") from None
    settings = load().client
    address = url or settings.url
    with written_out():  # nothing yet, but it must be possible
        _end_with_the_reader()
    try:
        with explained(address), Client(address, bearer(settings, token, token_file)) as client:
            stream = client.stream(
                after=after,
                topics=topic or (),
                min_severity=cast("Severity | None", min_severity),
                consumer=consumer,
                first_connection_seconds=FIRST_CONNECTION_SECONDS,
                on_notice=_Notices(),
            )
            with stream as events:
                _print(events, count, as_json=as_json)
    except (KeyboardInterrupt, ReaderLeft):
        return


def _end_with_the_reader() -> None:
    """End like on Ctrl-C when the process is to terminate, and when the reader of the pipe ends."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_leave_with_the_reader, daemon=True).start()


def _leave_with_the_reader() -> None:
    """End the process when the reader of the pipe ends, and not only at the next event."""
    output = select.poll()
    output.register(sys.stdout, 0)  # errors are reported unasked
    output.poll()
    time.sleep(LAST_ACK_SECONDS)  # what was printed is acknowledged meanwhile
    os._exit(0)


def _print(events: Iterable[AlertEvent], count: int | None, *, as_json: bool) -> None:
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")  # no-color.org; it is no setting of ours
    output = LineWriter()
    for number, event in enumerate(events, 1):
        output.write(json.dumps(event.raw, ensure_ascii=False) if as_json else line(event, colours=colours))
        if number == count:
            return


def line(event: AlertEvent, *, colours: bool) -> str:
    """Return an event as one line: when, how bad, about what, and from whom."""
    alert = event.alert
    paint, faint, reset = (_COLOURS.get(alert.severity, ""), _FAINT, _RESET) if colours else ("", "", "")
    what = "" if event.kind == "alert.created" else f" ({printable(event.kind.removeprefix('alert.'))})"
    when, severity = f"{event.at.astimezone():%H:%M:%S}", f"{printable(alert.severity):<8}"
    return (
        f"{faint}{when}{reset} {paint}{severity}{reset} {printable(alert.topic)}: {printable(alert.title)}{what}"
        f" {faint}[{printable(event.actor)}, {event.seq}]{reset}"
    )


class _Notices:
    """Prints drops, gaps and resets on standard error, once there was a connection."""

    def __init__(self) -> None:
        self._connected = False

    def __call__(self, notice: Notice) -> None:
        match notice:
            case Connected():
                self._connected = True
            case Disconnected(reason=reason, retry_seconds=seconds) if self._connected:
                _say(f"{printable(reason)}; back in {seconds:.1f} s")
            case Reset(after=None, cursor=cursor):
                _say(f"the log lost events: what was printed may be void; continuing after {printable(cursor)}")
            case Reset(after=after, cursor=cursor):
                _say(f"the log lost events: those after {after} are void; continuing after {printable(cursor)}")
            case Gap(first=first, last=last, reason=reason):
                _say(f"events {first} to {last} cannot be had: {printable(reason)}")


def _say(text: str) -> None:
    print(f"tocsin: {text}", file=sys.stderr, flush=True)
