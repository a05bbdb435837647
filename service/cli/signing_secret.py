"""The secret that the commands sign tokens with: the configured one, or the development secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from service.auth.shared_secret import make_dev_secret, read_dev_secret, read_secret
from service.cli.invocation import suggest
from service.errors import ConfigurationError

if TYPE_CHECKING:
    from service.settings import Settings


def signing_secret(settings: Settings, *, dev: bool = False) -> bytes:
    """Return the shared secret that tokens are signed with; ``dev`` makes one where there is none.

    Raises:
        ConfigurationError: only a public key, or tokens of another form, are configured, or there is no usable
            secret at all.

    """
    auth = settings.auth
    if (auth.jwt_public_key_file or auth.jwt_jwks_file or auth.jwt_jwks_url) is not None:
        raise ConfigurationError("only public keys are configured: ask your token issuer, Tocsin cannot sign tokens")
    if auth.jwt_scope_claims or auth.jwt_scope_map or auth.jwt_required_claims or auth.jwt_audience_claim != "aud":
        raise ConfigurationError(
            "TOCSIN_JWT_SCOPE_CLAIMS, …_SCOPE_MAP, …_REQUIRED_CLAIMS or …_AUDIENCE_CLAIM describe the tokens of another"
            " issuer: ask it for one"
        )
    if (configured := read_secret(auth.jwt_secret)) is not None:
        return configured
    secret = make_dev_secret(settings.server.data_dir) if dev else read_dev_secret(settings.server.data_dir)
    if secret is None:
        raise ConfigurationError(
            f"there is no key to sign with: run {suggest('serve --dev')} once, or set TOCSIN_JWT_SECRET"
        )
    return secret
