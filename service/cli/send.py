"""``tocsin send``: post one alert, or many, from a shell."""

from __future__ import annotations

import codecs
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import urlsplit

import typer

from service.cli.client_options import Token, TokenFile, Url, bearer, explained
from service.cli.time_options import duration
from service.client import BatchRefused, Client, ClientError, Posted
from service.errors import CommandFailed
from service.settings import load
from service.severity import CHOICES

if TYPE_CHECKING:
    from service.client import NewAlert

STDIN_MAX_BYTES = 32 * 1024 * 1024
TITLE_MAX = 200
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def send(  # noqa: PLR0913 - the fields of an alert
    *,
    stdin: Annotated[str | None, typer.Argument(metavar="[-]", help="- reads JSON, NDJSON or text from stdin.")] = None,
    title: Annotated[str | None, typer.Option(help="What happened, in one line.")] = None,
    topic: Annotated[str | None, typer.Option(help="Such as payments.eu; default: default.")] = None,
    severity: Annotated[str | None, typer.Option(help=f"{CHOICES}; default: info.")] = None,
    body: Annotated[str | None, typer.Option(help="More text.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Repeat for several.")] = None,
    link: Annotated[list[str] | None, typer.Option(metavar="[TITLE=]URL", help="Repeat for several.")] = None,
    recipient: Annotated[list[str] | None, typer.Option(help="These admins only; repeat for several.")] = None,
    dedup_key: Annotated[str | None, typer.Option(help="Repeats the unresolved alert with this key.")] = None,
    expires_in: Annotated[str | None, typer.Option(metavar="DURATION", help="90, 15m, 2h or 1d.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="A second post with this key stores nothing.")] = None,
    url: Url = None,
    token: Token = None,
    token_file: TokenFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object for each alert.")] = False,
) -> None:
    """Post an alert and print its id and its seq.

    It is stored when the command returns. With - the alerts come from stdin: a JSON object, an
    array or NDJSON with the fields of the reference, or text, whose first line is the title.
    Options are the defaults of missing fields.
    """
    if stdin not in (None, "-"):
        raise typer.BadParameter("takes only -, which reads stdin; the title goes in --title", param_hint="[-]")
    given = {
        "title": title,
        "topic": topic,
        "severity": severity,
        "body": body,
        "attributes": dict(_pair(item, "--attribute") for item in attribute or ()),
        "links": [_link(item) for item in link or ()],
        "recipients": recipient,
        "dedup_key": dedup_key,
        "expires_at": _expiry(expires_in),
        "idempotency_key": idempotency_key,
    }
    fields = {name: value for name, value in given.items() if value}
    alerts = _from_stdin(fields) if stdin else [fields]
    if any("title" not in alert for alert in alerts):
        raise typer.BadParameter("an alert needs a title", param_hint="--title")
    _require_characters(alerts)
    settings = load().client
    address = url or settings.url
    with explained(address), Client(address, bearer(settings, token, token_file)) as client:
        _post(client, alerts, as_json=as_json)


def _require_characters(alerts: list[dict[str, Any]]) -> None:
    """Refuse bytes of the command line that are not UTF-8, and halves of surrogate pairs in JSON."""
    try:
        json.dumps(alerts, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError as error:
        found = f"U+{ord(error.object[error.start]):04X}"
        raise CommandFailed(f"an alert has {found}, which is no character, and nothing was sent: use UTF-8") from None


def _post(client: Client, alerts: list[dict[str, Any]], *, as_json: bool) -> None:
    results: list[Posted | ClientError]
    refused: BatchRefused | None = None
    if len(alerts) == 1:
        alert = alerts[0]
        results = [client.post(alert.pop("title"), **alert)]
    else:
        try:
            results = list(client.post_batch(cast("list[NewAlert]", alerts)))
        except BatchRefused as error:
            refused, results = error, list(error.results)
    for result in results:
        if isinstance(result, Posted):
            print(_shown(result, as_json=as_json))
    if refused is not None:
        raise refused


def _shown(posted: Posted, *, as_json: bool) -> str:
    if not as_json:
        return f"{posted.id} {posted.seq}"
    answer = {"id": posted.id, "seq": posted.seq, "replayed": posted.replayed, "repeated": posted.repeated}
    return json.dumps(answer)


def _from_stdin(fields: dict[str, Any]) -> list[dict[str, Any]]:
    """Read alerts; ``fields`` are the defaults of their missing fields."""
    data = sys.stdin.buffer.read(STDIN_MAX_BYTES + 1)
    if len(data) > STDIN_MAX_BYTES:
        raise CommandFailed(f"stdin holds more than {STDIN_MAX_BYTES} bytes: send it in parts")
    text = decoded(data).strip()
    if not text:
        raise CommandFailed("stdin is empty: nothing was sent")
    if (alerts := _parsed(text)) is not None:
        if not alerts:
            raise CommandFailed("stdin holds an empty list: nothing was sent")
        return [{**fields, **alert} for alert in alerts]
    return [_from_text(text, fields)]


def decoded(data: bytes) -> str:
    """Return the text of stdin: UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it."""
    try:
        return data.decode("utf-16" if data.startswith(_UTF_16) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"stdin is not {error.encoding} at byte {error.start}, and nothing was sent: convert it to UTF-8"
        ) from None


def _parsed(text: str) -> list[dict[str, Any]] | None:
    """Return the alerts of JSON or NDJSON; None where it is text."""
    try:
        value = json.loads(text)
    except ValueError:
        # Only line feeds end a line: JSON may hold all else that splitlines() takes for an end.
        lines = [line for line in (line.strip("\ufeff \t\r") for line in text.split("\n")) if line]
        if not all(line.startswith("{") for line in lines):
            return None
        try:
            value = [json.loads(line) for line in lines]
        except ValueError as error:
            raise CommandFailed(f"stdin looks like JSON and cannot be read: {error}") from None
    if isinstance(value, list) and not all(isinstance(alert, dict) for alert in value):
        raise CommandFailed("stdin holds a list in which not every item is an object, and nothing was sent")
    alerts = value if isinstance(value, list) else [value]
    return alerts if all(isinstance(alert, dict) for alert in alerts) else None


def _from_text(text: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Make an alert of text: the first line is the title unless one is given."""
    if "title" in fields:
        return {**fields, "body": text}
    line, _, rest = text.partition("\n")
    title = " ".join(line.split())
    if len(title) > TITLE_MAX:
        title, rest = title[: TITLE_MAX - 1] + "…", text
    return {**fields, "title": title, **({"body": rest.strip()} if rest.strip() else {})}


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
    if text is None:
        return None
    try:
        if not (lasts := duration(text)):
            raise typer.BadParameter("must be a duration such as 90, 15m, 2h or 1d", param_hint="--expires-in")
        return datetime.now(UTC) + lasts
    except OverflowError:
        raise typer.BadParameter("is beyond the year 9999", param_hint="--expires-in") from None
