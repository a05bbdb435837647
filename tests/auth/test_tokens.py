from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from service.auth.issuers import load_keyring
from service.auth.principal import Scope
from service.auth.shared_secret import mint
from service.auth.tokens import TokenVerifier
from service.errors import RequestRefused, TokenExpired, TokenInvalid
from service.settings import AuthSettings
from tests.auth.issuer import PAIRS, RSA
from tests.fixtures.revocations import KnownRevocations
from tests.harness import SECRET

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = pytest.mark.unit

SECRET_BYTES = SECRET.encode()
ABSENT = object()
HEADER = {"alg": "HS256", "typ": "at+jwt"}
SETTINGS = AuthSettings()


def encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def forge(header: Any, payload: bytes, secret: bytes = SECRET_BYTES) -> str:
    """Sign anything at all with HS256: PyJWT refuses to make most of what is tried here."""
    signed = f"{encoded(header if isinstance(header, bytes) else json.dumps(header).encode())}.{encoded(payload)}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def claims(**changes: Any) -> dict[str, Any]:
    now = time.time()
    fields = {"iss": "tocsin", "aud": "tocsin", "sub": "alice", "scope": "alerts:read", "iat": now, "exp": now + 60}
    return {name: value for name, value in (fields | changes).items() if value is not ABSENT}


def signed(header: Mapping[str, Any] | None = None, /, **changes: Any) -> str:
    return forge({**HEADER, **(header or {})}, json.dumps(claims(**changes)).encode())


@pytest.fixture
def verifier() -> TokenVerifier:
    return TokenVerifier(load_keyring(SETTINGS, SECRET_BYTES), SETTINGS, KnownRevocations())


@pytest.fixture
def strict() -> TokenVerifier:
    """A verifier that requires access tokens to say that they are."""
    settings = AuthSettings(jwt_require_at_jwt=True)
    return TokenVerifier(load_keyring(settings, SECRET_BYTES), settings, KnownRevocations())


def refusal(verifier: TokenVerifier, token: str) -> RequestRefused:
    with pytest.raises((TokenInvalid, TokenExpired)) as raised:
        verifier.verify_cached(token)
    for part in token.split("."):
        assert len(part) < 8 or part not in raised.value.detail
    return raised.value


def test_a_good_token_names_its_bearer(verifier: TokenVerifier) -> None:
    expires_at = time.time() + 60
    principal = verifier.verify_cached(
        signed(exp=expires_at, topics=["payments.*", "a"], scope="alerts:read  admin", jti="7")
    )
    assert principal.subject == "alice"
    assert principal.scopes == {"alerts:read", "admin"}
    assert principal.topics == ("payments.*", "a")
    assert principal.expires_at == expires_at
    assert principal.jti == "7"


@pytest.mark.parametrize(
    "scope",
    [
        "alerts:read\tadmin",
        "alerts:read\nadmin",
        "alerts:read\r\nadmin",
        "alerts:read\x0badmin",
        "alerts:read\x0cadmin",
        "alerts:read\x1cadmin",
        "alerts:read\x85admin",
        "alerts:read\N{NO-BREAK SPACE}admin",
        "alerts:read\N{EM SPACE}admin",
        "alerts:read\N{IDEOGRAPHIC SPACE}admin",
        "alerts:read\N{LINE SEPARATOR}admin",
        "alerts:read,admin",
        "\tadmin",
        "admin\n",
        "Admin",
        "",
        "   ",
    ],
)
def test_scopes_are_separated_by_the_space_and_nothing_else(verifier: TokenVerifier, scope: str) -> None:
    principal = verifier.verify_cached(signed(scope=scope))
    assert not any(map(principal.may, Scope))
    assert principal.scopes == ({scope} if scope.strip(" ") else set())


def test_spaces_around_and_between_scopes_are_none(verifier: TokenVerifier) -> None:
    assert verifier.verify_cached(signed(scope=" admin   alerts:read ")).scopes == {"admin", "alerts:read"}


@pytest.mark.parametrize("typ", ["at+jwt", "AT+JWT", "application/at+jwt", "Application/AT+JWT"])
def test_an_access_token_says_so_where_a_setting_requires_it(strict: TokenVerifier, typ: str) -> None:
    assert strict.verify_cached(signed({"typ": typ})).subject == "alice"


