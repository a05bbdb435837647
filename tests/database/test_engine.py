from __future__ import annotations

import pytest

from service.database.engine import parse_url
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
    ],
)
def test_any_other_address_is_refused_and_not_shown(address: str) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_DATABASE_URL must look like") as raised:
        parse_url(address)
    assert "hunter2" not in str(raised.value)
