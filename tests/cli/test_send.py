"""``tocsin send`` against a real node."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from service.alerts.schemas import AlertIn
from service.cli.send import decoded
from service.cli.send import send as send_command
from service.errors import CommandFailed
from tests.harness import WRITE, Node, token

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Run = subprocess.CompletedProcess[str]
BEARER = token("ops", WRITE)


@pytest.fixture
def send(lenient: Node, tocsin: Callable[..., Run]) -> Callable[..., Run]:
    """Run ``tocsin send`` with this text on standard input."""

    def run(*arguments: str, text: str = "", **variables: str) -> Run:
        done = tocsin("send", *arguments, text=text, TOCSIN_URL=lenient.base, **{"TOCSIN_TOKEN": BEARER, **variables})
        assert BEARER not in done.stdout + done.stderr
        return done

    return run


async def stored(node: Node, run: Run) -> dict[str, Any]:
    assert (run.returncode, run.stderr) == (0, "")
    alert_id, seq = run.stdout.split()
    [row] = await node.sql("SELECT * FROM alerts WHERE id = $1 AND seq = $2", alert_id, int(seq))
    return dict(row)


async def test_the_options_are_the_fields_of_the_alert(lenient: Node, send: Callable[..., Run]) -> None:
    run = send(
        *("--title", "Card acceptance below 80 %", "--topic", "payments.eu", "--severity", "critical"),
        *("--body", "More.", "--attribute", "acquirer=X", "--attribute", "a=b=c", "--link", "https://x.example/?a=b"),
        *("--link", "Runbook=https://runbooks.example/x", "--recipient", "alice", "--recipient", "bob"),
        *("--dedup-key", "acceptance/X", "--expires-in", "2h", "--escalate-after", "15m"),
    )
    alert = await stored(lenient, run)
    assert (alert["title"], alert["topic"], alert["severity"]) == (
        "Card acceptance below 80 %",
        "payments.eu",
        "critical",
    )
    assert json.loads(alert["attributes"]) == {"acquirer": "X", "a": "b=c"}
    assert [link["title"] for link in json.loads(alert["links"])] == ["x.example", "Runbook"]
    assert (alert["recipients"], alert["dedup_key"], alert["body"]) == (["alice", "bob"], "acceptance/X", "More.")
    assert alert["escalate_after"] == 900
    assert 7100 < (alert["expires_at"] - alert["created_at"]).total_seconds() <= 7200


async def test_text_on_stdin_is_title_and_body(lenient: Node, send: Callable[..., Run]) -> None:
    alert = await stored(lenient, send("-", "--severity", "error", text="Backup failed\n\nDisk full.\nTwice.\n"))
    assert (alert["title"], alert["body"], alert["severity"]) == ("Backup failed", "Disk full.\nTwice.", "error")
    alert = await stored(lenient, send("-", "--title", "Log", text="[error] one\ntwo"))
    assert (alert["title"], alert["body"]) == ("Log", "[error] one\ntwo")
    alert = await stored(lenient, send("-", "--title", "Rows", text="42\n"))
    assert (alert["title"], alert["body"]) == ("Rows", "42")
    alert = await stored(lenient, send("-", text="x" * 300))
    assert (len(alert["title"]), alert["body"]) == (200, "x" * 300)


@pytest.mark.parametrize(
    "text",
    ['[{"title": "One"}, {"title": "Two", "topic": "b"}]', '{"title": "One"}\n\n{"title": "Two", "topic": "b"}\n'],
)
async def test_json_on_stdin_is_one_alert_or_many(lenient: Node, send: Callable[..., Run], text: str) -> None:
    run = send("-", "--topic", "a", "--json", text=text)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert [answer["replayed"] for answer in answers] == [False, False]
    rows = await lenient.sql("SELECT title, topic FROM alerts WHERE seq >= $1 ORDER BY seq", answers[0]["seq"])
    assert [tuple(row) for row in rows] == [("One", "a"), ("Two", "b")]
    assert (await stored(lenient, send("-", text='{"title": "Single"}')))["title"] == "Single"


async def test_the_same_idempotency_key_stores_nothing_twice(send: Callable[..., Run]) -> None:
    runs = [send("--title", "Job", "--idempotency-key", "job-7", "--json") for _ in range(2)]
    first, again = (json.loads(run.stdout) for run in runs)
    assert (first["seq"], again["replayed"]) == (again["seq"], True)


async def test_the_token_may_come_from_a_file(lenient: Node, send: Callable[..., Run], tmp_path: Path) -> None:
    (tmp_path / "token").write_text(BEARER + "\n")
    await stored(lenient, send("--title", "x", "--token-file", "token", TOCSIN_TOKEN=""))
    await stored(lenient, send("--title", "x", TOCSIN_TOKEN="", TOCSIN_TOKEN_FILE="token"))
    await stored(lenient, send("--title", "x", "--token", BEARER, TOCSIN_TOKEN="hunter2"))


@pytest.mark.parametrize(
    ("arguments", "variables", "said"),
    [
        (("--title", "x"), {"TOCSIN_TOKEN": ""}, "export TOCSIN_TOKEN=$("),
        (("--title", "x"), {"TOCSIN_TOKEN": "hunter2"}, "get a fresh token"),
        (("--title", "x", "--token-file", "nowhere"), {}, "--token-file cannot be read"),
        (("--title", "x", "--link", "a=b"), {}, "correct /links/0/url: "),
        (("--title", "x", "--url", "tocsin"), {}, "must look like https://tocsin.example"),
        (("--title", "x", "--url", "http://a..b"), {}, "must look like https://tocsin.example"),
        (("--title", "x", "--url", "http://[1::2::3]"), {}, "must look like https://tocsin.example"),
        (("--title", "x"), {"HTTP_PROXY": "ftp://a:hunter2@x"}, "the proxy of the environment cannot be used"),
        *(
            (("--title", "x"), {"SSL_CERT_FILE": file}, "the certificates of the environment cannot be read")
            for file in ("nowhere", "/", os.devnull)
        ),
        (("-",), {}, "stdin is empty"),
    ],
)
async def test_a_failure_is_one_line_that_says_what_to_do(
    send: Callable[..., Run], arguments: tuple[str, ...], variables: dict[str, str], said: str
) -> None:
    run = send(*arguments, **variables)
    assert (run.returncode, run.stdout) == (1, "")
    assert said in run.stderr
    assert run.stderr.startswith("tocsin: ")
    assert run.stderr.count("\n") == 1
    assert "hunter2" not in run.stderr


async def test_of_a_batch_that_is_refused_in_part_the_rest_is_printed(send: Callable[..., Run]) -> None:
    run = send("-", text='[{"title": "Good"}, {"title": "Bad", "topic": "No Topic"}]')
    assert run.returncode == 1
    assert run.stdout.count("\n") == 1
    assert "1 of 2 alerts were not stored; the first, number 2" in run.stderr


@pytest.mark.parametrize(
    "text",
    [
        '\ufeff{"title": "One"}',
        '\ufeff{"title": "One"}\n\ufeff{"title": "Two"}\r\n',
        '{"title": "One\u2028more"}\n{"title": "Two"}',
    ],
)
async def test_json_on_stdin_is_read_whatever_marks_it(lenient: Node, send: Callable[..., Run], text: str) -> None:
    run = send("-", text=text)
    assert (run.returncode, run.stderr) == (0, "")
    ids = [line.split()[0] for line in run.stdout.splitlines()]
    titles = await lenient.sql("SELECT title FROM alerts WHERE id = ANY($1::uuid[]) ORDER BY seq", ids)
    assert [row["title"] for row in titles] == [json.loads(line)["title"] for line in _lines(text)]


def _lines(text: str) -> list[str]:
    return [line.strip("\ufeff\r") for line in text.split("\n") if line]


def test_stdin_is_decoded_as_it_was_meant() -> None:
    assert decoded("\ufeffhallöchen".encode()) == "hallöchen"
    assert decoded("hallöchen".encode("utf-16")) == "hallöchen"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("hallöchen".encode("latin-1"), "stdin is not utf-8 at byte 4, and nothing was sent: convert it to UTF-8"),
        (b"\xef\xbb\xbfhall\xf6chen", "stdin is not utf-8 at byte 7, and nothing was sent: convert it to UTF-8"),
        (b"\xff\xfea", "stdin is not utf-16-le at byte 2, and nothing was sent"),
    ],
)
def test_stdin_that_cannot_be_decoded_is_not_sent(data: bytes, said: str) -> None:
    with pytest.raises(CommandFailed, match=said):
        decoded(data)


@pytest.mark.parametrize(
    ("arguments", "text", "said"),
    [
        (("--title", "a\udcff"), "", "an alert has U+DCFF, which is no character, and nothing was sent: use UTF-8"),
        (("-",), '{"title": "a\\ud800"}', "an alert has U+D800, which is no character"),
        (("-",), '[{"title": "a"}, 5]', "number 2 is no JSON object, and nothing was sent"),
    ],
)
def test_what_would_not_be_stored_as_meant_is_not_sent(
    send: Callable[..., Run], arguments: tuple[str, ...], text: str, said: str
) -> None:
    run = send(*arguments, text=text)
    assert (run.returncode, run.stdout) == (1, "")
    assert said in run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--attribute", "novalue", "--title", "x"),
        ("--expires-in", "soon", "--title", "x"),
        ("--link", "nothing", "--title", "x"),
        ("--escalate-after", "soon", "--title", "x"),
        ("--escalate-after", "0", "--title", "x"),
        ("--escalate-after", "99999999999999w", "--title", "x"),
        ("--idempotency-key", "é\n", "--title", "x"),
        ("--idempotency-key", "", "--title", "x"),
        ("--topic", "支付", "--title", "x"),
        ("--topic", "No Topic", "-"),
        ("--topic", "", "--title", "x"),
        ("--severity", "bad", "--title", "x"),
        ("--recipient", "a\nb", "--title", "x"),
        ("title",),
        ("--unknown",),
    ],
)
def test_wrong_usage_exits_2(send: Callable[..., Run], arguments: tuple[str, ...]) -> None:
    run = send(*arguments)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)


def test_an_attribute_that_is_given_twice_is_named(send: Callable[..., Run]) -> None:
    run = send("--title", "x", "--attribute", "a=1", "--attribute", "b=2", "--attribute", "a=2")
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
    assert '--attribute: "a" is there twice' in run.stderr


@pytest.mark.unit
def test_every_field_of_an_alert_has_an_option() -> None:
    singular = {"attribute": "attributes", "link": "links", "recipient": "recipients", "expires_in": "expires_at"}
    others = {"stdin", "url", "token", "token_file", "as_json", "idempotency_key"}
    options = {singular.get(name, name) for name in inspect.signature(send_command).parameters} - others
    assert options == set(AlertIn.model_fields)


GOOD, BAD = '{"title": "Good"}', '{"title": "Bad'
HUGE = "9" * 5_000


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{GOOD}\n\n{BAD}\n{GOOD}\n", "line 3 is no JSON, and nothing was sent: "),
        (f"{BAD}\n{GOOD}\n", "line 1 is no JSON"),
        (f"{GOOD}\noops\n{GOOD}\n", "line 2 is no JSON"),
        (f"{GOOD}\n[{GOOD}]\n", "line 2 is no JSON object"),
        (f"{GOOD}\n5\n", "line 2 is no JSON object"),
        (f'{GOOD}\n{{"topic": "a"}}\n', "line 2 has no title"),
        (f'{GOOD}\n{{"title": "a\\ud800"}}\n', "line 2 has U+D800"),
        ('{\n  "title": "One",\n}\n', "stdin is no JSON, and nothing was sent: "),
        ('[{"title": "One"}, 5]', "number 2 is no JSON object"),
        ('[{"title": "One"},]', "stdin is no JSON"),
        ('{"title": "a", "attributes": {"x": NaN}}', "line 1 is no JSON, and nothing was sent: NaN is no number"),
        ('{"title": "a", "attributes": {"x": 1e999}}', "line 1 is no JSON, and nothing was sent: 1e999 is no number"),
        (f'{GOOD}\n{{"title": "a", "attributes": {{"x": -Infinity}}}}\n', "line 2 is no JSON"),
        ('[\n{"title": "a", "attributes": {"x": NaN}}\n]', "stdin is no JSON"),
        ('{"title": "a", "title": "b"}', 'line 1 is no JSON, and nothing was sent: "title" is there twice'),
        (
            f'{GOOD}\n{{"title": "a", "attributes": {{"x": 1, "x": 1}}}}\n',
            'line 2 is no JSON, and nothing was sent: "x" is',
        ),
        ('[{"title": "a", "title": "b"}]', 'stdin is no JSON, and nothing was sent: "title" is there twice'),
        ("null", "stdin is JSON, but no object and no array, and nothing was sent"),
        ("42", "give --title to send it as text"),
        ('"text"', "stdin is JSON, but"),
        (f'{{"title": "x", "attributes": {{"n": {HUGE}}}}}', "999… has 5000 digits, and more than 4300 are too many"),
        (f'{GOOD}\n{{"title": "x", "n": {HUGE}}}', "line 2 is no JSON, and nothing was sent: 999"),
        (f'{{"title": "x", "n": {HUGE}}}\n{GOOD}', "line 1 is no JSON, and nothing was sent: 999"),
        (HUGE, "999… has 5000 digits"),
        ("[" * 20_000, "stdin is nested too deeply, and nothing was sent"),
        (f'{GOOD}\n{{"title":{"[" * 20_000}', "line 2 is nested too deeply, and nothing was sent"),
        ('{"title": "a", "idempotency_key": 5}', "idempotency_key must be text of 1 to 200 printable characters"),
        ('{"title": "a", "idempotency_key": "é\\n"}', "idempotency_key must be text"),
        ('{"title": "a", "idempotency_key": ""}', "idempotency_key must be text"),
        ('{"title": "x", "self": 1}', "correct /self: "),
        ('{"title": "x", "fields": 1}', "correct /fields: "),
        ('{"title": 5}', "correct /title: "),
    ],
)
async def test_a_line_that_cannot_be_read_is_named_and_none_is_sent(
    lenient: Node, send: Callable[..., Run], text: str, said: str
) -> None:
    before = await lenient.sql("SELECT count(*) FROM alerts")
    run = send("-", text=text)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert said in run.stderr
    assert await lenient.sql("SELECT count(*) FROM alerts") == before


@pytest.mark.parametrize("depth", range(900, 1000, 5))
async def test_an_alert_that_is_nested_too_deeply_is_refused_in_one_line(send: Callable[..., Run], depth: int) -> None:
    run = send("-", text=f'{{"title": "x", "attributes": {{"x": {"[" * depth}{"]" * depth}}}}}')
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)


async def test_a_line_that_the_service_refuses_is_named_and_the_others_are_stored(send: Callable[..., Run]) -> None:
    run = send(
        "-", text=f'{GOOD}\n\n{{"title": "Bad", "topic": "No Topic"}}\n{GOOD}\n{{"titel": "Bad", "title": "x"}}\n'
    )
    assert (run.returncode, run.stdout.count("\n"), run.stderr.count("\n")) == (1, 2, 1)
    assert "2 of 4 alerts were not stored; the first, line 3: /topic: " in run.stderr


async def test_text_in_braces_is_no_json(lenient: Node, send: Callable[..., Run]) -> None:
    alert = await stored(lenient, send("-", text="{db1} is down\nsince noon"))
    assert (alert["title"], alert["body"]) == ("{db1} is down", "since noon")
