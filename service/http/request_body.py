"""Reading a JSON body: bounded in size and time, announced as JSON, validated.

``read_model`` is for endpoints behind a ``FastRoute``, the dependency ``json_body`` for operations
of FastAPI. Both refuse alike: 415 where the body is not announced as JSON, 413 where it is too
large, 408 where it does not arrive in time, 400 where it is not JSON, 422 where a field is not
valid. ``read_json`` returns the JSON of others, unvalidated. A body that is announced as gzip is
decompressed (``gzip_body.py``); the limit of its bytes holds before and after.

JSON is UTF-8 (RFC 8259, section 8.1). A byte order mark before it is ignored; a body that is
announced in another charset is refused with 415, one that is in another with 400, which says so.

Parsing holds the event loop, and takes as long as there are values to make: 256 KiB are 90,000
empty lists, and 10 ms. So what would be more than ``VALUES_MAX`` values is refused unread. They are
counted by what stands before each of them, in text too; a body of an alert is too short to matter.

FastAPI's own ``max_body_size`` is not used: its answer is plain text.
"""

# No `from __future__ import annotations` here: FastAPI cannot resolve the text of a nested
# function's annotations.

import asyncio
import codecs
import math
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from service.auth.tokens import TokenVerifier
from service.errors import InvalidRequest, MalformedRequest, RequestTimeout, RequestTooLarge, UnsupportedMedia
from service.http.authentication import verified_principal
from service.http.body_budget import UNCOUNTED_BYTES, BodyBudget, HeldBody
from service.http.charges import charge
from service.http.gzip_body import MAGIC, GzipBody, is_gzip
from service.http.problems import repetition, validation_refusal
from service.http.provided import part
from service.http.repeated_members import first_repetition
from service.http.turns import Turn
from service.settings import ServerSettings

Model = TypeVar("Model", bound=BaseModel)

VALUES_MAX = 20_000
"""Commas and opening brackets of a JSON text; attributes of 16 KiB have at most 8,000."""
NESTING_MAX = 200
"""Levels of JSON that pydantic reads."""
BATCH_VALUES_MAX = 65_536
"""Those of a body with many alerts, of which an ordinary one has ten, or with data of others."""

_BLANKS = b" \t\r\n"
"""White space of JSON (RFC 8259, section 2)."""
CHARSET_SHOWN = 40
"""Characters of a charset that a refusal repeats."""

_PARAMETER = re.compile(r';\s*([^\s=;"]+)\s*=\s*("[^"]*"|[^;]*)')
_UTF_8 = frozenset({"", "utf-8", "utf8", "us-ascii", "ascii"})
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_SURROGATE = re.compile(
    rb"\\\\|(\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
)
"""Escapes of surrogates; a backslash that is escaped itself begins none."""


def json_body(
    model: type[Model], *, max_bytes: int | None = None, optional: bool = False, charges: bool = True
) -> Callable[[Request], Awaitable[Model]]:
    """Return the dependency that yields the body of a request as a ``model``, and charges the request.

    ``optional``: without a body, the ``model`` with its defaults. Without ``charges``, the endpoint
    charges the request.
    """

    async def dependency(request: Request) -> Model:
        is_absent = optional and _is_empty(request)
        body = model() if is_absent else await read_model(request, model, max_bytes=max_bytes)
        if charges:
            charge(request)
        return body

    return dependency


def _is_empty(request: Request) -> bool:
    return request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers


async def require_no_fields(request: Request) -> None:
    """Refuse a body with anything in it, or charge the request: a dependency of an operation that needs none.

    Raises:
        InvalidRequest: it is neither empty nor an empty JSON object, which some clients send.
        RequestTooLarge, RequestTimeout, MalformedRequest, UnsupportedMedia: as ``read_body``.

    """
    body = b"" if _is_empty(request) else (await read_body(request)).removeprefix(codecs.BOM_UTF8)
    if body.translate(None, _BLANKS) not in {b"", b"{}"}:
        raise InvalidRequest("This takes no body, and nothing was changed: send it without one.")
    charge(request)


async def read_model(request: Request, model: type[Model], *, max_bytes: int | None = None) -> Model:
    """Return the body of a request as a ``model``.

    Raises:
        UnsupportedMedia, RequestTooLarge, RequestTimeout, MalformedRequest: as ``read_json``.
        InvalidRequest: a field is not valid.

    """
    require_json(request)
    return validated(model, await read_body(request, max_bytes=max_bytes))


