"""``tocsin send``: post one alert, or many, from a shell."""

from __future__ import annotations

import codecs
import json
import math
import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, cast
from urllib.parse import urlsplit

import typer

from service.cli import option_checks
from service.cli.client_options import Token, TokenFile, Url, bearer, explained
from service.cli.time_options import duration
from service.client import BatchRefused, Client, ClientError, Posted
from service.errors import CommandFailed
from service.settings import load
from service.severity import CHOICES, SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import timedelta

    from service.client import NewAlert

STDIN_MAX_BYTES = 32 * 1024 * 1024
TITLE_MAX = 200
DIGITS_MAX = 4_300
"""Of an integer; Python reads no longer ones by default."""
_BEGINS_OBJECT = re.compile(r'[\ufeff\s]*(?P<array>\[\s*)?\{\s*("|$)')
"""Text that is meant as JSON, and not a title such as ``{host} is down``."""
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class _NumberTooLong(ValueError):
    """JSON has an integer that no service reads."""


class Item(NamedTuple):
    """An alert, and where in stdin it is."""

    where: str
    alert: Any


def send(  # noqa: PLR0913 - the fields of an alert
    *,
    stdin: Annotated[str | None, typer.Argument(metavar="[-]", help="- reads JSON, NDJSON or text from stdin.")] = None,
    title: Annotated[str | None, typer.Option(help="What happened, in one line.")] = None,
    topic: Annotated[
        str | None, typer.Option(help="Such as payments.eu; default: default.", callback=option_checks.topic)
    ] = None,
    severity: Annotated[
        str | None, typer.Option(help=f"{CHOICES}; default: info.", callback=option_checks.one_of(*SEVERITIES))
    ] = None,
    body: Annotated[str | None, typer.Option(help="More text.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Repeat for several.")] = None,
    link: Annotated[list[str] | None, typer.Option(metavar="[TITLE=]URL", help="Repeat for several.")] = None,
    recipient: Annotated[
        list[str] | None, typer.Option(help="These admins only; repeat for several.", callback=option_checks.subject)
    ] = None,
    dedup_key: Annotated[str | None, typer.Option(help="Repeats the unresolved alert with this key.")] = None,
    expires_in: Annotated[str | None, typer.Option(metavar="DURATION", help="90, 15m, 2h or 1d.")] = None,
    escalate_after: Annotated[
        str | None,
        typer.Option(metavar="DURATION", help="Then it is for all who may see its topic, unless acknowledged."),
    ] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A second post with this key stores nothing.", callback=option_checks.subject)
    ] = None,
    url: Url = None,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each alert.")] = False,
) -> None:
    """Post an alert and print its id and its seq.

    It is stored when the command returns. With - the alerts come from stdin: a JSON object, an
    array or NDJSON with the fields of the reference, or text, whose first line is the title.
    Options are the defaults of missing fields. If a line cannot be read, none is sent; if the service
    refuses some, the others are stored.
    """
    if stdin not in (None, "-"):
        raise typer.BadParameter("takes only -, which reads stdin; the title goes in --title", param_hint="[-]")
    given = {
        "title": title,
        "topic": topic,
        "severity": severity,
        "body": body,
        "attributes": _attributes(attribute or []),
        "links": [_link(item) for item in link or ()],
        "recipients": recipient,
        "dedup_key": dedup_key,
        "expires_at": _expiry(expires_in),
        "escalate_after": _seconds(escalate_after, "--escalate-after"),
        "idempotency_key": idempotency_key,
    }
    fields = {name: value for name, value in given.items() if value}
    items = _from_stdin(fields) if stdin else [Item("", fields)]
    for where, alert in items:
        if "title" not in alert:
            if not stdin:
                raise typer.BadParameter("an alert needs a title", param_hint="--title")
            raise CommandFailed(f"{where or 'the alert'} has no title, and nothing was sent: add one, or give --title")
    _require_characters(items)
    settings = load().client
    address = url or settings.url
    with explained(address), Client(address, bearer(settings, token, token_file)) as client:
        _post(client, items, as_json=as_json)


def _require_characters(items: list[Item]) -> None:
    """Refuse bytes of the command line that are not UTF-8, and halves of surrogate pairs in JSON."""
    for where, alert in items:
        try:
            json.dumps(alert, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            found = f"U+{ord(error.object[error.start]):04X}"
            raise CommandFailed(
                f"{where or 'an alert'} has {found}, which is no character, and nothing was sent: use UTF-8"
            ) from None
        except RecursionError:
            raise CommandFailed(
                f"{where or 'the alert'} is nested too deeply, and nothing was sent: flatten it"
            ) from None


def _post(client: Client, items: list[Item], *, as_json: bool) -> None:
    """Post the alerts, and print where each stands in the log.

    Raises:
        CommandFailed: the service refused some; the others are stored.

    """
    if len(items) == 1:
        alert = items[0].alert
        print(_shown(client.post(alert.pop("title"), **alert), as_json=as_json))
        return
    try:
        results: Sequence[Posted | ClientError] = client.post_batch([cast("NewAlert", item.alert) for item in items])
    except BatchRefused as error:
        results = error.results
    refused = [
        (item.where, result) for item, result in zip(items, results, strict=True) if not isinstance(result, Posted)
    ]
    for result in results:
        if isinstance(result, Posted):
            print(_shown(result, as_json=as_json))
    if refused:
        where, first = refused[0]
        raise CommandFailed(f"{len(refused)} of {len(items)} alerts were not stored; the first, {where}: {first}")


def _shown(posted: Posted, *, as_json: bool) -> str:
    if not as_json:
        return f"{posted.id} {posted.seq}"
    answer = {"id": posted.id, "seq": posted.seq, "replayed": posted.replayed, "repeated": posted.repeated}
    return json.dumps(answer)


def _from_stdin(fields: dict[str, Any]) -> list[Item]:
    """Read alerts; ``fields`` are the defaults of their missing fields."""
    data = sys.stdin.buffer.read(STDIN_MAX_BYTES + 1)
    if len(data) > STDIN_MAX_BYTES:
        raise CommandFailed(f"stdin holds more than {STDIN_MAX_BYTES} bytes: send it in parts")
    text = decoded(data)
    if not text.strip():
        raise CommandFailed("stdin is empty: nothing was sent")
    if (items := _parsed(text, has_title="title" in fields)) is None:
        return [Item("", _from_text(text.strip(), fields))]
    if not items:
        raise CommandFailed("stdin holds an empty list: nothing was sent")
    for where, value in items:
        if not isinstance(value, dict):
            raise CommandFailed(f"{where} is no JSON object, and nothing was sent: correct it")
    return [Item(where, {**fields, **alert}) for where, alert in items]


def decoded(data: bytes) -> str:
    """Return the text of stdin: UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it."""
    try:
        return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"stdin is not {error.encoding} at byte {error.start}, and nothing was sent: convert it to UTF-8"
        ) from None


