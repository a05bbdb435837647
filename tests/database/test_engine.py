from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import make_url

from service.database.durability import FollowedServer, ServerState, UnsafeServer
from service.database.engine import address_of, parse_url, shown_address
from service.errors import ConfigurationError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    "address",
    ["postgresql://a:b@db:5432/c", "postgres://db/c", "postgresql+psycopg://db/c", "postgresql:///c?host=/run/pg"],
)
def test_an_address_of_postgresql_is_read(address: str) -> None:
    assert parse_url(address).drivername == "postgresql+asyncpg"
    assert parse_url(address).database == "c"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "hunter2",
        "mysql://tocsin:hunter2@db/c",
        "postgresql://tocsin:hunter2@db:99999/c",
        "postgresql://db:hunter2/c",
        "postgresql://tocsin:un@hunter2@db/c",
        "postgresql://tocsin:un@hunter2@one:1,two:2/c",
        "postgresql://tocsin:un@5/hunter2@db/c",
        "postgresql://tocsin:un@db?hunter2@db/c",
        "postgresql://tocsin/hunter2@db/c",
        "postgresql://tocsin:un@db/c?password=un@hunter2",
        "postgresql://tocsin:hunter2@db:5432x/c",
        "postgresql://tocsin:hunter2@[::1/c",
        "postgresql://tocsin:hunter2@[::x]/c",
        "postgresql://tocsin:hunter2@d\N{ACCOUNT OF}b/c",
        "host=db password=hunter2",
    ],
)
def test_any_other_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_DATABASE_URL must look like") as raised:
        parse_url(address)
    assert "hunter2" not in str(raised.value)


PASSWORD = "hunter2"
SIGNS = st.text(alphabet="/@#?%:[],&=+;-0123\\ '\"x\N{ACCOUNT OF}\u00e9\t", max_size=6)
HOSTS = st.sampled_from(["db", "db:5432", "[::1]:1", "one:1,two:2", "db:-1", "db,", ""])


@given(SIGNS, SIGNS, HOSTS)
def test_no_part_of_a_password_is_shown_whatever_it_holds(before: str, after: str, hosts: str) -> None:
    password = f"{PASSWORD}{before}{PASSWORD}{after}{PASSWORD}"
    addresses = [f"postgresql://tocsin:{password}@{hosts}/c", f"postgresql://tocsin@{hosts}/c?password={password}"]
    if "@" not in password:  # or what follows it is where the host is
        addresses += [f"postgresql://tocsin:{password}", f"postgresql://tocsin:{password}/c"]
    addresses += [f"postgresql://{quote(f'tocsin:{password}@{hosts}', safe='')}/c"]
    for address in addresses:
        try:
            shown = shown_address(parse_url(address))
        except ConfigurationError as error:
            shown = str(error)
        assert PASSWORD not in shown


@pytest.mark.parametrize("sign", "/#?:%&=+ é")
def test_a_password_may_hold_what_is_not_ambiguous(sign: str) -> None:
    for written in (f"a{sign}b", f"a{quote(sign)}b"):
        url = parse_url(f"postgresql://tocsin:{written}@db/c")
        assert (url.password, url.host, url.database) == (f"a{sign}b", "db", "c")
    assert parse_url("postgresql://tocsin:a%40b@db/c").password == "a@b"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://tocsin:x@db:5432/c?sslmode=require&password=x&sslpassword=x", "postgresql://db:5432/c"),
        ("postgresql://tocsin:x@[::1]/c", "postgresql://[::1]/c"),
        ("postgresql://tocsin:x@one:1,two:2/c", "postgresql:///c?host=one%2Ctwo&port=1%2C2"),
        ("postgresql:///c?host=/run/pg&user=tocsin&password=x", "postgresql:///c?host=%2Frun%2Fpg"),
    ],
)
def test_of_an_address_the_hosts_and_the_database_are_shown(address: str, shown: str) -> None:
    assert shown_address(parse_url(address)) == shown


@pytest.mark.parametrize(
    ("address", "hosts"),
    [
        ("postgresql://a:b@one:1,two:2/c", [("one", 1), ("two", 2)]),
        ("postgresql://one,two:2/c?sslmode=disable", [("one", 5432), ("two", 2)]),
        ("postgresql:///c?host=one,two&port=1,2", [("one", 1), ("two", 2)]),
    ],
)
def test_of_several_hosts_the_primary_is_connected_to(address: str, hosts: list[tuple[str, int]]) -> None:
    url = parse_url(address)
    assert url.database == "c"
    query = make_url(address_of(url)).query
    named = zip(str(query["host"]).split(","), map(int, str(query["port"]).split(",")), strict=True)
    assert list(named) == hosts
    assert query["target_session_attrs"] == "primary"


def test_an_address_may_ask_for_another_server_itself() -> None:
    assert "any" in address_of(parse_url("postgresql://one:1,two:2/c?target_session_attrs=any"))
    assert "target_session_attrs" not in address_of(parse_url("postgresql://one/c"))


class Connection:
    """A connection that only ends."""

    def __init__(self) -> None:
        self.is_cut = False

    def terminate(self) -> None:
        self.is_cut = True


def test_all_connections_follow_to_another_server_and_never_back() -> None:
    server, first, second, third = FollowedServer(), Connection(), Connection(), Connection()
    server.meet(first, ServerState("a", []))
    server.meet(second, ServerState("a", []))
    assert not first.is_cut
    server.meet(third, ServerState("b", []))
    assert first.is_cut
    assert second.is_cut
    assert not third.is_cut
    assert server.identity == "b"
    with pytest.raises(UnsafeServer, match="two servers"):
        server.meet(Connection(), ServerState("a", []))
    assert not third.is_cut
