"""Many alerts in one request: each is validated, stored and answered by itself, in order.

A batch is a JSON array or NDJSON. An alert that is not valid is refused alone. A request that is
not valid, because its JSON cannot be read or the batch is too long, is refused whole, and nothing
of it is stored.

Some senders look at the status only. So a batch of which no alert was stored is refused, too: with
what all of them were refused with, or else 422, and with the result of each. NDJSON of which no
line is JSON is a file whose line breaks were removed, or something else: its refusal says so.

What may succeed when it is sent again must not be lost by such a sender either. So where an alert
could not be stored for now, the whole batch is refused 503, provided that those that were stored are
found again by their keys, and not stored twice. Where one of them has no key, each alert is answered
by itself.
"""

from __future__ import annotations

import codecs
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import orjson
from pydantic import ValidationError
from pydantic_core import from_json

from service.alerts.ingest import accept, idempotency_key
from service.alerts.post_warnings import warnings_of
from service.alerts.queue_items import QueueItem, Stored
from service.alerts.schemas import BatchItem
from service.errors import (
    InternalError,
    InvalidRequest,
    MalformedRequest,
    OutcomeUnknown,
    Overloaded,
    RequestRefused,
    TokenExpired,
    TokenRevoked,
)
from service.http.problems import problem_document, repetition, validation_refusal
from service.http.repeated_members import first_of_each, may_repeat
from service.http.request_body import BATCH_VALUES_MAX, parse_json, require_text, require_values, validated
from service.http.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from datetime import datetime

    from service.alerts.post_warnings import RecipientDirectory
    from service.alerts.queue_items import Outcome
    from service.auth.principal import Principal
    from service.events.idempotency import IdempotencyKey

NDJSON_TYPES = ("application/x-ndjson", "application/ndjson", "application/jsonl")
"""The media types of NDJSON; none is registered, the first is the usual one."""

ITEMS_MAX = 1_000
FAULTS_MAX = ITEMS_MAX
"""How many faults an answer lists; the refusals of further alerts say the first of each only."""
LINES_MAX = 10 * ITEMS_MAX
"""Of NDJSON, blank ones included."""

_WITHDRAWN = (TokenRevoked, TokenExpired)
"""What became of the token while the batch was stored."""
_NO_LINES = (
    "NDJSON has one JSON object a line: curl keeps the line breaks of a file with --data-binary, and not with -d. For a"
    " JSON array use Content-Type: application/json."
)

StoreAll: TypeAlias = "Callable[[Sequence[QueueItem]], Awaitable[list[Outcome]]]"
"""``Committer.store_all``."""


class BatchResponse(NamedTuple):
    """The answer to a batch, as JSON, how many of its items were refused, and the first 500 of them.

    ``given_back``: so many of the valid ones were refused at no cost. ``refusal`` is what the batch is
    refused with if none of its items was stored; ``is_replayed``: it stored nothing, and all that was
    not refused was stored before; ``is_final``: the same batch, sent again, would not be answered
    otherwise for a reason that passes.
    """

    body: bytes
    refused: int
    given_back: int
    defect: InternalError | None
    refusal: RequestRefused | None
    is_replayed: bool
    is_final: bool


def split(body: bytes, *, lines: bool) -> Sequence[Any]:
    """Return the items of a batch: the lines of NDJSON as bytes, or the values of a JSON array, or their refusals.

    Raises:
        MalformedRequest: it is no JSON.
        RequestTooLarge: its JSON has too many values.
        InvalidRequest: it is no array, is empty, or holds more than ``ITEMS_MAX``.

    """
    items = _lines(body.removeprefix(codecs.BOM_UTF8)) if lines else _array(body)
    if not items:
        raise InvalidRequest("The batch is empty.")
    return items


def _lines(body: bytes) -> list[bytes]:
    require_text(body)
    if body.lstrip().startswith(b"["):  # also one of several lines, of which some are alerts
        raise MalformedRequest("The body is a JSON array, and not NDJSON: send it with Content-Type: application/json.")
    if body.count(b"\n") > LINES_MAX:
        raise InvalidRequest(f"The batch has more than {LINES_MAX} lines; send at most {ITEMS_MAX} alerts at a time.")
    require_values(body, BATCH_VALUES_MAX)
    lines = [line for line in body.split(b"\n") if line.strip()]
    require_items(len(lines))
    return lines