def _parsed(text: str, *, has_title: bool) -> list[Item] | None:
    """Return the values of JSON or NDJSON, and where each is; None where it is text.

    A number, null or a string alone, such as a program prints that found nothing, is text only under a title.
    """
    # Only line feeds end a line: JSON may hold all else that splitlines() takes for an end.
    lines = [Item(f"line {number}", line.strip("\ufeff \t\r")) for number, line in enumerate(text.split("\n"), 1)]
    lines = [line for line in lines if line.alert]
    try:
        value = _read_json("stdin", text)
    except ValueError as error:
        begin = _BEGINS_OBJECT.match(text)
        if (begin and begin["array"]) or not any(_is_object(line.alert) for line in lines):
            if not begin and not isinstance(error, _NumberTooLong):
                return None
            raise CommandFailed(f"stdin is no JSON, and nothing was sent: {error}") from None
        return [Item(where, _loaded(where, line)) for where, line in lines]
    if isinstance(value, list):
        return [Item(f"number {number}", item) for number, item in enumerate(value, 1)]
    if isinstance(value, dict):
        return [Item("", value)]
    if has_title:
        return None
    raise CommandFailed(
        "stdin is JSON, but no object and no array, and nothing was sent: give --title to send it as text"
    )


def _is_object(line: str) -> bool:
    try:
        return line.startswith("{") and isinstance(json.loads(line, parse_int=str), dict)
    except RecursionError:
        return True
    except ValueError:
        return False


def _loaded(where: str, line: str) -> Any:
    try:
        return _read_json(where, line)
    except ValueError as error:
        raise CommandFailed(f"{where} is no JSON, and nothing was sent: {error}") from None


def _read_json(where: str, text: str) -> Any:
    """Read JSON as RFC 8259 defines it: without NaN and infinity, and each name once in an object.

    Raises:
        CommandFailed: it is nested too deeply.
        ValueError: it is no JSON.

    """
    try:
        return json.loads(
            text, parse_constant=_finite, parse_float=_finite, parse_int=_whole, object_pairs_hook=_unique
        )
    except RecursionError:
        raise CommandFailed(f"{where} is nested too deeply, and nothing was sent: flatten it") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"{json.dumps(name)} is there twice")
        members[name] = value
    return members


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:20]} is no number of JSON, or too large")
    return number


def _whole(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise _NumberTooLong(f"{text[:20]}… has {len(text)} digits, and more than {DIGITS_MAX} are too many")
    return int(text)


def _from_text(text: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Make an alert of text: the first line is the title unless one is given."""
    if "title" in fields:
        return {**fields, "body": text}
    line, _, rest = text.partition("\n")
    title = " ".join(line.split())
    if len(title) > TITLE_MAX:
        title, rest = title[: TITLE_MAX - 1] + "…", text
    return {**fields, "title": title, **({"body": rest.strip()} if rest.strip() else {})}


def _attributes(items: list[str]) -> dict[str, str]:
    try:
        return _unique([_pair(item, "--attribute") for item in items])
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--attribute") from None


def _pair(item: str, option: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not name or not equals:
        raise typer.BadParameter(f"{item!r} is not KEY=VALUE", param_hint=option)
    return name, value


def _link(item: str) -> dict[str, str]:
    if item.startswith(("http://", "https://")):
        return {"title": urlsplit(item).netloc or item, "url": item}
    title, url = _pair(item, "--link")
    return {"title": title, "url": url}


def _expiry(text: str | None) -> datetime | None:
    try:
        lasts = _duration(text, "--expires-in")
        return None if lasts is None else datetime.now(UTC) + lasts
    except OverflowError:
        raise typer.BadParameter("is beyond the year 9999", param_hint="--expires-in") from None


def _seconds(text: str | None, option: str) -> int | None:
    try:
        lasts = _duration(text, option)
    except OverflowError:
        raise typer.BadParameter("is too long", param_hint=option) from None
    return None if lasts is None else max(1, round(lasts.total_seconds()))


def _duration(text: str | None, option: str) -> timedelta | None:
    if text is None:
        return None
    if not (lasts := duration(text)):
        raise typer.BadParameter("must be a duration such as 90, 15m, 2h or 1d", param_hint=option)
    return lasts
