"""JWKS behind a private certificate authority: a setting, or ``SSL_CERT_FILE``, says whom to trust."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from structlog.testing import capture_logs

from service.auth.issuers import load_keyring
from service.auth.tokens import TokenVerifier
from service.errors import ConfigurationError, KeysUnavailable
from service.settings import AuthSettings
from tests.auth.issuer import P256, Publisher, publishing, signed
from tests.fixtures.revocations import KnownRevocations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JWKS_URL = "https://issuer.example/jwks.json"


class Authority:
    """A certificate authority; its certificate is in ``file``. A simple one identifies no keys."""

    def __init__(self, folder: Path, name: str, *, is_simple: bool = False) -> None:
        self._folder = folder
        self._is_simple = is_simple
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._certificate(self._name, self._key).add_extension(x509.BasicConstraints(True, None), critical=True)
        self.file = folder / f"{name}.pem"
        self.file.write_bytes(self._signed(made))

    def _certificate(self, name: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder(self._name, name, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
        )
        if self._is_simple:
            return made
        return made.add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
        ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)

    def _signed(self, certificate: x509.CertificateBuilder) -> bytes:
        return certificate.sign(self._key, SHA256()).public_bytes(Encoding.PEM)

    def server(self, address: str) -> ssl.SSLContext:
        """Return what a server at ``address`` identifies itself with."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._certificate(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), key).add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False
        )
        file = self._folder / f"server-{address}.pem"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        file.write_bytes(private + self._signed(made))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "ours")


@pytest.fixture
def publisher(ours: Authority) -> Iterator[Publisher]:
    with publishing(tls=ours.server("127.0.0.1")) as running:
        running.publish(good=P256)
        yield running


async def subject(url: str, **settings: Any) -> str:
    """Return the subject of a token, for which the keys at ``url`` are fetched."""
    auth = AuthSettings(jwt_jwks_url=url, jwks_timeout_seconds=10, **settings)
    verifier = TokenVerifier(load_keyring(auth), auth, KnownRevocations())
    return (await verifier.verify(signed(P256, "ES256", "good"))).subject


async def test_the_authorities_of_the_setting_are_trusted(publisher: Publisher, ours: Authority) -> None:
    assert await subject(publisher.url, jwt_jwks_ca_file=ours.file) == "alice"


async def test_those_of_ssl_cert_file_are_trusted(
    publisher: Publisher, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.file))
    assert await subject(publisher.url) == "alice"


@pytest.mark.parametrize("by", ["setting", "variable"])
async def test_a_simple_authority_is_trusted_where_python_asks_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """As Python does from 3.13 on."""

    def strict(*args: Any, make: Any = ssl.create_default_context, **options: Any) -> ssl.SSLContext:
        context: ssl.SSLContext = make(*args, **options)
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    simple = Authority(tmp_path, "simple", is_simple=True)
    with publishing(tls=simple.server("127.0.0.1")) as publisher:
        publisher.publish(good=P256)
        if by == "variable":
            monkeypatch.setenv("SSL_CERT_FILE", str(simple.file))
            assert await subject(publisher.url) == "alice"
        else:
            assert await subject(publisher.url, jwt_jwks_ca_file=simple.file) == "alice"


async def test_another_fault_of_a_certificate_is_not_said_to_be_its_authority(ours: Authority) -> None:
    with (
        publishing(tls=ours.server("127.0.0.2")) as elsewhere,
        capture_logs() as logs,
        pytest.raises(KeysUnavailable),
    ):
        await subject(elsewhere.url, jwt_jwks_ca_file=ours.file)
    [reason] = [line["reason"] for line in logs if "cannot be fetched" in line["event"]]
    assert "CERTIFICATE_VERIFY_FAILED" in reason
    assert "SSL_CERT_FILE" not in reason


async def test_an_unknown_authority_is_not_and_the_log_says_what_to_set(publisher: Publisher) -> None:
    with capture_logs() as logs, pytest.raises(KeysUnavailable):
        await subject(publisher.url)
    assert "SSL_CERT_FILE" in next(line["reason"] for line in logs if "cannot be fetched" in line["event"])
    assert publisher.requests == 0


async def test_with_the_setting_no_other_authority_is_trusted(
    publisher: Publisher, ours: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.file))
    with pytest.raises(KeysUnavailable):
        await subject(publisher.url, jwt_jwks_ca_file=Authority(tmp_path, "another").file)


async def test_the_certificate_has_to_be_of_the_address(ours: Authority) -> None:
    with publishing(tls=ours.server("127.0.0.2")) as elsewhere:
        elsewhere.publish(good=P256)
        with pytest.raises(KeysUnavailable):
            await subject(elsewhere.url, jwt_jwks_ca_file=ours.file)


@pytest.mark.unit
def test_a_file_of_authorities_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_bytes(b"")
    for file, said in ((tmp_path / "absent.pem", "No such file"), (empty, "no certificate in PEM form")):
        with pytest.raises(ConfigurationError, match=f"^TOCSIN_JWT_JWKS_CA_FILE: .*{said}"):
            load_keyring(AuthSettings(jwt_jwks_url=JWKS_URL, jwt_jwks_ca_file=file))
        one = {"issuer": "a", "audience": "b", "jwks_url": JWKS_URL, "jwks_ca_file": file}
        with pytest.raises(ConfigurationError, match=f"^TOCSIN_ISSUERS: a: jwks_ca_file: .*{said}"):
            load_keyring(AuthSettings.model_validate({"issuers": [one]}))
        monkeypatch.setenv("SSL_CERT_FILE", str(file))
        with pytest.raises(ConfigurationError, match=f"^SSL_CERT_FILE: .*{said}"):
            load_keyring(AuthSettings(jwt_jwks_url=JWKS_URL))
        monkeypatch.delenv("SSL_CERT_FILE")


@pytest.mark.unit
def test_authorities_are_for_a_url(ours: Authority) -> None:
    with pytest.raises(ConfigurationError, match="TOCSIN_JWT_JWKS_CA_FILE is for TOCSIN_JWT_JWKS_URL"):
        load_keyring(AuthSettings(jwt_secret="a secret of more than thirty-two bytes", jwt_jwks_ca_file=ours.file))
    with pytest.raises(ConfigurationError, match="TOCSIN_JWT_JWKS_CA_FILE is for TOCSIN_JWT_JWKS_URL with https"):
        load_keyring(AuthSettings(jwt_jwks_url="http://127.0.0.1:1/", jwt_jwks_ca_file=ours.file))
