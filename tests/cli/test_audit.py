from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from service.database.engine import parse_url, shown_address
from tests.harness import ROOT, WRITE, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.harness import Node

    Tocsin = Callable[..., subprocess.CompletedProcess[str]]

LISTS = ("recipient alice", "unreceived", "connections", "rejections", "sources")


@dataclass
class Incident:
    """What happened, before anybody asks."""

    node: Node
    alert: dict[str, Any]
    connection: str


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def incident(lenient: Node) -> Incident:
    async with await lenient.live("alice") as alice:
        alert = await lenient.post(
            "Card acceptance [below] 80 %", topic="payments.eu", severity="critical", recipients=["alice", "bob"]
        )
        await alice.next_of("event")
        await alice.ack(alert["seq"])
        with pytest.raises(ConnectionClosed):
            await (await lenient.stream("carol", scope=WRITE, options={"user_agent_header": "curl [red]"})).next()
        async with lenient.http("billing") as client:
            await client.post("/v1/alerts", json={"title": ""})
        await lenient.flushed(alert["seq"])

        async def written() -> bool:
            (row,) = await lenient.sql(
                "SELECT (SELECT count(*) FROM audit.rejections) = 1 AND (SELECT count(*) FROM receipts) > 0"
                " AND (SELECT sum(refused) FROM audit.sources) = 1 AS done"
            )
            return bool(row["done"])

        await eventually(written)
    await eventually(lambda: lenient.sql("SELECT FROM audit.connections WHERE closed_at IS NOT NULL"))
    return Incident(lenient, alert, alice.seen[0]["connection"])


@pytest.fixture
def audit(tocsin: Tocsin, incident: Incident) -> Callable[..., str]:
    """Run a command that succeeds, and return what it prints."""

    def run(*arguments: str, more: bool = False) -> str:
        run = tocsin("audit", *arguments, TOCSIN_DATABASE_URL=incident.node.database_url)
        assert run.returncode == 0, run
        is_table = "--csv" not in arguments and "--json" not in arguments
        advice = (
            "raise --limit, or have all of it with --csv or --json" if is_table else "leave out --limit to have all"
        )
        assert run.stderr.startswith(f"tocsin: there is more: {advice}" if more else "")
        assert run.stderr.count("\n") == more
        if is_table:
            assert f"Database: {shown_address(parse_url(incident.node.database_url))}" in run.stdout.splitlines()
        return run.stdout

    return run


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_an_alert_is_printed_on_one_page(audit: Callable[..., str], incident: Incident) -> None:
    page = audit("alert", incident.alert["id"])
    lines = page.splitlines()
    assert lines[0] == "Card acceptance [below] 80 %"
    assert incident.alert["id"] in lines[1]
    assert "For 2 admins: sent to 1, received by 1" in page
    (alice,) = [line.split() for line in lines if line.strip().startswith("alice")]
    assert (alice[1:3], alice[-1]) == (["1", "1"], "-")
    (bob,) = [line.split() for line in lines if line.strip().startswith("bob")]
    assert bob[1:3] == ["0", "0"]
    steps = [line for line in lines if incident.connection in line]
    assert [("sent" in line, "received" in line) for line in steps] == [(True, False), (False, True)]


def test_an_alert_is_printed_as_json_and_csv(audit: Callable[..., str], incident: Incident) -> None:
    printed = json.loads(audit("alert", incident.alert["id"], "--json"))
    assert sorted(printed) == ["alert", "counts", "recipients", "timeline"]
    assert printed["counts"] == {"recipients": 2, "sent_to": 1, "received_by": 1, "seen_by": 0}
    steps = rows(audit("alert", incident.alert["id"], "--csv"))
    assert [(row["action"], row["actor"]) for row in steps] == [(s["action"], s["actor"]) for s in printed["timeline"]]
    assert json.loads(steps[0]["details"])["severity"] == "critical"
    assert len(steps) == 3
    audit("alert", incident.alert["id"], "--limit", "1", more=True)


def test_the_commands_say_what_the_rest_api_says(audit: Callable[..., str], incident: Incident) -> None:
    with incident.node.rest("auditor", "audit:read") as client:
        for question in (*LISTS, f"alert {incident.alert['id']}"):
            kind, _, which = question.partition(" ")
            path = f"{kind}s/{which}" if which else kind
            expected = client.get(f"/v1/audit/{path}").json()
            printed = json.loads(audit(*question.split(), "--json"))
            for changing in ("since", "until", "duration", "waiting"):
                for each in (expected, printed):
                    forget(each, changing)
            assert printed == {name: value for name, value in expected.items() if name != "next"}, question