def require_items(number: int) -> None:
    """Refuse a body with more alerts than a request may have, whatever its format.

    Raises:
        InvalidRequest: it has more than ``ITEMS_MAX``.

    """
    if number > ITEMS_MAX:
        raise InvalidRequest(f"The request has {number} alerts; send at most {ITEMS_MAX} at a time.")


def _is_document(lines: Sequence[bytes]) -> bool:
    """Say whether lines, not all of which are JSON, are it together, or are the items of an array without brackets."""
    text = b"\n".join(lines)
    for document in (text, b"[%b]" % text.rstrip(b", \t\r\n")):
        with suppress(ValueError):
            from_json(document)
            return True
    return False


def _array(body: bytes) -> list[Any]:
    text = body.removeprefix(codecs.BOM_UTF8)
    try:
        # The parser of a single alert, so that numbers mean the same.
        items = parse_json(body, from_json, values_max=BATCH_VALUES_MAX)
    except MalformedRequest as refusal:
        if text.lstrip().startswith(b"{"):
            raise MalformedRequest(
                f"{refusal.detail} A batch is a JSON array; NDJSON is sent with Content-Type: {NDJSON_TYPES[0]}."
            ) from None
        raise
    if not isinstance(items, list):
        raise InvalidRequest("The body must be a JSON array of alerts; POST a single one to /v1/alerts.")
    require_items(len(items))
    if may_repeat(text, items):
        for index, place in first_of_each(text):
            items[index] = repetition(place)
    return items


def read_item(item: Any, principal: Principal, now: datetime, key: IdempotencyKey | None = None) -> QueueItem:
    """Return an item that ``principal`` posted, bytes or a value or its refusal, as an item of the queue.

    ``key`` is that of an item that has none of its own.

    Raises:
        RequestRefused: it is not valid, or the token may not post it.

    """
    if isinstance(item, RequestRefused):
        raise item
    try:
        alert = validated(BatchItem, item, "The alert") if isinstance(item, bytes) else BatchItem.model_validate(item)
    except ValidationError as error:
        raise validation_refusal(error, BatchItem, "The alert") from None
    return accept(alert, principal, now, idempotency_key(alert.idempotency_key, alert) or key)


async def read_all(items: Sequence[Any], read: Callable[[Any], QueueItem]) -> list[QueueItem | RequestRefused]:
    """Return each of ``items`` as it was read, or why it was refused.

    Raises:
        MalformedRequest: they are the lines of something else than NDJSON.

    """
    turn = Turn()
    checked: list[QueueItem | RequestRefused] = []
    for item in items:
        if turn.is_over:
            await turn.next()
        try:
            checked.append(read(item))
        except RequestRefused as refusal:
            checked.append(refusal)
    if any(isinstance(one, MalformedRequest) for one in checked) and _is_document(items):
        raise MalformedRequest(f"The body is one JSON document of several lines, and not NDJSON. {_NO_LINES}")
    return checked


def valid_of(checked: Sequence[QueueItem | RequestRefused]) -> list[QueueItem]:
    """Return the items that are valid."""
    return [item for item in checked if isinstance(item, QueueItem)]


async def store(
    checked: Sequence[QueueItem | RequestRefused], store_all: StoreAll, directory: RecipientDirectory | None = None
) -> BatchResponse:
    """Store the valid ones of the items, and answer each; with a ``directory``, warn of unknown recipients.

    Raises:
        RequestRefused: the service could not store all of them; the whole batch may be sent again.

    """
    turn = Turn()
    valid = valid_of(checked)
    outcomes = await store_all(valid)
    if refusal_of_all := _refusal_of_all(valid, outcomes):
        raise refusal_of_all
    following, room = iter(outcomes), FAULTS_MAX
    each = [next(following) if isinstance(item, QueueItem) else item for item in checked]
    unknown: Collection[str] = ()
    if directory is not None:
        unknown = await directory.unknown({name for item in valid if item.recipients for name in item.recipients})
    answers: list[bytes] = []
    for item, outcome in zip(checked, each, strict=True):
        if turn.is_over:
            await turn.next()
        if isinstance(outcome, RequestRefused) and outcome.errors:
            room -= len(outcome.errors)
            outcome.errors = outcome.errors if room >= 0 else None
        answers.append(_answer(item, outcome, unknown))
    refused = sum(isinstance(outcome, RequestRefused) for outcome in each)
    given_back = sum(isinstance(outcome, RequestRefused) and not outcome.costs for outcome in outcomes)
    defect = next((outcome for outcome in outcomes if isinstance(outcome, InternalError)), None)
    body = b'{"results":[%b]}' % b",".join(answers)
    is_replayed = all(outcome.replayed for outcome in outcomes if isinstance(outcome, Stored))
    is_final = defect is None and not any(isinstance(outcome, _WITHDRAWN) for outcome in outcomes)
    refusals = [outcome for outcome in each if isinstance(outcome, RequestRefused)]
    of_every = _refusal_of_every(refusals, answers) if refusals and refused == len(each) else None
    return BatchResponse(body, refused, given_back, defect, of_every, is_replayed=is_replayed, is_final=is_final)


