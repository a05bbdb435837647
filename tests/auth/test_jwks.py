from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import json
import threading
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from structlog.testing import capture_logs

from service.auth.issuers import load_keyring
from service.auth.jwks import SET_MAX_BYTES, InvalidKeySet, KeySet, RotatingKeys, UnknownKeyId, fetch, parse_key_set
from service.auth.tokens import TokenVerifier
from service.errors import KeysUnavailable, TokenInvalid
from service.settings import AuthSettings
from tests.auth.issuer import ED25519, P256, P384, PAIRS, RSA, Publisher, jwk_set, public_jwk, publishing, signed
from tests.fixtures.revocations import KnownRevocations
from tests.harness import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = b"a secret of more than thirty-two bytes"
SECRET_JWK = {"kty": "oct", "kid": "s", "alg": "HS256", "k": base64.urlsafe_b64encode(SECRET).decode().rstrip("=")}
GOOD = public_jwk(P256, "ES256", kid="good")
NEW = ec.generate_private_key(ec.SECP256R1())
PAUSE = 0.2


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with publishing() as running:
        yield running


def settings(publisher: Publisher, **changes: Any) -> AuthSettings:
    return AuthSettings(
        **{
            "jwt_jwks_url": publisher.url,
            "jwks_min_refresh_interval_seconds": PAUSE,
            "jwks_timeout_seconds": 2,
            **changes,
        }
    )


def verifier_of(auth: AuthSettings) -> tuple[TokenVerifier, RotatingKeys]:
    keyring = load_keyring(auth)
    issuer = keyring.issuer("tocsin")
    assert issuer is not None
    assert isinstance(issuer.keys, RotatingKeys)
    return TokenVerifier(keyring, auth, KnownRevocations()), issuer.keys


# Reading a set.