def forget(document: Any, name: str) -> None:
    if isinstance(document, dict):
        document.pop(name, None)
    for child in document.values() if isinstance(document, dict) else document if isinstance(document, list) else ():
        forget(child, name)


def test_what_an_admin_was_sent_is_listed(audit: Callable[..., str], incident: Incident) -> None:
    page = audit("recipient", "alice")
    assert "What alice was sent, newest first from 2" in page
    (line,) = [line.split() for line in page.splitlines() if incident.alert["id"] in line]
    assert line[2:6] == [str(incident.alert["seq"]), "alert.created", "critical", "payments.eu"]
    assert line[-1] in ("ms", "s")  # the latency
    (row,) = rows(audit("recipient", "alice", "--csv"))
    assert (row["alert_id"], row["kind"]) == (incident.alert["id"], "alert.created")
    assert float(row["latency"]) > 0
    (row,) = json.loads(audit("recipient", "alice", "--json"))["deliveries"]
    assert row["alert_id"] == incident.alert["id"]
    assert rows(audit("recipient", "alice", "--csv", "--until", "1h")) == []


def test_what_was_not_received_is_listed_and_narrowed(audit: Callable[..., str], incident: Incident) -> None:
    page = audit("unreceived")
    (line,) = [line for line in page.splitlines() if incident.alert["id"] in line]
    assert line.split()[0] == "bob"
    assert "Card acceptance [below] 80 %" in line
    (row,) = rows(audit("unreceived", "--csv", "--topic", "payments.*", "--severity", "critical", "--status", "open"))
    assert (row["recipient"], row["sent_at"], row["title"]) == ("bob", "", "Card acceptance [below] 80 %")
    for other in (("--severity", "info"), ("--status", "resolved"), ("--recipient", "alice")):
        assert json.loads(audit("unreceived", "--json", *other)) == {"unreceived": []}
    assert "everybody has received" in audit("unreceived", "--until", "1h")


def test_connections_are_listed(audit: Callable[..., str], incident: Incident) -> None:
    page = audit("connections", "--recipient", "alice", "--closed")
    (line,) = [line.split() for line in page.splitlines() if incident.connection in line]
    assert line[2:4] == ["alice", "websocket"]
    (row,) = rows(audit("connections", "--csv", "--since", "1h"))
    assert (row["connection"], row["close_code"], json.loads(row["topics"])) == (incident.connection, "1000", ["*"])
    assert json.loads(audit("connections", "--open", "--json")) == {"connections": []}


def test_refused_streams_are_listed(audit: Callable[..., str]) -> None:
    page = audit("rejections")
    counted, line = [line for line in page.splitlines() if "scope_missing" in line]
    assert counted.split() == ["scope_missing", "1"]
    assert "carol" in line
    assert "curl [red]" in line
    (row,) = rows(audit("rejections", "--csv", "--reason", "scope_missing"))
    assert (row["subject"], row["path"], row["origin"]) == ("carol", "/v1/ws", "")
    (row,) = rows(audit("rejection-counts", "--csv", "--reason", "scope_missing"))
    assert (row["reason"], row["rejections"]) == ("scope_missing", "1")
    assert row["hour"].endswith(":00:00Z")
    assert "scope_missing" in audit("rejection-counts", "--since", "1h")
    assert json.loads(audit("rejection-counts", "--reason", "kicked", "--json")) == {"rejection_counts": []}
    nothing = json.loads(audit("rejections", "--reason", "token_expired", "--json"))
    assert nothing == {"counts": [], "rejections": []}


def test_sources_are_listed(audit: Callable[..., str]) -> None:
    assert " billing " in audit("sources")
    counted = rows(audit("sources", "--csv", "--source", "billing", "--since", "2h"))
    assert sum(int(row["alerts"]) for row in counted) == sum(int(row["refused"]) for row in counted) == 1
    assert json.loads(audit("sources", "--source", "alice", "--json")) == {"sources": []}