@pytest.mark.parametrize(
    "typ", ["JWT", "jwt", "id+jwt", "", None, "at+jwt ", "at+jwt;x", "application/jwt", ["at+jwt"]]
)
def test_any_other_token_is_refused_there(strict: TokenVerifier, typ: object) -> None:
    assert "at+jwt" in refusal(strict, signed({"typ": typ})).detail
    header = {"alg": "HS256"}
    assert "at+jwt" in refusal(strict, forge(header, json.dumps(claims()).encode())).detail


def test_absent_claims_mean_every_topic_and_no_scope(verifier: TokenVerifier) -> None:
    principal = verifier.verify_cached(signed(scope=ABSENT))
    assert (principal.topics, principal.scopes, principal.jti) == (("*",), frozenset(), None)


def test_an_empty_list_of_topics_covers_none(verifier: TokenVerifier) -> None:
    assert not verifier.verify_cached(signed(topics=[])).covers("payments")


def test_a_minted_token_is_believed(verifier: TokenVerifier) -> None:
    token = mint(SECRET_BYTES, SETTINGS, subject="zoë", scope="admin", topics=["a"], ttl_seconds=5, jti="x")
    principal = verifier.verify_cached(token)
    assert (principal.subject, principal.topics, principal.jti) == ("zoë", ("a",), "x")
    assert principal.scopes == {"admin"}


@pytest.mark.parametrize("name", ["sub", "iss", "aud", "exp", "iat"])
@pytest.mark.parametrize("value", [ABSENT, None])
def test_a_token_without_a_required_claim_is_refused(verifier: TokenVerifier, name: str, value: object) -> None:
    assert name in refusal(verifier, signed(**{name: value})).detail


NO_DATES = ["60", "", True, False, [], {}, -1, 1e300, 10**400, float("nan"), float("inf"), 253_402_300_800, "NaN"]


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
@pytest.mark.parametrize("value", NO_DATES, ids=lambda value: repr(value)[:12])
def test_a_date_that_is_no_date_is_refused(verifier: TokenVerifier, name: str, value: object) -> None:
    error = refusal(verifier, signed(**{name: value}))
    assert isinstance(error, TokenInvalid)
    assert name in error.detail


BAD_CLAIMS: dict[str, list[Any]] = {
    "sub": ["", " ", "a ", "\0", "a\0b", "\ud800", "a\nb", "\x1b[2J", "\u202ea", "a" * 201, 5, ["a"]],
    "scope": [["alerts:read"], None, 5, {}, True],
    "topics": ["payments", [5], ["A"], [""], ["*.a"], [None], ["a"] * 101, {}, 5, True],
    "jti": [5, "", "a\n", ["a"], "a" * 201],
    "iss": ["somebody", "", 5, ["tocsin"], "TOCSIN"],
    "aud": ["somebody", "", 5, [], ["a"], [5], {"tocsin": 1}, "TOCSIN"],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in BAD_CLAIMS.items() for value in values],
    ids=lambda value: ascii(value)[:20],
)
def test_a_claim_of_the_wrong_form_is_refused(verifier: TokenVerifier, name: str, value: object) -> None:
    assert isinstance(refusal(verifier, signed(**{name: value})), TokenInvalid)


def test_one_of_several_audiences_may_be_ours(verifier: TokenVerifier) -> None:
    assert verifier.verify_cached(signed(aud=["another", "tocsin"])).subject == "alice"


def test_an_expired_token_is_distinguished(verifier: TokenVerifier) -> None:
    assert isinstance(refusal(verifier, signed(exp=time.time() - 0.001)), TokenExpired)
    assert isinstance(refusal(verifier, signed(exp=0)), TokenExpired)


@pytest.mark.parametrize("name", ["iat", "nbf"])
def test_a_clock_that_is_ahead_is_forgiven_up_to_the_leeway(verifier: TokenVerifier, name: str) -> None:
    assert verifier.verify_cached(signed(**{name: time.time() + 20})).subject == "alice"
    assert "future" in refusal(verifier, signed(**{name: time.time() + 40})).detail


