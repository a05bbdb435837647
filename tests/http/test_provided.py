from __future__ import annotations

from typing import Annotated, Protocol

import httpx2
import pytest
from fastapi import Depends, FastAPI

from service.http.provided import Parts, part, parts_of, provide, provided
from tests.http.requests import request

pytestmark = pytest.mark.unit


class Greeter(Protocol):
    def greet(self) -> str: ...


class English:
    def greet(self) -> str:
        return "hello"


class French(English):
    def greet(self) -> str:
        return "bonjour"


def test_a_part_is_found_by_its_type() -> None:
    english, french = English(), French()
    parts = Parts(english, french)
    assert parts.find(English) is english
    assert parts.find(French) is french


def test_a_part_may_be_added_as_a_protocol_or_a_base_class() -> None:
    french = French()
    parts = Parts()
    parts.add(Greeter, french)
    parts.add(English, french)
    assert parts.find(Greeter) is parts.find(English) is french


def test_a_part_that_is_not_provided_is_named() -> None:
    with pytest.raises(LookupError, match="English"):
        Parts(French()).find(English)


def test_an_endpoint_finds_the_parts_of_its_application() -> None:
    english = English()
    asked = request(english)
    assert part(asked, English) is english
    assert parts_of(asked.app).find(English) is english


async def test_a_route_is_given_the_parts_that_it_depends_on() -> None:
    app = FastAPI()
    parts = Parts()
    parts.add(Greeter, French())
    provide(app, parts)

    @app.get("/")
    async def greeting(greeter: Annotated[English, Depends(provided(Greeter))]) -> str:
        return greeter.greet()

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://node") as client:
        assert (await client.get("/")).json() == "bonjour"
    assert "greeter" not in str(app.openapi())