def test_the_report_is_one_page(audit: Callable[..., str]) -> None:
    page = audit("report", "--since", "24h")
    lines = page.splitlines()
    assert lines[0].startswith("From 2")
    assert lines[0].endswith(" UTC")
    for title in (
        "Alerts",
        "Deliveries",
        "Slowest topics",
        "Not received, by admin",
        "Rejected streams",
    ):
        assert title in lines
    assert "Connections: 1 opened, 0 open now; why others ended" in lines
    assert lines[-1].strip() == "none"  # no hole in the log
    printed = json.loads(audit("report", "--json"))
    assert printed["alerts"] == [{"severity": "critical", "alerts": 1, "unresolved": 1}]
    assert (printed["deliveries"]["sent"], printed["deliveries"]["received"]) == (1, 1)
    assert [row["recipient"] for row in printed["unreceived"]] == ["bob"]
    figures = {(row["section"], row["name"], row["figure"]): row["value"] for row in rows(audit("report", "--csv"))}
    assert figures["alerts", "critical", "unresolved"] == "1"
    assert figures["sources", "billing", "refused"] == "1"
    assert figures["deliveries", "", "sent"] == "1"
    assert float(figures["slowest_topics", "payments.eu", "sent_p95"]) > 0


def test_the_command_answers_in_a_pipe(tocsin_process: Tocsin, incident: Incident) -> None:
    run = tocsin_process("audit", "connections", TOCSIN_DATABASE_URL=incident.node.database_url)
    assert (run.returncode, run.stderr) == (0, "")
    assert incident.connection in run.stdout


def test_times_are_durations_or_times(audit: Callable[..., str]) -> None:
    since, until = "2026-11-20T10:00:00+02:00", "2026-11-21 10:00"
    printed = json.loads(audit("report", "--json", "--since", since, "--until", until))
    assert (printed["since"], printed["until"]) == ("2026-11-20T08:00:00Z", "2026-11-21T10:00:00Z")


