from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from service.auth.issuers import load_keyring
from service.auth.principal import Scope
from service.auth.shared_secret import mint
from service.auth.tokens import TokenVerifier
from service.errors import (
    DatabaseUnavailable,
    KeysUnavailable,
    RateLimited,
    RequestRefused,
    ScopeMissing,
    TokenInvalid,
    TokenMissing,
)
from service.http.authentication import Bearer
from service.http.provided import parts_of
from service.http.rate_limits import RestLimits
from service.settings import AuthSettings, LimitSettings
from tests.fixtures.revocations import KnownRevocations
from tests.http.requests import ADDRESS, request

if TYPE_CHECKING:
    from starlette.requests import Request

pytestmark = pytest.mark.unit

SECRET = b"a secret of more than 32 bytes for tests"
AUTH = AuthSettings()
VERIFIER = TokenVerifier(load_keyring(AUTH, SECRET), AUTH, KnownRevocations())
READER = Bearer(Scope.ALERTS_READ, limit="read")


def limits(**rates: str) -> RestLimits:
    return RestLimits(LimitSettings(**rates))


def asked(authorization: str | None, rest_limits: RestLimits, verifier: TokenVerifier = VERIFIER) -> Request:
    headers = {} if authorization is None else {"Authorization": authorization}
    return request(verifier, rest_limits, method="GET", headers=headers)


def bearer(scope: str = "alerts:read", **options: Any) -> str:
    return f"Bearer {mint(SECRET, AUTH, subject='alice', scope=scope, **options)}"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_the_bearer_of_a_token_is_known(scheme: str) -> None:
    asks = asked(bearer().replace("Bearer", scheme), limits())
    principal = await READER(asks)
    assert principal.subject == "alice"
    assert asks.state.principal is principal


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer  ", "Basic YWxpY2U6"])
async def test_a_request_without_a_token_is_refused(authorization: str | None) -> None:
    with pytest.raises(TokenMissing):
        await READER(asked(authorization, limits()))


async def test_a_request_without_a_valid_token_counts_against_its_address() -> None:
    rest_limits = limits(auth_failure_limit="2/hour")
    for refusal in (TokenMissing, TokenInvalid, RateLimited):
        with pytest.raises(refusal):
            await READER(asked(None if refusal is TokenMissing else "Bearer x", rest_limits))
    assert rest_limits.is_exhausted("auth_failure", ADDRESS)
    assert (await READER(asked(bearer(), rest_limits))).subject == "alice"  # from the same address


@pytest.mark.parametrize("kind", [KeysUnavailable, DatabaseUnavailable])
async def test_keys_or_revocations_that_cannot_be_read_count_against_nobody(kind: type[RequestRefused]) -> None:
    class NotReady(TokenVerifier):
        async def verify(self, token: str) -> Any:  # noqa: ARG002 - whatever it is
            raise kind("not yet", retry_after=1)

    rest_limits = limits(auth_failure_limit="1/hour")
    asks = request(rest_limits, headers={"Authorization": bearer()})
    parts_of(asks.app).add(TokenVerifier, NotReady(load_keyring(AUTH, SECRET), AUTH, KnownRevocations()))
    with pytest.raises(kind):
        await READER(asks)
    assert not rest_limits.is_exhausted("auth_failure", ADDRESS)


async def test_one_of_the_scopes_is_enough() -> None:
    either = Bearer(Scope.ALERTS_MANAGE, Scope.ALERTS_WRITE, limit="write")
    assert (await either(asked(bearer("alerts:write"), limits()))).may(Scope.ALERTS_WRITE)
    with pytest.raises(ScopeMissing, match="alerts:manage or alerts:write"):
        await either(asked(bearer("alerts:read"), limits()))


async def test_each_request_counts_against_the_limit_of_its_subject() -> None:
    rest_limits = limits(read_limit="1/hour")
    with pytest.raises(ScopeMissing):
        await READER(asked(bearer("audit:read"), rest_limits))
    await READER(asked(bearer(), rest_limits))
    with pytest.raises(RateLimited) as refused:
        await READER(asked(bearer(), rest_limits))
    assert isinstance(refused.value, RequestRefused)
    assert refused.value.retry_after
    assert not rest_limits.is_exhausted("auth_failure", ADDRESS)