def test_the_leeway_is_never_applied_to_the_expiry() -> None:
    settings = AuthSettings(jwt_leeway_seconds=300)
    lax = TokenVerifier(load_keyring(settings, SECRET_BYTES), settings, KnownRevocations())
    assert isinstance(refusal(lax, signed(exp=time.time() - 1)), TokenExpired)


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_the_types_of_an_access_token_are_accepted(verifier: TokenVerifier, typ: str) -> None:
    assert verifier.verify_cached(signed({"typ": typ})).subject == "alice"


def test_a_token_without_a_type_is_accepted(verifier: TokenVerifier) -> None:
    assert verifier.verify_cached(forge({"alg": "HS256"}, json.dumps(claims()).encode())).subject == "alice"


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWE"},
        {"typ": "dpop+jwt"},
        {"typ": 5},
        {"typ": {}},
        {"crit": ["b64"]},
        {"crit": []},
        {"crit": ["exp"], "exp": 1},
        {"kid": 5},
        {"kid": {}},
        {"alg": "HS512"},
        {"alg": "HS384"},
        {"alg": "RS256"},
        {"alg": "none"},
        {"alg": "None"},
        {"alg": None},
        {"alg": ["HS256"]},
        {"alg": ""},
        {"b64": False},
    ],
    ids=str,
)
def test_an_odd_header_is_refused(verifier: TokenVerifier, header: dict[str, Any]) -> None:
    assert isinstance(refusal(verifier, signed(header)), TokenInvalid)


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE"])
def test_a_token_without_a_signature_is_refused(verifier: TokenVerifier, name: str) -> None:
    unsigned = f"{encoded(json.dumps({'alg': name}).encode())}.{encoded(json.dumps(claims()).encode())}."
    assert isinstance(refusal(verifier, unsigned), TokenInvalid)


def test_another_secret_is_refused(verifier: TokenVerifier) -> None:
    assert refusal(verifier, forge(HEADER, json.dumps(claims()).encode(), b"another secret of more than 32 bytes"))


def test_a_changed_token_is_refused_though_the_right_one_is_remembered(verifier: TokenVerifier) -> None:
    token = signed()
    verifier.verify_cached(token)
    header, payload, signature = token.split(".")
    assert refusal(verifier, f"{header}.{payload}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}")
    assert refusal(verifier, f"{header}.{encoded(json.dumps(claims(sub='eve')).encode())}.{signature}")


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a",
        "a.b.c",
        "é.é.é",
        "\ud800",
        "e30.e30.e30",
        "a" * 9000,
        forge(HEADER, b""),
        forge(HEADER, b"null"),
        forge(HEADER, b"[]"),
        forge(HEADER, b'"text"'),
        forge(HEADER, b"\xff\xfe"),
        forge(HEADER, b"{" * 3000),
        forge(HEADER, b'{"a":' * 900 + b"1" + b"}" * 900),
        forge(HEADER, b"[" * 5000),
        forge(b"[]", b"{}"),
        forge(b"null", b"{}"),
        forge(b"\xff", b"{}"),
        forge(b"[" * 5000, b"{}"),
    ],
    ids=range(22),
)
def test_what_is_no_token_is_refused(verifier: TokenVerifier, token: str) -> None:
    assert isinstance(refusal(verifier, token), TokenInvalid)


def test_a_token_over_8_kib_is_refused_unread(verifier: TokenVerifier) -> None:
    long = signed(padding="x" * 6200)
    assert len(long) > 8 * 1024
    assert "8 KiB" in refusal(verifier, long).detail


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.dictionaries(st.sampled_from(["sub", "iss", "aud", "exp", "iat", "nbf", "jti", "scope", "topics"]), json_values)
)
def test_whatever_a_signed_token_claims_it_is_believed_or_refused(changes: dict[str, Any]) -> None:
    verifier = TokenVerifier(load_keyring(SETTINGS, SECRET_BYTES), SETTINGS, KnownRevocations())
    try:
        principal = verifier.verify_cached(signed(**changes))
    except (TokenInvalid, TokenExpired):
        return
    assert isinstance(principal.subject, str)
    assert principal.expires_at > time.time() - 1


# The cache.


def test_a_verified_token_is_remembered_by_its_hash(verifier: TokenVerifier) -> None:
    token = signed()
    assert verifier.verify_cached(token) is verifier.verify_cached(token)
    assert token.split(".")[2] not in repr(verifier._cache)


