"""A backend and an admin in one, on the client that ``openapi-python-client`` made: run by ``test_client.py``.

It runs in the generator's environment, with the client on its path: ``client_script.py BASE TOKEN``.
"""

from __future__ import annotations

import json
import sys

from tocsin_client import AuthenticatedClient
from tocsin_client.api.alerts import (
    acknowledge_alert,
    get_alert,
    get_alerts,
    get_timeline,
    post_alert,
    post_batch,
    post_comment,
)
from tocsin_client.models import (
    AlertAnswer,
    AlertIn,
    AlertInAttributes,
    BatchItem,
    CommentIn,
    Problem,
    ProblemCode,
    Severity,
)


def assert_refused(answer: object, code: ProblemCode) -> None:
    """Fail unless the answer is a problem with this code."""
    assert isinstance(answer, Problem)
    assert answer.code is code


def main(base: str, token: str, other: str) -> None:
    client = AuthenticatedClient(base, token)
    alert = AlertIn(
        title="Card acceptance below 80 %",
        severity=Severity.CRITICAL,
        attributes=AlertInAttributes.from_dict({"rate": 0.78}),
    )
    posted = post_alert.sync_detailed(client=client, body=alert, idempotency_key="one")
    again = post_alert.sync_detailed(client=client, body=alert, idempotency_key="one")
    assert (posted.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert isinstance(posted.parsed, AlertAnswer)
    assert posted.parsed.id == again.parsed.id
    assert posted.parsed.attributes["rate"] == 0.78

    answer = acknowledge_alert.sync(posted.parsed.id, client=client)
    assert (answer.status, answer.status_by) == ("acknowledged", "alice")
    conflict = acknowledge_alert.sync(posted.parsed.id, client=AuthenticatedClient(base, other))
    assert_refused(conflict, ProblemCode.ACTION_CONFLICT)
    assert conflict.alert.status_by == "alice"

    said = post_comment.sync(posted.parsed.id, client=client, body=CommentIn(text="Acquirer X is aware."))
    assert said.actor == "alice"

    batch = post_batch.sync(client=client, body=[BatchItem(title="Disk is full"), BatchItem(title=" ")])
    assert [result.status for result in batch.results] == [201, 422]
    assert batch.results[1].code == "invalid_request"

    page = get_alerts.sync(client=client, limit=10)
    assert [one.title for one in page.alerts] == ["Disk is full", "Card acceptance below 80 %"]
    steps = get_timeline.sync(posted.parsed.id, client=client)

    assert_refused(post_alert.sync(client=client, body=AlertIn(title="")), ProblemCode.INVALID_REQUEST)
    unknown = get_alert.sync("01a1fd87-65c3-71a6-ba06-3929d3197295", client=client)
    assert_refused(unknown, ProblemCode.NOT_FOUND)
    assert_refused(get_alerts.sync(client=AuthenticatedClient(base, "a.b.c")), ProblemCode.TOKEN_INVALID)
    json.dump([step.kind for step in steps.events], sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