@pytest.mark.unit
@pytest.mark.parametrize(("algorithm", "key"), PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_algorithm_is_that_of_the_key(algorithm: str, key: Any) -> None:
    [found] = parse_key_set(jwk_set(public_jwk(key, algorithm, kid="a", alg=algorithm)))["a"]
    assert (found.algorithm, found.key) == (algorithm, key.public_key())


@pytest.mark.unit
def test_a_key_that_names_no_algorithm_has_the_usual_one_or_the_configured_one() -> None:
    content = jwk_set(public_jwk(RSA, "RS256", kid="r"), GOOD, public_jwk(ED25519, "EdDSA", kid="e"))
    for algorithm, rsa_means in ((None, "RS256"), ("PS256", "PS256")):
        keys = parse_key_set(content, algorithm=algorithm)
        assert [keys[kid][0].algorithm for kid in ("r", "good", "e")] == [rsa_means, "ES256", "EdDSA"]


PASSED_OVER: dict[str, Any] = {
    "for encryption": {**GOOD, "use": "enc"},
    "for signing only": {**GOOD, "key_ops": ["sign"]},
    "operations are no list": {**GOOD, "key_ops": "verify"},
    "another algorithm": {**GOOD, "alg": "ES512"},
    "the algorithm of another curve": public_jwk(P384, "ES384", alg="ES256"),
    "the algorithm of another kind": {**GOOD, "alg": "RS256"},
    "HS256 of a public key": {**GOOD, "alg": "HS256"},
    "none": {**GOOD, "alg": "none"},
    "an algorithm that is no string": {**GOOD, "alg": ["ES256"]},
    "private": {**GOOD, "d": GOOD["x"]},
    "a secret": SECRET_JWK,
    "off the curve": {**GOOD, "x": GOOD["y"]},
    "without y": {name: value for name, value in GOOD.items() if name != "y"},
    "no base64": {**GOOD, "x": "é"},
    "a number": {**GOOD, "x": 5},
    "a kid that is no string": {**GOOD, "kid": 5},
    "another kind": {**GOOD, "kty": "AKP"},
    "a kind that is no string": {**GOOD, "kty": ["EC"]},
    "another curve": {**GOOD, "crv": "secp256k1"},
    "Ed448": public_jwk(ed448.Ed448PrivateKey.generate(), "EdDSA"),
    "weak": public_jwk(rsa.generate_private_key(65537, 1024), "RS256"),
    "no object": "key",
    "null": None,
}


@pytest.mark.unit
@pytest.mark.parametrize("jwk", PASSED_OVER.values(), ids=PASSED_OVER.keys())
def test_a_key_that_cannot_be_used_is_passed_over_for_those_that_can(jwk: Any) -> None:
    alone = [{**GOOD, "kid": "other"}] if isinstance(jwk, dict) else [GOOD]
    assert len(parse_key_set(jwk_set(jwk, *alone))) == 1
    with pytest.raises(InvalidKeySet, match="no key"):
        parse_key_set(jwk_set(jwk))


@pytest.mark.unit
def test_the_log_says_which_key_of_which_set_was_skipped(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_bytes(jwk_set(GOOD, {**GOOD, "kid": "x" * 500, "use": "enc"}, {**GOOD, "kid": 5}, None))
    with capture_logs() as logs:
        RotatingKeys.of_file(file, None)
    skipped = [(line["source"], line["kid"]) for line in logs if line["event"] == "key skipped"]
    assert skipped == [(str(file), "x" * 100), (str(file), None), (str(file), None)]


@pytest.mark.unit
def test_the_newer_name_of_eddsa_is_known() -> None:
    [found] = parse_key_set(jwk_set(public_jwk(ED25519, "EdDSA", kid="a", alg="Ed25519")))["a"]
    assert found.algorithm == "EdDSA"


NO_SETS = [b"", b"null", b"[]", b"{}", b'{"keys": {}}', b'{"keys": 5}', b'{"keys": []}', b"\xff", b"[" * 100_000]


@pytest.mark.unit
@pytest.mark.parametrize("content", NO_SETS, ids=range(len(NO_SETS)))
def test_what_is_no_set_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidKeySet):
        parse_key_set(content)


@pytest.mark.unit
def test_a_set_of_too_many_keys_is_refused() -> None:
    with pytest.raises(InvalidKeySet, match="101 keys"):
        parse_key_set(jwk_set(*[GOOD] * 101))


# A file.


@pytest.mark.unit
def test_a_secret_in_a_file_is_for_hs256(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(jwk_set(SECRET_JWK))
    verifier, _ = verifier_of(AuthSettings(jwt_jwks_file=tmp_path / "jwks.json"))
    assert verifier.verify_cached(signed(SECRET, "HS256", "s")).subject == "alice"


@pytest.mark.unit
def test_a_secret_in_a_file_that_can_be_guessed_is_passed_over() -> None:
    guessed = {**SECRET_JWK, "k": base64.urlsafe_b64encode(b"s" * 32).decode().rstrip("=")}
    with pytest.raises(InvalidKeySet, match="no key"):
        parse_key_set(jwk_set(guessed), secrets=True)


@pytest.mark.unit
async def test_a_file_is_read_again_when_it_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    path.write_bytes(jwk_set(GOOD))
    verifier, keys = verifier_of(AuthSettings(jwt_jwks_file=path))
    old, new = signed(P256, "ES256", "good"), signed(NEW, "ES256", "new")
    assert verifier.verify_cached(old).subject == "alice"
    task = asyncio.create_task(keys.run())
    try:
        path.write_bytes(jwk_set(public_jwk(NEW, "ES256", kid="new")))
        await eventually(lambda: believes(verifier, new))
        assert not believes(verifier, old)  # though it was remembered
        path.write_bytes(b"rubbish")
        await eventually(lambda: keys._failing)
        assert believes(verifier, new)
    finally:
        task.cancel()
        await asyncio.wait([task])


def believes(verifier: TokenVerifier, token: str) -> bool:
    try:
        verifier.verify_cached(token)
    except (UnknownKeyId, TokenInvalid):
        return False
    return True


# A URL.


async def test_the_keys_of_a_url_are_fetched_for_the_first_token(publisher: Publisher) -> None:
    publisher.publish(good=P256)
    verifier, _ = verifier_of(settings(publisher))
    token = signed(P256, "ES256", "good")
    with pytest.raises(UnknownKeyId):
        verifier.verify_cached(token)
    assert (await verifier.verify(token)).subject == "alice"
    assert verifier.verify_cached(token).subject == "alice"
    assert publisher.requests == 1


async def test_a_fetched_set_is_parsed_in_a_thread_and_only_when_it_has_changed() -> None:
    threads: list[threading.Thread] = []

    async def get() -> bytes:
        return b"the set"

    def parse(content: bytes) -> KeySet:
        threads.append(threading.current_thread())
        return parse_key_set(json.dumps({"keys": [GOOD]}).encode())

    keys = RotatingKeys("here", get, parse, ttl=300, min_interval=0)
    await keys.refresh()
    await keys.refresh()
    assert keys.find("good")
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_tokens_that_wait_for_a_key_share_one_fetch(publisher: Publisher) -> None:
    publisher.publish(good=P256)
    publisher.gate.clear()
    verifier, _ = verifier_of(settings(publisher, jwks_timeout_seconds=20))
    waiting = [asyncio.create_task(verifier.verify(signed(P256, "ES256", "good"))) for _ in range(50)]
    strangers = [asyncio.create_task(verifier.verify(signed(P256, "ES256", f"{n}"))) for n in range(50)]
    await eventually(lambda: publisher.requests)
    waiting.pop().cancel()  # who gives up does not end it for the others
    publisher.gate.set()
    assert {principal.subject for principal in await asyncio.gather(*waiting)} == {"alice"}
    refusals = await asyncio.gather(*strangers, return_exceptions=True)
    assert {type(refusal) for refusal in refusals} == {TokenInvalid}
    assert publisher.requests == 1


async def test_after_a_fetch_unknown_names_are_refused_without_another_until_the_pause_is_over(
    publisher: Publisher,
) -> None:
    publisher.publish(good=P256)
    verifier, _ = verifier_of(settings(publisher, jwks_min_refresh_interval_seconds=600))
    await verifier.verify(signed(P256, "ES256", "good"))
    for number in range(100):
        with pytest.raises(TokenInvalid, match="no key that its issuer has published"):
            await verifier.verify(signed(P256, "ES256", f"kid {number}"))
    assert publisher.requests == 1


async def test_a_new_key_is_found_once_the_pause_is_over(publisher: Publisher) -> None:
    publisher.publish(good=P256)
    verifier, _ = verifier_of(settings(publisher))
    await verifier.verify(signed(P256, "ES256", "good"))
    publisher.publish(good=P256, new=NEW)
    token = signed(NEW, "ES256", "new")

    async def believed() -> bool:
        try:
            return bool(await verifier.verify(token))
        except TokenInvalid:
            return False

    await eventually(believed)
    assert publisher.requests == 2
    assert believes(verifier, signed(P256, "ES256", "good"))


async def test_a_token_without_a_kid_is_believed_where_there_is_one_key(publisher: Publisher) -> None:
    publisher.publish(good=P256)
    verifier, keys = verifier_of(settings(publisher, jwks_min_refresh_interval_seconds=0.01))
    token = signed(P256, "ES256")
    assert (await verifier.verify(token)).subject == "alice"
    publisher.publish(good=P256, new=NEW)
    await eventually(lambda: refreshed(keys, 2))
    with pytest.raises(TokenInvalid):
        await verifier.verify(signed(P256, "ES256"))


async def refreshed(keys: RotatingKeys, count: int) -> bool:
    await keys.refresh()
    return len(keys._keys) == count


async def test_while_no_key_was_ever_fetched_the_answer_is_to_come_back(publisher: Publisher) -> None:
    publisher.status = 503
    verifier, _ = verifier_of(settings(publisher))
    token = signed(P256, "ES256", "good")
    with pytest.raises(KeysUnavailable) as raised:
        await verifier.verify(token)
    assert raised.value.retry_after == 1
    publisher.status = 200
    publisher.publish(good=P256)

    async def believed() -> bool:
        try:
            return bool(await verifier.verify(token))
        except KeysUnavailable:
            return False

    await eventually(believed)


ENDLESS = json.dumps({"keys": [GOOD], "padding": "x" * SET_MAX_BYTES}).encode()
BAD_ANSWERS: dict[str, dict[str, Any]] = {
    "an error": {"status": 500},
    "not found": {"status": 404},
    "no set": {"content": b"<html>sign in</html>"},
    "an empty set": {"content": jwk_set()},
    "a published secret": {"content": jwk_set(SECRET_JWK)},
    "too large": {"content": ENDLESS},
    "compressed": {"content": gzip.compress(jwk_set(GOOD)), "headers": {"Content-Encoding": "gzip"}},
    "a redirect": {"status": 302, "headers": {"Location": "/elsewhere.json"}},
    "a redirect to another host": {"status": 307, "headers": {"Location": "http://localhost:1/"}},
    "nothing": {"content": b""},
}


@pytest.mark.parametrize("answer", BAD_ANSWERS.values(), ids=BAD_ANSWERS.keys())
async def test_whatever_the_url_answers_the_last_good_set_is_kept(publisher: Publisher, answer: dict[str, Any]) -> None:
    publisher.publish(good=P256)
    verifier, keys = verifier_of(settings(publisher, jwks_min_refresh_interval_seconds=0.01))
    await verifier.verify(signed(P256, "ES256", "good"))
    publisher.publish(new=NEW)
    for name, value in answer.items():
        setattr(publisher, name, value)
    asked = publisher.requests
    await eventually(lambda: asked_again(keys, publisher, asked))
    assert keys._failing
    assert publisher.requests == asked + 1
    assert believes(verifier, signed(P256, "ES256", "good"))


async def asked_again(keys: RotatingKeys, publisher: Publisher, asked: int) -> bool:
    await keys.refresh()
    return publisher.requests > asked


async def test_a_server_that_is_silent_is_given_up(publisher: Publisher) -> None:
    publisher.gate.clear()
    with pytest.raises((TimeoutError, httpx2.TimeoutException)):
        await fetch(publisher.url, 0.1)


async def test_a_server_that_drips_is_given_up() -> None:
    """Each byte comes in time, the whole does not."""
    hung_up = asyncio.Event()

    async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(1000):
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
        hung_up.set()

    async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(TimeoutError):
            await fetch(f"http://127.0.0.1:{port}/", 0.3)
        await hung_up.wait()


async def test_environment_variables_lead_a_fetch_nowhere_else(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    publisher.publish(good=P256)
    assert await fetch(publisher.url, 2) == publisher.content
