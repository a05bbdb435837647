"""Random requests of random tokens on random alerts, through every path, against a model of the rules.

Each path has a kind of request here. A path whose check is taken out shows as another status than the model's, as an
alert that is changed, or as a text of an alert in an answer to a token that may not read it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import ClientConnection, connect

from service.settings import AlertSettings, LimitSettings, Settings, StreamSettings
from tests.alerts.authorization_model import SUMMARY, Model, ModelAlert, Token
from tests.harness import PATIENCE, READ, eventually, serving, token
from tests.http_streams import EventSource

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import httpx2

    from tests.harness import Node

SUBJECTS = ["ann", "shop", "depot", "billing"]
GROUPS = {"goods": ("shop", "depot")}
SCOPES = ["alerts:read", "alerts:write", "alerts:manage", "audit:read"]
PATTERNS = ["*", "{}.a", "{}.b", "{}.*", "{}.a.*"]
TOPICS = ["{}.a", "{}.b", "{}.a.c", "tocsin.health", "drill.x"]
PEOPLE = [None, None, ["ann"], ["ann", "shop"], ["shop", "ann"], ["ghost"]]
CHOSEN = {"body", "attributes", "severity", "dedup_key", "replayed"}
"""Beside what was sent, what an integration makes of it, and what a batch says of an item."""
LOOKS = ["get", "timeline", "deliveries", "receipts", "audit"]
PATHS = ["single", "batch", "cloudevent", "cloudevents", "apprise", "alertmanager"]


def random_token(chance: random.Random) -> Token:
    """Return a token; the patterns of its topics are of no trial yet."""
    scopes = frozenset(scope for scope in SCOPES if chance.random() < 0.5) or frozenset(SCOPES[:1])
    topics = tuple(chance.sample(PATTERNS, chance.randint(1, 2))) if chance.random() < 0.6 else None
    return Token(chance.choice(SUBJECTS), scopes, topics)


@pytest.fixture(scope="module")
def grouped(shared_url: str) -> Iterator[Node]:
    """A node with a group of sources, and without limits."""
    every = "1000000/second"
    limits = LimitSettings(write_limit=every, read_limit=every, auth_failure_limit=every, connect_limit=every)
    streams = StreamSettings(connections_per_recipient=10_000)
    alerts = AlertSettings(dedup_groups=GROUPS)
    with serving(shared_url, Settings(limits=limits, stream=streams, alerts=alerts)) as running:
        yield running


@pytest.fixture(scope="module")
def client(grouped: Node) -> Iterator[httpx2.Client]:
    with grouped.rest() as one:
        one.headers.pop("authorization")
        yield one


@pytest.mark.parametrize("seed", [*range(3), *(pytest.param(seed, marks=pytest.mark.long) for seed in range(3, 8))])
def test_every_path_decides_as_the_model_does(grouped: Node, client: httpx2.Client, seed: int) -> None:
    chance = random.Random(seed)
    trial = Trial(grouped, client, f"t{seed}")
    bearers = [trial.named(random_token(chance)) for _ in range(7)]
    bearers += [trial.named(Token(chance.choice(SUBJECTS), frozenset({"alerts:write"}), None))]
    readers = [one for one in bearers if one.has("alerts:read")]
    with ExitStack() as stack:
        live = [stack.enter_context(trial.live(reader)) for reader in readers]
        for _ in range(120):
            trial.ask(chance, chance.choice(bearers))
        for reader, stream in zip(readers, live, strict=True):
            trial.check_live(reader, stream)
    for bearer in bearers:
        trial.check_lists(bearer)
        for alert, what in itertools.product(chance.sample(trial.model.alerts, 4), LOOKS):
            trial.look(bearer, what, alert)
    trial.check_ack(bearers[0])
    asyncio.run(trial.check_streams(bearers))


@dataclass
class FirstPost:
    """What was first sent with an idempotency key, and what became of it."""

    sent: dict[str, Any]
    alert: ModelAlert
    was_created: bool


@dataclass
class Trial:
    """One run of requests, on topics of its own."""

    node: Node
    client: httpx2.Client
    name: str
    model: Model = field(default_factory=lambda: Model([set(sources) for sources in GROUPS.values()]))
    answers: dict[tuple[str, str | None], FirstPost] = field(default_factory=dict)
    seen: set[tuple[str, str]] = field(default_factory=set)
    bearer_tokens: dict[Token, str] = field(default_factory=dict)
    start: int = 0

    def __post_init__(self) -> None:
        self.start = int(asyncio.run(self.node.sql("SELECT seq FROM log_head"))[0][0])

    def named(self, one: Token) -> Token:
        """Return a token whose patterns are of this trial's topics."""
        topics = one.topics and tuple(pattern.format(self.name) for pattern in one.topics)
        named = Token(one.subject, one.scopes, topics)
        claims = {"topics": list(topics)} if topics is not None else {}
        self.bearer_tokens[named] = token(one.subject, " ".join(sorted(one.scopes)), **claims)
        return named

    def request(self, bearer: Token, method: str, path: str, **content: Any) -> httpx2.Response:
        """Send a request, and look for what its answer must not show."""
        headers = {"Authorization": f"Bearer {self.bearer_tokens[bearer]}", **content.pop("headers", {})}
        answer = self.client.request(method, path, headers=headers, **content)
        audits = bearer.has("audit:read") and path.startswith("/v1/audit")
        sent = repr(content)
        for alert in self.model.alerts:
            may_show = self.model.reads(bearer, alert) or (audits and bearer.covers(alert.topic)) or alert.title in sent
            may_show = may_show or (method == "GET" and self.model.looks_up(bearer, alert))
            assert may_show or alert.title not in answer.text, (bearer, alert, path, answer.text)
        return answer

    def ask(self, chance: random.Random, bearer: Token) -> None:
        """Send a random request, and compare."""
        alert = chance.choice(self.model.alerts) if self.model.alerts and chance.random() < 0.95 else None
        match chance.choices(["post", "resolve", "act", "comment", "look", "see"], [8, 2, 5, 1, 4, 2])[0]:
            case "post":
                self.post(
                    bearer,
                    path=chance.choice(PATHS),
                    topic=chance.choice([*TOPICS[:3] * 3, *TOPICS[3:]]),
                    people=chance.choice(PEOPLE),
                    key=chance.choice([None, f"{self.name}k", f"{self.name}l"]),
                    is_once=chance.random() < 0.3,
                )
            case "resolve":
                key, path = f"{self.name}{chance.choice('klm')}", chance.choice(["everywhere", "alertmanager", "topic"])
                if path == "everywhere":
                    self.resolve_key_everywhere(bearer, key)
                else:
                    self.resolve_key(bearer, chance.choice(TOPICS), key, of_alertmanager=path == "alertmanager")
            case "act":
                self.act(bearer, chance.choice(["acknowledge", "resolve", "reopen"]), alert)
            case "comment":
                self.comment(bearer, alert)
            case "look":
                self.look(bearer, chance.choice(LOOKS), alert)
            case _:
                self.see(bearer, alert, on_stream=chance.random() < 0.5)

    # Posting.

    def post(
        self, bearer: Token, *, path: str, topic: str, people: list[str] | None, key: str | None, is_once: bool
    ) -> None:
        """Post an alert on one of the paths."""
        is_event = path == "cloudevent"
        name = bearer.subject, topic if is_event else None  # an event is known in its topic
        once = f"{self.name} once" if is_once and path in ("single", "batch", "cloudevent") else None
        title = f"secret {bearer.subject} {is_event} {once or uuid.uuid4().hex}"
        sent: dict[str, Any] = {"topic": topic.format(self.name), "title": title}
        if people is not None and path in ("single", "batch"):
            sent["recipients"] = people
        if key is not None or path == "alertmanager":
            sent["dedup_key"] = key or f"{self.name}m"
        refused = self.model.post(bearer, sent["topic"])
        status, code, body = self.send(bearer, path, sent, once)
        if refused is not None:
            assert (status, code) == (403, refused), (bearer, path, sent)
        elif once is not None and name in self.answers:
            self._check_again(bearer, path, sent, status, body, self.answers[name])
        else:
            alert, was_created = self._store(bearer, sent, status, body)
            if once is not None:
                self.answers[name] = FirstPost(sent, alert, was_created)

    def send(self, bearer: Token, path: str, sent: dict[str, Any], once: str | None) -> tuple[int, str | None, Any]:
        """Post ``sent`` on a path, and return the status and the code of its answer, and what it shows."""
        event = {
            "specversion": "1.0",
            "source": "/tests",
            "id": once or uuid.uuid4().hex,
            "type": sent["topic"],
            "data": {"title": sent["title"]},
            **({"dedupkey": sent["dedup_key"]} if "dedup_key" in sent else {}),
        }
        headers = {"Idempotency-Key": once} if once else {}
        match path:
            case "single":
                answer = self.request(bearer, "POST", "/v1/alerts", json=sent, headers=headers)
            case "batch":
                item = {**sent, **({"idempotency_key": once} if once else {})}
                answer = self.request(bearer, "POST", "/v1/alerts/batch", json=[item])
            case "cloudevent" | "cloudevents":
                suffix, content = ("+json", event) if path == "cloudevent" else ("-batch+json", [event])
                media = {"Content-Type": f"application/cloudevents{suffix}"}
                address = "/v1/integrations/cloudevents"
                answer = self.request(bearer, "POST", address, content=json.dumps(content), headers=media)
            case "apprise":
                notification = {"title": sent["title"], "topic": sent["topic"], "message": "-"}
                notification |= {"dedup_key": sent["dedup_key"]} if "dedup_key" in sent else {}
                answer = self.request(bearer, "POST", "/v1/integrations/apprise", json=notification)
            case _:
                answer = self.notify(bearer, "firing", sent["topic"], sent["dedup_key"], sent["title"])
        body = answer.json()
        if answer.status_code == 200 and path in ("batch", "cloudevents"):
            [body] = body["results"]
            return body["status"], body.get("code"), body
        return answer.status_code, body.get("code"), body

    def notify(self, bearer: Token, status: str, topic: str, key: str, title: str = "-") -> httpx2.Response:
        """Send a notification as Alertmanager does."""
        labels = {"topic": topic, "alertname": title}
        notification = {"alerts": [{"status": status, "fingerprint": key, "labels": labels}]}
        return self.request(bearer, "POST", "/v1/integrations/alertmanager", json=notification)

    def _store(self, bearer: Token, sent: dict[str, Any], status: int, body: dict[str, Any]) -> tuple[ModelAlert, bool]:
        repeated = self.model.repeated_by(bearer.subject, sent)
        if repeated is not None:
            repeated.title = sent["title"]
        if "stored" in body:  # an answer of Alertmanager's path names no alert
            assert (body["stored"], body["repeated"]) == ((1, 0) if repeated is None else (0, 1)), (bearer, sent, body)
            [(found,)] = asyncio.run(
                self.node.sql("SELECT id::text FROM alerts WHERE source = $1 ORDER BY seq DESC LIMIT 1", bearer.subject)
            )
            body = {"id": found if repeated is None else repeated.id}
        elif repeated is None:
            assert status == 201, (bearer, sent, body)
        else:
            assert (status, body["id"]) == (200, repeated.id), (bearer, sent, body)
            self._check_shown(bearer, repeated, body, {*sent, *CHOSEN})
        if repeated is not None:
            repeated.occurrences += 1
            return repeated, False
        assert all(body["id"] != alert.id for alert in self.model.alerts)
        self.model.alerts.append(
            ModelAlert(
                body["id"],
                bearer.subject,
                sent["topic"],
                sent.get("recipients"),
                sent["title"],
                sent.get("dedup_key"),
                status_by=bearer.subject,
            )
        )
        return self.model.alerts[-1], True

    def _check_shown(self, bearer: Token, alert: ModelAlert, body: dict[str, Any], sent: set[str]) -> None:
        if "title" in body and self.model.reads(bearer, alert):
            assert body["title"] == alert.title
        elif not self.model.reads(bearer, alert):
            assert set(body) <= SUMMARY | sent, (bearer, alert, body)

    def _check_again(  # noqa: PLR0917 - what was sent, what was answered, and what was first
        self, bearer: Token, path: str, sent: dict[str, Any], status: int, body: dict[str, Any], first: FirstPost
    ) -> None:
        if path != "cloudevent" and sent != first.sent:
            assert (status, body["code"]) == (422, "idempotency_mismatch"), (bearer, sent, first)
            return
        assert (status, body["id"]) == (201 if first.was_created else 200, first.alert.id), (bearer, sent, first)
        if not (first.was_created and bearer.covers(first.alert.topic)):
            self._check_shown(bearer, first.alert, body, {*sent, *CHOSEN})

    def resolve_key(self, bearer: Token, topic: str, key: str, *, of_alertmanager: bool) -> None:
        """Resolve by a key."""
        topic = topic.format(self.name)
        if of_alertmanager:
            answer = self.notify(bearer, "resolved", topic, key)
        else:
            answer = self.request(bearer, "POST", "/v1/alerts/resolve", json={"dedup_key": key, "topic": topic})
        if (refused := self.model.post(bearer, topic)) is not None:
            assert (answer.status_code, answer.json()["code"]) == (403, refused)
        else:
            resolved = self.model.resolve_key(bearer, topic, key)
            assert answer.json()["resolved"] == resolved, (bearer, topic, key, self.model.alerts)

    def resolve_key_everywhere(self, bearer: Token, key: str) -> None:
        """Resolve by a key, in all topics."""
        answer = self.request(bearer, "POST", "/v1/alerts/resolve", json={"dedup_key": key})
        if not bearer.has("alerts:write"):
            assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
        else:
            resolved = self.model.resolve_key(bearer, None, key)
            assert answer.json() == {"resolved": resolved}, (bearer, key, self.model.alerts)

    # Acting and looking.

    def act(self, bearer: Token, action: str, alert: ModelAlert | None) -> None:
        """Acknowledge, resolve or reopen."""
        answer = self.request(bearer, "POST", f"/v1/alerts/{alert.id if alert else uuid.uuid4()}/{action}")
        expected = self.model.act(bearer, action, alert)
        assert answer.status_code == expected, (bearer, action, alert, answer.text)
        shown = answer.json() if expected == 200 else answer.json().get("alert")
        if alert is not None and shown is not None:
            self._check_shown(bearer, alert, shown, set())

    def comment(self, bearer: Token, alert: ModelAlert | None) -> None:
        """Comment, with an idempotency key that others have used, too."""
        path = f"/v1/alerts/{alert.id if alert else uuid.uuid4()}/comments"
        key = {"Idempotency-Key": f"{path} {bearer.subject}"}
        answer = self.request(bearer, "POST", path, json={"text": "-"}, headers=key)
        expected = self.model.manage(bearer, alert)
        assert answer.status_code == (201 if expected == 200 else expected), (bearer, alert, answer.text)

    def look(self, bearer: Token, what: str, alert: ModelAlert | None) -> None:
        """Read an alert, or what is known of it."""
        path = f"/v1/alerts/{alert.id if alert else uuid.uuid4()}"
        path = {"get": path, "audit": path.replace("/v1", "/v1/audit")}.get(what, f"{path}/{what}")
        rule = {
            "get": self.model.look_up,
            "deliveries": self.model.receipts,
            "receipts": self.model.receipts,
            "audit": self.model.audit,
        }
        answer = self.request(bearer, "GET", path)
        assert answer.status_code == rule.get(what, self.model.read)(bearer, alert), (bearer, what, alert, answer.text)
        if what == "get" and alert is not None and answer.status_code == 200:
            self._check_looked_up(bearer, alert, answer.json())

    def _check_looked_up(self, bearer: Token, alert: ModelAlert, shown: dict[str, Any]) -> None:
        """Compare an alert with the model; who acted on it is not for a source that may not read it."""
        is_shown = self.model.reads(bearer, alert) or alert.status_by == bearer.subject
        assert (shown["id"], shown["title"], shown["status"]) == (alert.id, alert.title, alert.status), (bearer, alert)
        assert shown["status_by"] == (alert.status_by if is_shown else None), (bearer, alert)

    def see(self, bearer: Token, alert: ModelAlert | None, *, on_stream: bool) -> None:
        """Report that an alert was seen."""
        seen = alert.id if alert else str(uuid.uuid4())
        if on_stream and bearer.has("alerts:read"):
            asyncio.run(self._see_on_stream(bearer, seen))
        elif not on_stream:
            answer = self.request(bearer, "POST", "/v1/events/seen", json={"alerts": [seen]})
            assert answer.status_code == (204 if bearer.has("alerts:read") else 403)
        if alert is not None and self.model.reads(bearer, alert):
            self.seen.add((alert.id, bearer.subject))

    async def _see_on_stream(self, bearer: Token, alert: str) -> None:
        claims = {"topics": list(bearer.topics)} if bearer.topics is not None else {}
        stream = await self.node.stream(bearer.subject, claims=claims, after="latest")
        await stream.send({"type": "seen", "alerts": [alert]})
        await stream.send({"type": "ping", "data": 1})
        await stream.next_of("pong")
        await stream.close()

    def check_ack(self, bearer: Token) -> None:
        """Acknowledge on a connection with other tokens than the one that opened it."""
        if not bearer.has("alerts:read"):
            return
        head = self.request(bearer, "GET", "/v1/events", params={"after": "latest", "wait": 0}).json()
        for subject, topics in ((bearer.subject, ("*",)), (bearer.subject, ("other",)), ("eve", None)):
            other = self.named(Token(subject, bearer.scopes, topics))
            ack = {"connection": head["connection"], "seq": 0}
            answer = self.request(other, "POST", "/v1/events/ack", json=ack)
            assert answer.status_code == (200 if topics == ("*",) else 404), (bearer, other, answer.text)

    # In the end: lists, and streams.

    def check_lists(self, bearer: Token) -> None:
        """Compare what lists show."""
        expected = {alert.id: alert for alert in self.model.alerts if self.model.lists(bearer, alert)}
        for query in ({}, {"q": "secret"}, {"source": SUBJECTS}, {"topic": f"{self.name}.*"}):
            answer = self.request(bearer, "GET", "/v1/alerts", params={"limit": 200, **query})
            if not bearer.has("alerts:read"):
                assert answer.status_code == 403
                own = {"limit": 200, **query, "source": bearer.subject}
                answer = self.request(bearer, "GET", "/v1/alerts", params=own)
            if not bearer.has("alerts:read", "alerts:write"):
                assert answer.status_code == 403
                continue
            found = {alert["id"]: alert for alert in answer.json()["alerts"]}
            assert self._own(found) == {*expected}, (bearer, query)
            for alert_id, alert in expected.items():
                self._check_looked_up(bearer, alert, found[alert_id])
        answer = self.request(bearer, "GET", "/v1/audit/unreceived", params={"topic": f"{self.name}.*"})
        assert answer.status_code == (200 if bearer.has("audit:read") else 403)
        answer = self.request(bearer, "GET", "/v1/audit/connections", params={"limit": 1})
        assert answer.status_code == (200 if bearer.has("audit:read") and bearer.covers("*") else 403)

    def _own(self, ids: Iterable[str]) -> set[str]:
        """Return those of this trial: due repeat events of the one before are still to come."""
        return set(ids) & {alert.id for alert in self.model.alerts}

    @contextmanager
    def live(self, bearer: Token) -> Iterator[ClientConnection]:
        """Open a stream that is sent the events as they happen."""
        headers = {"Authorization": f"Bearer {self.bearer_tokens[bearer]}"}
        with connect(
            f"{self.node.ws}?after=latest", additional_headers=headers, proxy=None, open_timeout=PATIENCE
        ) as stream:
            while json.loads(stream.recv())["type"] != "caught_up":
                pass
            yield stream

    def check_live(self, bearer: Token, stream: ClientConnection) -> None:
        """Compare what was sent live."""
        expected = {alert.id for alert in self.model.alerts if self.model.sees(bearer, alert)}
        found: set[str] = set()

        def read() -> str:
            frame = json.loads(stream.recv(timeout=PATIENCE))
            if frame["type"] == "event":
                found.add(frame["alert"]["id"])
            return str(frame["type"])

        while not expected <= found:
            read()
        stream.send(json.dumps({"type": "ping", "data": 0}))
        while read() != "pong":
            pass
        assert self._own(found) == expected, bearer

    async def check_streams(self, bearers: list[Token]) -> None:
        """Compare what each transport of the stream shows, and what the ledger recorded as seen."""
        for number, bearer in enumerate(bearers):
            if bearer.has("alerts:read"):
                expected = {alert.id for alert in self.model.alerts if self.model.sees(bearer, alert)}
                assert self._own(self._polled(bearer)) == expected, bearer
                if number == 0:
                    assert self._own(await self._streamed(bearer)) == expected, bearer
                    assert self._own(await self._sent(bearer)) == expected, bearer
        await eventually(self._has_recorded, 10)

    def _polled(self, bearer: Token) -> set[str]:
        found: list[str] = []
        query: dict[str, Any] = {"after": self.start, "wait": 0}
        while True:
            answer = self.request(bearer, "GET", "/v1/events", params=query).json()
            found += [event["alert"]["id"] for event in answer["events"]]
            if answer["caught_up"]:
                return set(found)
            query = {"after": answer["next"], "connection": answer["connection"], "wait": 0}

    async def _streamed(self, bearer: Token) -> set[str]:
        claims = {"topics": list(bearer.topics)} if bearer.topics is not None else {}
        stream = await self.node.stream(bearer.subject, claims=claims, after=self.start)
        await stream.next_of("caught_up")
        await stream.close()
        return {frame["alert"]["id"] for frame in stream.seen if frame["type"] == "event"}

    async def _sent(self, bearer: Token) -> set[str]:
        claims: dict[str, Any] = {"topics": list(bearer.topics)} if bearer.topics is not None else {}
        async with EventSource(self.node, bearer.subject, READ, **claims) as source:
            await source.live(after=self.start)
        return {frame["alert"]["id"] for frame in source.frames if frame["type"] == "event"}

    async def _has_recorded(self) -> bool:
        ids = [uuid.UUID(alert.id) for alert in self.model.alerts]
        rows = await self.node.sql(
            "SELECT alert_id::text, recipient FROM sightings WHERE alert_id = ANY ($1::uuid[])", ids
        )
        found = {(row[0], row[1]) for row in rows}
        assert found <= self.seen, found - self.seen
        return found == self.seen
