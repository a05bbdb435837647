"""The attacks of RFC 8725 and its relatives, each over REST, at the handshake and in an ``authenticate`` frame.

The attacked node believes three issuers: ``tocsin`` (a shared secret), ``rsa`` (a PEM file) and ``jwks`` (a JWKS URL).
None of the tokens is let in, and none is a defect: 401 and 1008 with ``token_invalid`` or ``token_expired``.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx2
import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from service.settings import AuthSettings, LimitSettings, Settings, StreamSettings
from tests.auth.issuer import ED25519, P256, RSA, Publisher, claims, jwk_set, public_jwk, publishing
from tests.auth.test_tokens import ABSENT, encoded, forge, pem, signed
from tests.harness import PLAIN, WEBSOCKET, Node, Stream, serving, token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EVE_RSA = rsa.generate_private_key(65537, 2048)
EVE_EC = ec.generate_private_key(ec.SECP256R1())
RSA_CLAIMS = claims(iss="rsa", aud="rsa", exp=time.time() + 3600)
JWKS_CLAIMS = claims(iss="jwks", aud="jwks", exp=time.time() + 3600)


def body(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def bare(header: dict[str, Any], fields: dict[str, Any], signature: str = "") -> str:
    return f"{encoded(body(header))}.{encoded(body(fields))}.{signature}"


def der(key: Any) -> bytes:
    public: bytes = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return public


def certificate(key: Any) -> str:
    """Return a certificate that Eve signed for herself, as an entry of ``x5c``."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tocsin")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1)).sign(key, SHA256())
    return base64.b64encode(made.public_bytes(Encoding.DER)).decode()


def in_der(good: str) -> str:
    """Return an ES256 token with its signature in DER instead of two numbers side by side."""
    head, payload, _ = good.split(".")
    return f"{head}.{payload}.{encoded(P256.sign(f'{head}.{payload}'.encode(), ec.ECDSA(SHA256())))}"


def by_eve(issuer: dict[str, Any], headers: dict[str, Any], key: Any = EVE_RSA, algorithm: str = "RS256") -> str:
    return jwt.encode(issuer, key, algorithm, headers=headers)


GOOD = signed(exp=time.time() + 3600)
HEAD, PAYLOAD, SIGNATURE = GOOD.split(".")
GOOD_EC = jwt.encode(JWKS_CLAIMS, P256, "ES256", headers={"kid": "p"})
DUPLICATED = body(claims(exp=time.time() + 3600))[:-1]
EVE_JWK = public_jwk(EVE_RSA, "RS256", kid="p", alg="RS256")
EVE_EC_JWK = public_jwk(EVE_EC, "ES256", kid="p", alg="ES256")

CLAIMS: dict[str, list[Any]] = {
    "sub": [None, 5, True, ["alice"], {"a": 1}, "", " ", "a\0", "\ud800", "a\nb", "x" * 201],
    "exp": [None, "9999999999", "", True, [], {}, -1, float("nan"), float("inf"), 10**400, 1e308, 10**17],
    "iat": [None, "0", True, [], float("nan"), -1, 10**400],
    "nbf": [None, "0", True, {}, float("nan"), float("inf"), 10**400],
    "iss": [None, "", "TOCSIN", "tocsin ", "tocsin\0", ["tocsin"], {"tocsin": 1}, 5, "rsa", "jwks"],
    "aud": [None, "", "TOCSIN", "toc", ["rsa"], [], [["tocsin"]], [5], {"tocsin": 1}, 5],
    "scope": [None, 5, ["alerts:read"], {"alerts:read": True}],
    "topics": ["*", [5], ["*.a"], ["a"] * 101, {}],
    "jti": [5, [], {}, "", "\n", "x" * 201],
}
KIDS: list[Any] = [5, 1.5, True, ["p"], {"p": 1}]
TYPES: list[Any] = ["JWE", "dpop+jwt", "logout+jwt", "id+jwt", "secevent+jwt", "application/jwt", "", 5, [], {}]
CRITICAL: list[Any] = [[], ["exp"], ["b64"], "b64", None, 5, ["urn:x"], [None]]

