"""Settings of the clients that come with the service: the console and the command line."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr

from service.settings.group import SettingsGroup
from service.settings.parsing import IssuerUrl, Parameters


class ConsoleSettings(SettingsGroup):
    """Sign-in to the console with OpenID Connect."""

    oidc_issuer: IssuerUrl | None = None
    """The OpenID provider: ``https``, or ``http`` to a loopback address. Without it the console
    asks for a token."""
    oidc_client_id: str = Field("tocsin-console", min_length=1)
    """The console's client id at the provider, registered there as a public client (without a
    secret)."""
    oidc_scope: str = "openid offline_access alerts:read alerts:manage"
    """The requested scopes, separated by spaces; ``offline_access`` allows tokens to be renewed
    silently."""
    oidc_resource: str | None = None
    """The ``resource`` of the access token (RFC 8707), if the provider requires it."""
    oidc_parameters: Parameters = Field({})
    """Further parameters of the authorization request, such as ``audience=tocsin,
    prompt=consent``."""


class ClientSettings(SettingsGroup):
    """The service that ``tocsin send``, ``tail`` and ``people`` connect to."""

    url: str = "http://127.0.0.1:8000"
    """The address of the service."""
    token: SecretStr | None = None
    """The bearer token."""
    token_file: Path | None = None
    """A file with the token; it is read for each connection, so the token can be renewed."""