def replay(checked: Sequence[QueueItem | RequestRefused], answer: bytes) -> bytes:
    """Return the answer that a batch was given before, but for the alerts that this request may not post.

    Raises:
        RequestRefused: it has the result of none.

    """
    if not (refusals := [item for item in checked if isinstance(item, RequestRefused)]):
        return answer
    results = [
        problem_document(item) if isinstance(item, RequestRefused) and "id" in result else result
        for item, result in zip(checked, orjson.loads(answer)["results"], strict=True)
    ]
    if not any("id" in result for result in results):
        raise _refusal_of_every(refusals, [orjson.dumps(result) for result in results])
    return orjson.dumps({"results": results})


def _refusal_of_every(refusals: Sequence[RequestRefused], answers: Sequence[bytes]) -> RequestRefused:
    """Return what a batch is refused with of which every item was."""
    first, hint = refusals[0], ""
    kinds = {type(refusal) for refusal in refusals}
    kind = kinds.pop() if len(kinds) == 1 else InvalidRequest
    if any(isinstance(refusal, MalformedRequest) for refusal in refusals):
        kind, hint = MalformedRequest, f" {_NO_LINES}"
    what = f"None of the {len(answers)} alerts is stored. The first: " if len(answers) > 1 else ""
    results = [orjson.Fragment(answer) for answer in answers]
    return kind(f"{what}{first.detail}{hint}", members={"results": results})


def _refusal_of_all(items: Sequence[QueueItem], outcomes: Sequence[Outcome]) -> RequestRefused | None:
    """Return what the whole batch is refused with, if it is to be sent again."""
    stored = [item for item, outcome in zip(items, outcomes, strict=True) if isinstance(outcome, Stored)]
    errors = [one for one in outcomes if isinstance(one, RequestRefused) and one.status >= InternalError.status]
    if not stored and (withdrawn := next((one for one in outcomes if isinstance(one, _WITHDRAWN)), None)):
        return withdrawn
    nothing_stored = len(errors) == len(outcomes)
    passes = any(error.status == Overloaded.status for error in errors)
    if not errors or not (nothing_stored or (passes and all(item.is_repeatable for item in stored))):
        return None
    if stored:
        return OutcomeUnknown(
            f"{len(stored)} of {len(outcomes)} alerts are stored. Send the same batch again: they are found by their"
            " keys, and not stored twice.",
            retry_after=max(error.retry_after or 1 for error in errors),
        )
    # OutcomeUnknown stands for all, because it promises least: the others stored nothing.
    return next((error for error in errors if isinstance(error, OutcomeUnknown)), errors[0])


def _answer(item: QueueItem | RequestRefused, outcome: Outcome, unknown: Collection[str]) -> bytes:
    if isinstance(outcome, RequestRefused):
        return orjson.dumps(problem_document(outcome))
    assert isinstance(outcome, Stored)  # noqa: S101 - narrows: an item of a batch is a post
    answer: dict[str, Any] = {"status": 200 if outcome.repeated else 201, "id": outcome.id, "seq": outcome.seq}
    if outcome.replayed:
        answer["replayed"] = True
    if unknown and isinstance(item, QueueItem) and (warnings := warnings_of(item.recipients or (), unknown)):
        answer["warnings"] = warnings
    return orjson.dumps(answer)