ATTACKS: dict[str, str | Callable[[str], str]] = {
    # No signature.
    **{f"alg {name}": bare({"alg": name}, claims()) for name in ("none", "None", "NONE", "nOnE", "none ", "", "null")},
    **{f"alg {name} signed": bare({"alg": name}, claims(), SIGNATURE) for name in ("none", "NONE")},
    **{
        f"alg none as {name}": bare({"alg": "none"}, fields)
        for name, fields in (("rsa", RSA_CLAIMS), ("jwks", JWKS_CLAIMS))
    },
    "alg none with a kid": bare({"alg": "none", "kid": "p"}, JWKS_CLAIMS),
    "alg null": bare({"alg": None}, claims(), SIGNATURE),
    "no alg": bare({}, claims(), SIGNATURE),
    "alg in a list": bare({"alg": ["HS256"]}, claims(), SIGNATURE),
    "an empty signature": f"{HEAD}.{PAYLOAD}.",
    "no signature": f"{HEAD}.{PAYLOAD}",
    "a short signature": f"{HEAD}.{PAYLOAD}.{SIGNATURE[:20]}",
    "a signature that goes on": f"{GOOD}AAAA",
    "the signature of another": f"{HEAD}.{encoded(body(claims(sub='eve')))}.{SIGNATURE}",
    "an empty signature of RSA": bare({"alg": "RS256"}, RSA_CLAIMS),
    "an empty signature of EC": bare({"alg": "ES256", "kid": "p"}, JWKS_CLAIMS),
    "r and s are 0": bare({"alg": "ES256", "kid": "p"}, JWKS_CLAIMS, encoded(bytes(64))),
    "a signature in DER": in_der(GOOD_EC),
    "a known extension": forge({"alg": "HS256", "b64": True, "crit": ["b64"]}, body(claims(exp=time.time() + 3600))),
    "an unencoded payload": forge({"alg": "HS256", "b64": False, "crit": ["b64"]}, body(claims())),
    # The public key as a secret, and one algorithm for another.
    **{
        f"{name} as a secret of {issuer['iss']}": forge({"alg": "HS256", "kid": "p"}, body(issuer), secret)
        for issuer, key in ((RSA_CLAIMS, RSA), (JWKS_CLAIMS, P256))
        for name, secret in (
            ("PEM", pem(key)),
            ("stripped PEM", pem(key).strip()),
            ("DER", der(key)),
            ("base64", base64.b64encode(der(key))),
            ("nothing", b""),
        )
    },
    "a JWK as a secret": forge(
        {"alg": "HS256", "kid": "p"}, body(JWKS_CLAIMS), body(public_jwk(P256, "ES256", kid="p"))
    ),
    "HS384": forge({"alg": "HS384"}, body(claims())),
    "PS256 for RS256": by_eve(RSA_CLAIMS, {}, RSA, "PS256"),
    "RS512 for RS256": by_eve(RSA_CLAIMS, {}, RSA, "RS512"),
    "ES256 for RS256": by_eve(RSA_CLAIMS, {}, EVE_EC, "ES256"),
    "RS256 for ES256": by_eve(JWKS_CLAIMS, {"kid": "p"}, EVE_RSA),
    "RS384 for RS256": by_eve(RSA_CLAIMS, {}, RSA, "RS384"),
    "PS512 for RS256": by_eve(RSA_CLAIMS, {}, RSA, "PS512"),
    "HS512 of a long secret, as jjwt": jwt.encode(claims(), "a secret of Eve's, of more than 64 bytes, " * 2, "HS512"),
    "ES384 for ES256": by_eve(JWKS_CLAIMS, {"kid": "p"}, ec.generate_private_key(ec.SECP384R1()), "ES384"),
    "ES512 for ES256": by_eve(JWKS_CLAIMS, {"kid": "p"}, ec.generate_private_key(ec.SECP521R1()), "ES512"),
    "the right key by another name": ".".join((encoded(body({"alg": "ES384", "kid": "p"})), *GOOD_EC.split(".")[1:])),
    "EdDSA for ES256": by_eve(JWKS_CLAIMS, {"kid": "p"}, ED25519, "EdDSA"),
    "an empty secret": forge({"alg": "HS256"}, body(claims()), b""),
    # A key that the token brings along, or says where to find.
    "jwk": by_eve(RSA_CLAIMS, {"jwk": EVE_JWK}),
    "jwk and its kid": by_eve(JWKS_CLAIMS, {"kid": "p", "jwk": EVE_EC_JWK}, EVE_EC, "ES256"),
    "jwk of a secret": forge(
        {"alg": "HS256", "jwk": {"kty": "oct", "k": encoded(b"e" * 32)}}, body(claims()), b"e" * 32
    ),
    "jku": lambda url: by_eve(RSA_CLAIMS, {"jku": url}),
    "jku and a kid": lambda url: by_eve(JWKS_CLAIMS, {"jku": url, "kid": "p"}, EVE_EC, "ES256"),
    "jku and an unknown kid": lambda url: by_eve(JWKS_CLAIMS, {"jku": url, "kid": "eve"}, EVE_EC, "ES256"),
    "x5u": lambda url: by_eve(RSA_CLAIMS, {"x5u": url}),
    "x5c": by_eve(RSA_CLAIMS, {"x5c": [certificate(EVE_RSA)]}),
    "x5t": by_eve(RSA_CLAIMS, {"x5t": encoded(b"t" * 20), "x5t#S256": encoded(b"t" * 32)}),
    "kid is an address": lambda url: by_eve(JWKS_CLAIMS, {"kid": url}, EVE_EC, "ES256"),
    "an issuer that is an address": lambda url: by_eve({**JWKS_CLAIMS, "iss": url}, {"kid": "p"}, EVE_EC, "ES256"),
    # What kid may hold.
    **{
        f"kid {number}": forge({"alg": "HS256", "kid": kid}, body(fields), secret)
        for number, (kid, secret) in enumerate(
            [
                ("/dev/null", b""),
                ("../../../../../../dev/null", b""),
                ("file:///dev/null", b""),
                ("' OR '1'='1", b""),
                ("x' UNION SELECT 'secret' --", b"secret"),
                ("x'; DROP TABLE alerts; --", b""),
                ("$(sleep 5)|`id`", b""),
                ("\0", b""),
                ("p\0", b""),
                ("\ud800", b""),
                ("\n{}{{}}%s%n", b""),
                ("k" * 5000, b""),
                ("", b""),
                (" p", b""),
                ("__class__", b""),
            ]
        )
        for fields in (JWKS_CLAIMS,)
    },
    **{f"kid of type {type(kid).__name__}": forge({"alg": "HS256", "kid": kid}, body(claims())) for kid in KIDS},
    "a kid of no key": by_eve(JWKS_CLAIMS, {"kid": "q"}, P256, "ES256"),
    # Extensions and types.
    **{f"crit {crit!r}": forge({"alg": "HS256", "crit": crit}, body(claims())) for crit in CRITICAL},
    **{f"typ {typ!r}": forge({"alg": "HS256", "typ": typ}, body(claims())) for typ in TYPES},
    # Names that stand twice: the first good, or the last.
    "sub twice": forge({"alg": "HS256"}, DUPLICATED + b',"sub":"eve"}'),
    "exp twice": forge({"alg": "HS256"}, b'{"exp":1,' + DUPLICATED[1:] + b"}"),
    "scope twice, the same": forge({"alg": "HS256"}, DUPLICATED + b',"scope":"alerts:read"}'),
    "iss twice": forge({"alg": "HS256"}, DUPLICATED + b',"iss":"tocsin"}'),
    "a name twice within a claim": forge({"alg": "HS256"}, DUPLICATED + b',"cnf":{"a":1,"a":2}}'),
    "a name twice by an escape": forge({"alg": "HS256"}, DUPLICATED + b',"\\u0073ub":"eve"}'),
    "alg twice": forge(b'{"alg":"none","alg":"HS256"}', body(claims())),
    "kid twice": forge(b'{"alg":"HS256","kid":"a","kid":"b"}', body(claims())),
    # Form.
    "huge": signed(padding="x" * 7000),
    "deep": forge({"alg": "HS256"}, b'{"a":' * 900 + b"1" + b"}" * 900),
    "deeper": forge({"alg": "HS256"}, b"[" * 5000),
    "a deep header": forge(b"[" * 5000, body(claims())),
    "nested": forge({"alg": "HS256", "cty": "JWT"}, GOOD.encode()),
    "nested in a string": forge({"alg": "HS256", "cty": "JWT"}, json.dumps(GOOD).encode()),
    "encrypted": ".".join(map(encoded, (body({"alg": "dir", "enc": "A256GCM"}), b"", b"i" * 12, b"c", b"t" * 16))),
    "JSON serialization": json.dumps({"payload": PAYLOAD, "protected": HEAD, "signature": SIGNATURE}),
    "one part more": f"{GOOD}.{SIGNATURE}",
    "padded": f"{HEAD}=.{PAYLOAD}=.{SIGNATURE}=",
    "another alphabet": f"{HEAD}.{PAYLOAD}.{SIGNATURE[:-1]}+",
    "not even base64": "%%%.%%%.%%%",
    "dots": "..",
    "no object": forge({"alg": "HS256"}, b"[]"),
    "null": forge({"alg": "HS256"}, b"null"),
    "no UTF-8": forge({"alg": "HS256"}, b'{"sub":"\xff"}'),
    "UTF-16": forge({"alg": "HS256"}, body(claims(sub=5)).decode().encode("utf-16")),
    "a comment": forge({"alg": "HS256"}, body(claims())[:-1] + b"/**/,}"),
    # Claims.
    **{f"no {name}": signed(**{name: ABSENT}) for name in ("sub", "iss", "aud", "exp", "iat")},
    **{
        f"{name} {json.dumps(value)[:20]}": forge({"alg": "HS256"}, body(claims(**{name: value})))
        for name, values in CLAIMS.items()
        for value in values
    },
    "expired": signed(exp=time.time() - 1),
    "expired in 1970": signed(exp=0),
    "issued in the future": signed(iat=time.time() + 4000, exp=time.time() + 8000),
    "not yet": signed(nbf=time.time() + 4000, exp=time.time() + 8000),
    "for ever": signed(exp=time.time() + 400 * 86400),
    "client_id for aud": signed(aud=ABSENT, client_id="tocsin", azp="tocsin", exp=time.time() + 3600),
    "client_id for another aud": signed(aud="eve", client_id="tocsin", azp="tocsin", exp=time.time() + 3600),
    # Another issuer's.
    "of rsa for tocsin": by_eve(claims(exp=time.time() + 3600), {}, RSA),
    "of jwks for tocsin": by_eve(claims(exp=time.time() + 3600), {"kid": "p"}, P256, "ES256"),
    "of tocsin for rsa": forge({"alg": "HS256"}, body(RSA_CLAIMS)),
    "of rsa with the audience of tocsin": by_eve({**RSA_CLAIMS, "aud": "tocsin"}, {}, RSA),
    "of jwks with the audience of rsa": by_eve({**JWKS_CLAIMS, "aud": "rsa"}, {"kid": "p"}, P256, "ES256"),
}