def validated(model: type[Model], body: bytes, what: str = "The body") -> Model:
    """Return a JSON text as a ``model``; a refusal calls it ``what``.

    Raises:
        RequestTooLarge, MalformedRequest: as ``parse_json``.
        InvalidRequest: a field is not valid, or an object has a member twice.

    """
    text = body.removeprefix(codecs.BOM_UTF8)
    require_values(text, VALUES_MAX)
    try:
        value = model.model_validate_json(text)
    except ValidationError as error:
        refusal = validation_refusal(error, model, what)
        raise _not_json(body, refusal, what) if isinstance(refusal, MalformedRequest) else refusal from None
    if (place := first_repetition(text)) is not None:
        raise repetition(place)
    return value


async def read_json(request: Request, *, max_bytes: int | None = None, values_max: int = VALUES_MAX) -> Any:
    """Return the JSON value that is the body of a request.

    Raises:
        UnsupportedMedia: it is announced as something else, or as nothing.
        RequestTooLarge: it is over ``max_bytes``, announced or counted; by default
            ``TOCSIN_REQUEST_MAX_BYTES``. Or it has too many values.
        RequestTimeout: it did not arrive within ``TOCSIN_REQUEST_TIMEOUT_SECONDS``.
        MalformedRequest: it is not JSON, or ended early.

    """
    require_json(request)
    return parse_json(await read_body(request, max_bytes=max_bytes), values_max=values_max)


def _finite(body: bytes) -> Any:
    """Return a JSON value, its integers exact: orjson makes floats of those beyond 64 bits."""
    value = from_json(body, allow_inf_nan=False)
    rest = [value]
    while rest:
        match rest.pop():
            case float() as number if math.isinf(number):
                raise ValueError("a number is beyond 1e308, send it as text")
            case dict() as members:
                rest += members.values()
            case list() as items:
                rest += items
    return value


def parse_json(body: bytes, loads: Callable[[bytes], Any] = _finite, *, values_max: int = VALUES_MAX) -> Any:
    """Return the JSON value of a body.

    Raises:
        RequestTooLarge: it has too many values.
        MalformedRequest: it is not JSON.

    """
    text = body.removeprefix(codecs.BOM_UTF8)
    require_values(text, values_max)
    try:
        return loads(text)
    except ValueError as error:
        raise _not_json(body, MalformedRequest(f"The body is not valid JSON: {error}.")) from None


def require_text(body: bytes, what: str = "The body") -> None:
    """Refuse a body whose first bytes show that it is compressed, or not UTF-8; a refusal calls it ``what``.

    Raises:
        MalformedRequest: they do.

    """
    if body.startswith(MAGIC):
        raise MalformedRequest(f"{what} is compressed with gzip: send the header Content-Encoding: gzip, once.")
    if body.startswith(_UTF_16) or b"\0" in body[:4]:
        raise MalformedRequest(f"{what} is UTF-16 or UTF-32: send it as UTF-8.")


def decoded(body: bytes, what: str = "The body") -> str:
    """Return the text of a body; a refusal calls it ``what``.

    Raises:
        MalformedRequest: it is not UTF-8.

    """
    require_text(body, what)
    text = body.removeprefix(codecs.BOM_UTF8)
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        offset = len(body) - len(text) + error.start
        raise MalformedRequest(
            f"{what} is not UTF-8: the byte 0x{body[offset]:02X} at offset {offset}. Send it as UTF-8."
        ) from None


def _not_json(body: bytes, refusal: MalformedRequest, what: str = "The body") -> MalformedRequest:
    """Return the refusal of a body that no parser reads: what is wrong with its characters, if that is it."""
    try:
        decoded(body, what)
    except MalformedRequest as of_the_text:
        return of_the_text
    if lone := next((found for found in _SURROGATE.finditer(body) if found["lone"]), None):
        return MalformedRequest(
            f"{lone['lone'].decode()} at offset {lone.start()} is one half of a surrogate pair, and no character:"
            " send both halves, or the character as UTF-8."
        )
    return refusal


