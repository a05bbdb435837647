"""The recipes of docs/issuers.md: each payload, signed, is read as the page says."""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

import jwt
import pytest

from service.auth.issuers import load_keyring
from service.auth.tokens import TokenVerifier
from service.errors import TokenInvalid
from service.settings import PREFIX, load
from tests.auth.issuer import RSA, jwk_set, public_jwk
from tests.fixtures.revocations import KnownRevocations

pytestmark = pytest.mark.unit

PAGE = (Path(__file__).parent.parent / "docs" / "issuers.md").read_text()
RECIPE = re.compile(r"```bash\n(.*?)```\n\n```json\n(.*?)```\n\n```json\n(.*?)```", re.DOTALL)
SECTIONS = dict(section.partition("\n")[::2] for section in PAGE.split("\n## ")[1:])
RECIPES = {title: match.groups() for title, text in SECTIONS.items() if (match := RECIPE.search(text))}
ISSUERS = {"Microsoft Entra ID", "Okta", "Auth0", "Keycloak", "Amazon Cognito"}


def test_there_is_a_recipe_for_each_issuer() -> None:
    assert RECIPES.keys() == ISSUERS


def test_the_example_of_a_list_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOCSIN_ISSUERS", PAGE.partition("```json\n")[2].partition("```")[0])
    auth = load().auth
    assert load_keyring(auth).issuer("https://id.example/oauth2/default") is not None
    assert auth.issuers[0].scope_map == {"Tocsin Admins": ("admin",), "oncall": ("alerts:read", "alerts:manage")}


def verifier_of(variables: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> TokenVerifier:
    """Return the verifier of the page's settings, with the keys of the URL in a file."""
    monkeypatch.chdir(folder)
    for name in os.environ:
        if name.startswith(PREFIX):
            monkeypatch.delenv(name)
    settings = dict(one.split("=", 1) for one in shlex.split(variables, comments=True))
    assert settings.pop("TOCSIN_JWT_JWKS_URL").startswith(settings["TOCSIN_JWT_ISSUER"].rstrip("/")[:32])
    settings.pop("TOCSIN_JWT_JWKS_CA_FILE", None)
    jwks = folder / "jwks.json"
    encryption = public_jwk(RSA, "RS256", kid="another", use="enc", alg="RSA-OAEP")
    jwks.write_bytes(jwk_set(encryption, public_jwk(RSA, "RS256", kid="1", use="sig")))
    for name, value in {**settings, "TOCSIN_JWT_JWKS_FILE": str(jwks)}.items():
        monkeypatch.setenv(name, value)
    auth = load().auth
    return TokenVerifier(load_keyring(auth), auth, KnownRevocations())


def signed(payload: dict[str, Any]) -> str:
    """Sign a payload of the page as if it had been issued now."""
    shift = int(time.time()) - payload["iat"]
    dates: dict[str, Any] = {
        name: payload[name] + shift for name in ("iat", "nbf", "exp", "auth_time") if name in payload
    }
    return jwt.encode({**payload, **dates}, RSA, "RS256", headers={"kid": "1"})


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_token_of_the_issuer_is_read_as_the_page_says(
    recipe: tuple[str, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, payload, me = recipe
    principal = verifier_of(variables, tmp_path, monkeypatch).verify_cached(signed(json.loads(payload)))
    assert json.loads(me) == {
        "subject": principal.subject,
        "name": principal.name,
        "scopes": sorted(principal.scopes),
        "topics": list(principal.topics),
    }


ID_TOKENS: dict[str, dict[str, Any]] = {
    "Microsoft Entra ID": {"aud": "b2b1a2a4-5f4e-4c2b-8f4e-1f3a3f1f0a55"},
    "Okta": {"aud": "0oabskvc6442nkvQO0h7"},
    "Auth0": {"aud": "my1RcSkzIVDrRzDWs8VnVjnPnZ0gD3hH"},
    "Keycloak": {"aud": "tocsin", "typ": "ID"},
    "Amazon Cognito": {"aud": "7lqd3mekk8pvl2hjs3bnb0example", "token_use": "id", "client_id": None},
}


@pytest.mark.parametrize("title", sorted(ISSUERS))
@pytest.mark.parametrize("change", ["id token", "another issuer", "another audience"])
def test_another_token_of_the_issuer_is_refused(
    title: str, change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, payload, _ = RECIPES[title]
    verifier = verifier_of(variables, tmp_path, monkeypatch)
    claims = json.loads(payload)
    changes: dict[str, Any] = {
        "id token": ID_TOKENS[title],
        "another issuer": {"iss": claims["iss"].rstrip("/") + "/other"},
        "another audience": {"aud": "another", "client_id": "another"},
    }[change]
    changed = {name: value for name, value in {**claims, **changes}.items() if value is not None}
    with pytest.raises(TokenInvalid):
        verifier.verify_cached(signed(changed))
