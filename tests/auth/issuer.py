"""An issuer of tokens: its private keys, and a real HTTP server on loopback that publishes the public ones."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

from tests.harness import PATIENCE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator

RSA = rsa.generate_private_key(65537, 2048)
P256 = ec.generate_private_key(ec.SECP256R1())
P384 = ec.generate_private_key(ec.SECP384R1())
P521 = ec.generate_private_key(ec.SECP521R1())
ED25519 = ed25519.Ed25519PrivateKey.generate()
PAIRS: list[tuple[str, Any]] = [
    *((algorithm, RSA) for algorithm in ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")),
    *(("ES256", P256), ("ES384", P384), ("ES512", P521), ("EdDSA", ED25519)),
]


def public_jwk(key: Any, algorithm: str, **members: Any) -> dict[str, Any]:
    """Return the public half of a private key as a JWK."""
    jwk: dict[str, Any] = get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True)
    return {**jwk, **members}


def jwk_set(*keys: Any) -> bytes:
    return json.dumps({"keys": keys}).encode()


def claims(**changes: Any) -> dict[str, Any]:
    now = time.time()
    fields = {"iss": "tocsin", "aud": "tocsin", "sub": "alice", "scope": "alerts:read", "iat": now, "exp": now + 600}
    return {**fields, **changes}


def signed(key: Any, algorithm: str, kid: str | None = None, **changes: Any) -> str:
    """Sign a token."""
    headers = {"typ": "at+jwt", **({} if kid is None else {"kid": kid})}
    return jwt.encode(claims(**changes), key, algorithm, headers=headers)


@dataclass
class Publisher:
    """What a JWKS server answers, and how often it was asked."""

    url: str
    status: int = 200
    content: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    requests: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def publish(self, **keys: Any) -> None:
        """Publish the P-256 keys of these names."""
        self.content = jwk_set(*(public_jwk(key, "ES256", kid=kid, alg="ES256") for kid, key in keys.items()))


@contextmanager
def publishing(port: int = 0, tls: ssl.SSLContext | None = None) -> Iterator[Publisher]:
    """Run a JWKS server; while its gate is closed, requests wait."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            publisher.requests += 1
            publisher.gate.wait(PATIENCE)
            self.send_response(publisher.status)
            for name, value in publisher.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(publisher.content)))
            self.end_headers()
            self.wfile.write(publisher.content)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    publisher = Publisher(f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_port}/jwks.json")
    publisher.gate.set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield publisher
    finally:
        publisher.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()