def require_values(body: bytes, most: int) -> None:
    """Refuse a JSON text of too many values, before it is parsed.

    Raises:
        RequestTooLarge: it has more than ``most`` commas and opening brackets.
        MalformedRequest: so many of them are brackets that it is nested deeper than any parser reads.

    """
    if len(body) <= most or count_values(body) <= most:
        return
    commas = body.count(b",")
    if count_values(body) - commas > (commas + 1) * NESTING_MAX:
        raise MalformedRequest("The JSON is nested too deeply.")
    raise RequestTooLarge(f"The JSON has more than {most} values (commas and opening brackets).")


def count_values(text: bytes) -> int:
    """Return how many values a JSON text has at most: its commas and opening brackets."""
    return len(text) - len(text.translate(None, b",[{"))


def media_type(request: Request) -> str:
    """Return what the body of a request is announced as, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(request: Request) -> bool:
    """Say whether a body is announced as JSON."""
    announced = media_type(request)
    return announced == "application/json" or announced.endswith("+json")


def require_json(request: Request) -> None:
    """Refuse a body that is not announced as JSON.

    Raises:
        UnsupportedMedia: it is announced as something else, or as nothing.

    """
    if not is_json(request):
        raise UnsupportedMedia("Send the header Content-Type: application/json.")
    require_utf_8(request)


def require_utf_8(request: Request) -> None:
    """Refuse a body that is announced in another charset than UTF-8.

    Raises:
        UnsupportedMedia: it is.

    """
    announced = request.headers.get("content-type", "")
    if ";" not in announced:
        return
    for name, value in _PARAMETER.findall(announced):
        charset = value.strip().strip("\"'")
        if name.lower() == "charset" and charset.lower() not in _UTF_8:
            raise UnsupportedMedia(f"The charset {charset[:CHARSET_SHOWN]!r} is not read: send UTF-8.")


async def read_body(request: Request, *, max_bytes: int | None = None) -> bytes:
    """Return the bytes of a body, whatever they are.

    A body may take a while to arrive: the token of the request is checked again afterwards.

    Raises:
        RequestTooLarge, RequestTimeout: as ``read_json``.
        Overloaded: too many bytes of other bodies are held.
        MalformedRequest: its length cannot be read, or it ended early.
        TokenRevoked, TokenExpired: the token was revoked meanwhile, or has expired.

    """
    principal = verified_principal(request)
    body = await _read_bytes(request, principal.subject if principal is not None else "", max_bytes=max_bytes)
    if principal is not None:
        await part(request, TokenVerifier).require_valid(principal)
    return body


def _decoded_stream(request: Request, limit: int) -> AsyncGenerator[bytes]:
    """Return the bytes of a body as they arrive, decompressed if it is announced as gzip."""
    codings = request.headers.getlist("content-encoding")
    return _decompressed(request, limit) if codings and is_gzip(codings) else request.stream()


async def _decompressed(request: Request, limit: int) -> AsyncGenerator[bytes]:
    gzip = GzipBody()
    turn = Turn()
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:  # which a body of empty members is, that becomes nothing
            raise _too_large(limit)
        for piece in gzip.pieces(chunk):
            yield piece
            if turn.is_over:
                await turn.next()
    gzip.require_end()


def _too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than {limit} bytes.")


async def _read_bytes(request: Request, subject: str, *, max_bytes: int | None) -> bytes:
    settings = part(request, ServerSettings)
    limit = settings.request_max_bytes if max_bytes is None else max_bytes
    length = request.headers.get("content-length", "0")
    if not length.isdecimal():
        raise MalformedRequest("Content-Length must be a number.")
    body = bytearray()
    held: HeldBody | None = None
    if int(length) <= limit:
        try:
            async with asyncio.timeout(settings.request_timeout_seconds):
                async for chunk in _decoded_stream(request, limit):
                    body += chunk
                    if len(body) > limit:
                        break
                    if len(body) > UNCOUNTED_BYTES:
                        held = held or part(request, BodyBudget).begin(subject)
                        held.grow(len(body))
                else:
                    return bytes(body)
        except TimeoutError:
            raise RequestTimeout(
                f"The body did not arrive within {settings.request_timeout_seconds:g} s.",
                headers={"Connection": "close"},
            ) from None
        except ClientDisconnect:
            raise MalformedRequest("The body ended early.") from None
    # The connection stays open: one that is closed while the client sends is reset, and the answer lost.
    raise _too_large(limit)