def test_a_remembered_token_expires_on_time(verifier: TokenVerifier) -> None:
    expires_at = time.time() + 0.25
    token = signed(exp=expires_at)
    times_believed = 0
    try:
        while True:
            asked_at = time.time()
            verifier.verify_cached(token)
            assert asked_at < expires_at
            times_believed += 1
    except TokenExpired:
        assert time.time() >= expires_at
    assert times_believed > 1
    assert not verifier._cache


def test_the_cache_is_bounded() -> None:
    settings = AuthSettings(token_cache_size=3)
    verifier = TokenVerifier(load_keyring(settings, SECRET_BYTES), settings, KnownRevocations())
    tokens = [signed(jti=str(number)) for number in range(10)]
    for token in tokens + tokens:
        verifier.verify_cached(token)
        assert len(verifier._cache) <= 3


def test_a_refused_token_takes_no_place_in_the_cache(verifier: TokenVerifier) -> None:
    refusal(verifier, signed(sub=""))
    refusal(verifier, signed(exp=1))
    assert not verifier._cache


def test_a_name_is_reported_once_an_hour_while_its_token_is_used(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    reported: list[tuple[str, str | None]] = []
    verifier.on_named = lambda principal: reported.append((principal.subject, principal.name))
    token, now = signed(name="Alice", exp=time.time() + 9000), time.time()
    for seconds, times in ((0, 1), (1, 1), (3599, 1), (3700, 2), (3800, 2), (7400, 3)):
        monkeypatch.setattr(time, "time", lambda at=now + seconds: at)
        assert verifier.verify_cached(token).name == "Alice"
        assert reported == [("alice", "Alice")] * times
    monkeypatch.setattr(time, "time", lambda: now + 9001)
    assert isinstance(refusal(verifier, token), TokenExpired)
    assert not verifier._cache


@pytest.mark.parametrize("scope", ["", "openid profile", "alerts:raed ADMIN"])
def test_the_name_of_who_may_do_nothing_is_not_reported(verifier: TokenVerifier, scope: str) -> None:
    reported: list[str | None] = []
    verifier.on_named = lambda principal: reported.append(principal.name)
    assert verifier.verify_cached(signed(name="Outsider", scope=scope)).name == "Outsider"
    assert reported == []
    verifier.verify_cached(signed(name="Alice", scope=f"{scope} alerts:write"))
    assert reported == ["Alice"]


# Public keys.


def pem(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return public


def verifier_of(folder: Path, key: Any, algorithm: Any = None) -> TokenVerifier:
    (folder / "key.pem").write_bytes(pem(key))
    settings = AuthSettings(jwt_public_key_file=folder / "key.pem", jwt_algorithm=algorithm)
    return TokenVerifier(load_keyring(settings), settings, KnownRevocations())


@pytest.mark.parametrize(("algorithm", "key"), PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_a_token_of_the_private_key_is_believed(tmp_path: Path, algorithm: str, key: Any) -> None:
    verifier = verifier_of(tmp_path, key, algorithm)
    assert verifier.verify_cached(jwt.encode(claims(), key, algorithm)).subject == "alice"


@pytest.mark.parametrize(("algorithm", "key"), PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_public_key_is_no_secret_to_sign_with(tmp_path: Path, algorithm: str, key: Any) -> None:
    verifier = verifier_of(tmp_path, key, algorithm)
    raw = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem(key), pem(key).strip(), raw):
        for header in (HEADER, {"alg": algorithm}):
            assert isinstance(refusal(verifier, forge(header, json.dumps(claims()).encode(), secret)), TokenInvalid)


@pytest.mark.parametrize(("algorithm", "key"), PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_another_private_key_or_algorithm_is_refused(tmp_path: Path, algorithm: str, key: Any) -> None:
    verifier = verifier_of(tmp_path, key, algorithm)
    strangers = [
        *PAIRS,
        ("RS256", rsa.generate_private_key(65537, 2048)),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
    ]
    for other, stranger in strangers:
        if (other, stranger) != (algorithm, key):
            assert isinstance(refusal(verifier, jwt.encode(claims(), stranger, other)), TokenInvalid)


def test_an_rsa_key_means_rs256_unless_the_setting_says_ps256(tmp_path: Path) -> None:
    plain = verifier_of(tmp_path, RSA)
    assert plain.verify_cached(jwt.encode(claims(), RSA, "RS256")).subject == "alice"
    assert isinstance(refusal(plain, jwt.encode(claims(), RSA, "PS256")), TokenInvalid)


# What a refusal says.


@pytest.mark.parametrize(
    "secret", [SECRET_BYTES * 2, b"another secret of more than 64 bytes, so that PyJWT is content with it"]
)
@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_a_token_of_another_algorithm_learns_which_one_its_key_is_for(
    verifier: TokenVerifier, algorithm: str, secret: bytes
) -> None:
    """Also of the right secret, with which some libraries use the algorithm that fits its length: no oracle."""
    said = refusal(verifier, jwt.encode(claims(), secret, algorithm)).detail
    assert said == (
        f"The token must be signed with HS256, the algorithm of its issuer's key, and not with {algorithm}."
    )


@pytest.mark.parametrize(("algorithm", "key"), PAIRS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_algorithm_of_a_public_key_is_named_as_well(tmp_path: Path, algorithm: str, key: Any) -> None:
    verifier = verifier_of(tmp_path, key, algorithm)
    said = refusal(verifier, signed()).detail
    assert said == f"The token must be signed with {algorithm}, the algorithm of its issuer's key, and not with HS256."


@pytest.mark.parametrize(
    "alg", ["none", "eve\r\nX: y", "HS256 ", "hs256", "<b>", "", None, 5, ["HS512"], {"HS512": 1}, "x" * 900]
)
def test_what_a_header_says_is_not_repeated_unless_it_is_a_known_algorithm(verifier: TokenVerifier, alg: Any) -> None:
    said = refusal(verifier, signed({"alg": alg})).detail
    assert said == "The token must be signed with HS256, the algorithm of its issuer's key."


def test_another_secret_and_a_damaged_token_are_distinguished(verifier: TokenVerifier) -> None:
    other = forge(HEADER, json.dumps(claims()).encode(), b"another secret of more than 32 bytes")
    assert "signature does not fit" in refusal(verifier, other).detail
    assert "malformed" in refusal(verifier, "a.b.c").detail


@pytest.mark.parametrize("changes", [{"aud": "eve"}, {"sub": ""}, {"exp": 1}, {"scope": 5}, {"iat": ABSENT}])
def test_nothing_is_said_of_claims_that_nobody_signed(verifier: TokenVerifier, changes: dict[str, Any]) -> None:
    other = forge(HEADER, json.dumps(claims(**changes)).encode(), b"another secret of more than 32 bytes")
    assert "signature does not fit" in refusal(verifier, other).detail


# One token has one form.

ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_token_in_another_encoding_than_utf_8_is_refused(verifier: TokenVerifier, encoding: str) -> None:
    header, payload = '{"alg":"HS256","typ":"JWT"}', json.dumps(claims())
    assert verifier.verify_cached(forge(header.encode(), payload.encode())).subject == claims()["sub"]
    for token in (
        forge(header.encode(encoding), payload.encode()),
        forge(header.encode(), payload.encode(encoding)),
        forge(header.encode(encoding), payload.encode(encoding)),
    ):
        assert isinstance(refusal(verifier, token), TokenInvalid)


@pytest.mark.parametrize("segment", range(3))
@pytest.mark.parametrize("padding", ["=", "==", "===", "====", "\n", "!", "~"])
def test_a_token_with_padding_is_refused(verifier: TokenVerifier, segment: int, padding: str) -> None:
    parts = forge(b'{"alg":"HS256","typ":"JWT"}', json.dumps(claims()).encode()).split(".")
    parts[segment] += padding
    signed_part = ".".join(parts[:2])  # also where the signature covers the padding
    signature = encoded(hmac.digest(SECRET_BYTES, signed_part.encode(), hashlib.sha256))
    for token in {".".join(parts), ".".join([*parts[:2], parts[2] if segment == 2 else signature])}:
        assert isinstance(refusal(verifier, token), TokenInvalid)


def test_the_unused_bits_of_a_segment_are_zero(verifier: TokenVerifier) -> None:
    digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    token = forge(b'{"alg":"HS256","typ":"JWT"}', json.dumps(claims()).encode())
    verifier.verify_cached(token)
    for bits in (1, 2, 3):  # 32 bytes leave two bits of the last digit unused
        alias = token[:-1] + digits[digits.index(token[-1]) | bits]
        assert isinstance(refusal(verifier, alias), TokenInvalid)