@dataclass
class Attacked:
    """The node, and a server that Eve would like it to ask."""

    node: Node
    trap: Publisher

    def token(self, attack: str | Callable[[str], str]) -> str:
        """Return the token of an attack; some name the address of Eve's server."""
        return attack if isinstance(attack, str) else attack(self.trap.url)


@pytest.fixture(scope="module")
def attacked(shared_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    folder: Path = tmp_path_factory.mktemp("keys")
    (folder / "rsa.pem").write_bytes(pem(RSA))
    with publishing() as publisher, publishing() as trap:
        publisher.publish(p=P256, another=ec.generate_private_key(ec.SECP256R1()))
        trap.content = jwk_set(EVE_JWK, EVE_EC_JWK)
        auth = AuthSettings.model_validate(
            {
                "jwks_min_refresh_interval_seconds": 600,
                "issuers": [
                    {"issuer": "rsa", "audience": "rsa", "public_key_file": folder / "rsa.pem"},
                    {"issuer": "jwks", "audience": "jwks", "jwks_url": publisher.url},
                ],
            }
        )
        every = "1000000/second"
        limits = LimitSettings(write_limit=every, read_limit=every, auth_failure_limit=every)
        stream = StreamSettings(message_limit=every)
        with serving(shared_url, Settings(auth=auth, limits=limits, stream=stream)) as node:
            yield Attacked(node, trap)
        assert trap.requests == 0
        assert publisher.requests == 1


GRANTS: list[dict[str, Any]] = [
    {"scp": "admin"},
    {"scp": ["admin"]},
    {"roles": ["admin"]},
    {"permissions": ["admin"]},
    {"groups": ["admin"], "cognito:groups": ["admin"]},
    {"realm_access": {"roles": ["admin"]}},
    {"scopes": ["admin"], "authorities": ["admin"]},
    {"Scope": "admin", "scope ": "admin", "scope": "alerts:read"},
]


@pytest.mark.parametrize("grant", GRANTS, ids=str)
def test_a_claim_that_no_setting_names_grants_nothing(attacked: Attacked, grant: dict[str, Any]) -> None:
    token = signed(**{"scope": ABSENT, "exp": time.time() + 3600, **grant})
    headers = {"Authorization": f"Bearer {token}"}
    answer = httpx2.post(f"{attacked.node.base}/v1/revocations", json={"subject": "eve"}, headers=headers, **PLAIN)
    assert answer.json()["code"] == "scope_missing"


REFUSED = ("token_invalid", "token_expired")


def test_what_is_attacked_lets_the_good_ones_in(attacked: Attacked) -> None:
    good = [GOOD, by_eve(RSA_CLAIMS, {}, RSA), GOOD_EC]
    for one in good:
        answer = httpx2.get(f"{attacked.node.base}/v1/alerts", headers={"Authorization": f"Bearer {one}"}, **PLAIN)
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_an_attack_is_refused_over_rest(attacked: Attacked, attack: str | Callable[[str], str]) -> None:
    headers = {"Authorization": f"Bearer {attacked.token(attack)}"}
    async with httpx2.AsyncClient(base_url=attacked.node.base, headers=headers, **PLAIN) as client:
        answer = await client.get("/v1/alerts")
        posted = await client.post("/v1/alerts", json={"title": "by Eve"})
        revoked = await client.post("/v1/revocations", json={"subject": "alice"})
    for one in (answer, posted, revoked):
        assert one.status_code == 401, one.text
        assert one.json()["code"] in REFUSED
        assert one.headers["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
async def test_an_attack_is_refused_at_the_handshake(attacked: Attacked, attack: str | Callable[[str], str]) -> None:
    headers = {"Authorization": f"Bearer {attacked.token(attack)}"}
    try:
        connection = await connect(attacked.node.ws, additional_headers=headers, **WEBSOCKET)
    except InvalidStatus as refused:
        assert refused.response.status_code == 431  # noqa: PT017 - of a handshake, the server reads 8 KiB a header
        return
    async with Stream(connection) as stream:
        code, reason = await stream.closed()
    assert (code, reason in REFUSED) == (1008, True), reason
    assert stream.seen == []


async def test_an_attack_is_refused_in_a_frame(attacked: Attacked) -> None:
    subject = uuid.uuid4().hex
    async with await attacked.node.live(subject) as stream:
        for name, attack in ATTACKS.items():
            await stream.send({"type": "authenticate", "token": attacked.token(attack)})
            error = await stream.next_of("error")
            assert error["code"] in REFUSED, name
        await stream.send({"type": "authenticate", "token": token(subject)})
        assert await stream.next_of("authenticated")


def test_the_signature_that_was_rewritten_is_good_in_its_own_form() -> None:
    signature = base64.urlsafe_b64decode(in_der(GOOD_EC).split(".")[2] + "==")
    assert all(number > 0 for number in decode_dss_signature(signature))