@pytest.mark.unit
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["alert", "4711"], "valid UUID"),
        (["report", "--since", "yesterday"], "24h"),
        (["connections", "--until", "5x"], "24h"),
        (["unreceived", "--since", "1h", "--until", "2h"], "earlier than --until"),
        (["recipient", "alice", "--since", "2999-01-01"], "must not be in the future"),
        (["recipient", " "], "printable"),
        (["unreceived", "--topic", "No Topic"], "payments.*"),
        (["unreceived", "--severity", "bad"], "critical"),
        (["unreceived", "--recipient", ""], "printable"),
        (["sources", "--limit", "0"], "--limit"),
        (["sources", "--limit", str(2**63 - 1)], "--limit"),
        (["sources", "--json", "--csv"], "--json"),
        (["rejections", "--open"], "--open"),
    ],
)
def test_wrong_usage_exits_2_and_says_what_is_wrong(tocsin: Tocsin, arguments: list[str], says: str) -> None:
    run = tocsin("audit", *arguments, TOCSIN_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")
    assert (run.returncode, run.stdout) == (2, ""), run
    assert says in run.stderr


def test_an_unknown_alert_is_said_to_be_unknown(refused: Callable[..., str], incident: Incident) -> None:
    unknown = str(uuid.uuid4())
    message = refused("audit", "alert", unknown, TOCSIN_DATABASE_URL=incident.node.database_url)
    assert f"there is no alert {unknown}" in message


def test_a_database_without_the_schema_is_said_to_lack_it(refused: Callable[..., str], empty_url: str) -> None:
    assert "tocsin migrate" in refused("audit", "report", TOCSIN_DATABASE_URL=empty_url)


def test_a_database_that_is_away_is_said_to_be_away(refused: Callable[..., str]) -> None:
    address = "postgresql://nobody:hunter2@127.0.0.1:1/nothing"
    assert "check TOCSIN_DATABASE_URL" in refused("audit", "report", TOCSIN_DATABASE_URL=address)


async def test_who_may_not_read_the_views_learns_so(refused: Callable[..., str], incident: Incident) -> None:
    role = f"role_{uuid.uuid4().hex}"
    await incident.node.sql(f"CREATE ROLE {role} LOGIN")
    await incident.node.sql(f"GRANT SELECT ON alembic_version TO {role}")
    address = incident.node.database_url.replace("postgres:@", f"{role}:@")
    assert address != incident.node.database_url
    try:
        assert "permission denied" in refused("audit", "report", TOCSIN_DATABASE_URL=address)
    finally:
        await incident.node.sql(f"REVOKE ALL ON alembic_version FROM {role}")
        await incident.node.sql(f"DROP ROLE {role}")


MANY = 2_345


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def long_lists(lenient: Node, incident: Incident) -> AsyncIterator[Node]:
    """Lists that are longer than a table, and than what an export holds in memory."""
    await incident.node.sql(
        "INSERT INTO handshake_rejections (id, at, node_id, path, reason)"
        " SELECT gen_random_uuid(), now() - make_interval(secs => n), gen_random_uuid(), '/v1/ws', 'flood'"
        f" FROM generate_series(1, {MANY}) AS n"
    )
    await incident.node.sql(
        "INSERT INTO recipients (id, topics, first_seen_at, last_seen_at)"
        f" SELECT 'admin ' || n, '{{search}}', now() - interval '1 day', now() FROM generate_series(1, {MANY}) AS n"
    )
    await lenient.post("Found by nobody", topic="search")
    yield incident.node
    await incident.node.sql("DELETE FROM handshake_rejections WHERE reason = 'flood'")
    await incident.node.sql("DELETE FROM recipients WHERE id LIKE 'admin %'")


@pytest.mark.parametrize(
    ("question", "name", "number"),
    [("rejections --reason flood", "rejections", MANY), ("unreceived --topic search", "unreceived", MANY + 1)],
)
def test_an_export_is_whole_and_a_table_says_where_it_is_cut(
    audit: Callable[..., str], long_lists: Node, question: str, name: str, number: int
) -> None:
    command = question.split()
    exported = rows(audit(*command, "--csv"))
    assert len(exported) == number
    document = json.loads(audit(*command, "--json"))[name]
    assert [list(map(str, row.values()))[:2] for row in document] == [list(row.values())[:2] for row in exported]
    for form in ("--csv", "--json"):
        assert audit(*command, form, "--limit", "1001", more=True) != audit(*command, form)
    assert len(rows(audit(*command, "--csv", "--limit", "1001", more=True))) == 1001
    assert len(rows(audit(*command, "--csv", "--limit", str(number)))) == number
    table = audit(*command, more=True)
    assert table.count("flood" if name == "rejections" else "Found by nobody") == 200


def test_an_alert_is_exported_whole(audit: Callable[..., str], long_lists: Node) -> None:
    (alert,) = {row["alert_id"] for row in rows(audit("unreceived", "--topic", "search", "--csv"))}
    document = json.loads(audit("alert", alert, "--json"))
    assert (len(document["recipients"]), document["counts"]["recipients"]) == (MANY + 1, MANY + 1)
    assert len(rows(audit("alert", alert, "--csv"))) == len(document["timeline"]) == 1
    audit("alert", alert, more=True)


def test_an_export_that_cannot_be_written_fails(long_lists: Node, tmp_path: Path) -> None:
    script = f"{sys.executable} -m service audit rejections --csv > /dev/full"
    variables = {"PYTHONPATH": str(ROOT), "TOCSIN_DATABASE_URL": long_lists.database_url}
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (1, "tocsin: standard output cannot be written: No space left on device\n")


@pytest.mark.parametrize("form", [[], ["--csv"], ["--json"]])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["recipient", "alcie"], "nobody named alcie has been seen: did you mean alice?"),
        (["recipient", "zzzz"], "nobody named zzzz has been seen: check the name, and the database"),
        (["connections", "--recipient", "alise"], "did you mean alice?"),
        (["unreceived", "--recipient", "bob", "--recipient", "alcie"], "nobody named alcie has been seen"),
        (["sources", "--source", "biling"], "nobody named biling has been seen: did you mean billing?"),
        (["unreceived", "--topic", "paymets.eu"], "no alert has the topic paymets.eu: did you mean payments.eu?"),
        (["unreceived", "--topic", "payments.*", "--topic", "paymets.*"], "paymets.*: did you mean payments.*?"),
        (["unreceived", "--topic", "payments"], "no alert has the topic payments: did you mean payments.*?"),
        (["unreceived", "--topic", "zzzz.*"], "no alert has the topic zzzz.*: check the topic, and the database"),
        (["rejections", "--reason", "scope-mising"], "there is no reason scope-mising: did you mean scope_missing?"),
        (["rejection-counts", "--reason", "rate_limit"], "there is no reason rate_limit: did you mean rate_limited?"),
        (["rejections", "--reason", "zzzz"], "there is no reason zzzz: check the reason, and the database"),
    ],
)
def test_what_is_misspelt_is_said_with_the_nearest(
    tocsin: Tocsin, incident: Incident, arguments: list[str], said: str, form: list[str]
) -> None:
    run = tocsin("audit", *arguments, *form, TOCSIN_DATABASE_URL=incident.node.database_url)
    assert (run.returncode, run.stdout, run.stderr.count("\n")) == (1, "", 1)
    assert said in run.stderr


def test_who_left_a_trace_may_have_been_sent_nothing(audit: Callable[..., str]) -> None:
    assert "nothing" in audit("recipient", "bob")  # named by an alert, and never connected
    assert "nothing" in audit("sources", "--source", "alice")
