"""Types of settings, and how each is read from the text of one variable."""

from __future__ import annotations

import json
import re
from collections import Counter
from ipaddress import ip_address, ip_network
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from service.origins import Origin
from service.severity import Severity

_T = TypeVar("_T")

DEFAULT_SEVERITY_MAP: dict[str, Severity] = {
    "critical": "critical",
    "page": "critical",
    "error": "error",
    "high": "error",
    "warning": "warning",
    "info": "info",
    "none": "info",
}

_HOST = re.compile(r"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::\d+)?")
_ROOT_PATH = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?", re.ASCII)
_RATE = r"\s*\d+\s*(?:/|per)\s*(?:\d+\s*)?(?:second|minute|hour|day|month|year)s?\s*"
_RATES = re.compile(f"{_RATE}(?:[,;|]{_RATE})*", re.ASCII | re.IGNORECASE)
"""What ``limits.parse_many`` accepts: importing ``limits`` would double the start-up time of a
command."""


def _rate(value: str) -> str:
    """Accept the notation of the ``limits`` library: ``10/second; 300/minute``."""
    if not _RATES.fullmatch(value):
        raise ValueError("write a rate such as 10/second, or several: 10/second; 300/minute")
    return value


def _list(value: object) -> object:
    """Read values separated by commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _origins(values: tuple[str, ...]) -> tuple[str, ...]:
    """Accept origins, with a slash after them too, and ``*``."""
    return tuple(value if value == "*" else _origin(value) for value in values)


def _origin(value: str) -> str:
    origin = Origin.parse(value.removesuffix("/"))
    if origin is None:
        raise ValueError(f"write origins such as https://console.example:8443, with commas between; {value!r} is none")
    return str(origin)


def _hosts(value: str) -> str:
    """Accept addresses and names, with commas between, IPv6 addresses in brackets too."""
    hosts = [host.strip().removeprefix("[").removesuffix("]") for host in value.split(",")]
    if not all(hosts):
        raise ValueError("write addresses such as 127.0.0.1, with commas between")
    return ",".join(hosts)


def _root_path(value: str) -> str:
    """Accept ``/tocsin``, with a slash after it too, and ``/``."""
    if not _ROOT_PATH.fullmatch(value):
        raise ValueError("write a path such as /tocsin")
    return value.rstrip("/")


def _proxies(values: tuple[str, ...]) -> tuple[str, ...]:
    """Accept addresses, networks and ``*``."""
    for value in values:
        try:
            value == "*" or ip_network(value, strict=False)
        except ValueError:
            raise ValueError(f"write addresses and networks, with commas between, or *; {value!r} is none") from None
    return values


def _json_list(value: object) -> object:
    """Read a list in JSON."""
    if not isinstance(value, str):
        return value
    try:
        read = json.loads(value, object_pairs_hook=unique)
    except _Duplicate:
        raise
    except (ValueError, RecursionError):
        raise ValueError("this is not valid JSON") from None
    if not isinstance(read, list):
        raise ValueError("write a list, between [ and ]")  # noqa: TRY004 - pydantic reports a ValueError
    return _filled(read)


class _Duplicate(ValueError):
    """A name is there twice, and only one of its values could count."""


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the values by name. A name that is there twice is refused, because one value would be ignored."""
    values = dict(pairs)
    if len(values) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise _Duplicate(f"{next(name for name in counts if counts[name] > 1)} is there twice")
    return values


def _pairs(value: str, example: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ValueError(f"write pairs such as {example}")
    return unique([(name.strip(), text.strip()) for name, _, text in pairs])


def _filled(value: _T) -> _T:
    """Refuse what is empty. Where it decides about tokens, no default may stand in for it."""
    if not (value.strip() if isinstance(value, str) else value):
        raise ValueError("it is empty: leave it out, or give it a value")
    return value


def _severity_map(value: object) -> object:
    """Read ``ticket=warning, p1=critical``, in addition to the defaults."""
    if not isinstance(value, str):
        return value
    named = _pairs(value, "ticket=warning, p1=critical")
    return {**DEFAULT_SEVERITY_MAP, **unique([(name.lower(), severity) for name, severity in named.items()])}


def _parameters(value: object) -> object:
    """Read ``audience=tocsin, prompt=login``."""
    return _pairs(value, "audience=tocsin, prompt=login") if isinstance(value, str) else value


def _dedup_groups(value: object) -> object:
    """Read ``payments=billing,checkout; infra=prometheus,blackbox``."""
    if not isinstance(value, str):
        return value
    groups: dict[str, tuple[str, ...]] = {}
    group_of: dict[str, str] = {}
    for group in filter(str.strip, value.split(";")):
        name, equals, listed = (part.strip() for part in group.partition("="))
        if not name or not equals:
            raise ValueError("write groups such as payments=billing,checkout; infra=prometheus,blackbox")
        if name in groups:
            raise ValueError(f"the group {name} is there twice")
        sources = groups[name] = tuple(source.strip() for source in listed.split(","))
        for source in sources:
            if not source or not source.isprintable():
                raise ValueError(f"the group {name} has a source without a name")
            if source in group_of:
                raise ValueError(f"the source {source} is in {group_of[source]} and in {name}: one group at most")
            group_of[source] = name
    return groups


def _trusted_url(value: str) -> str:
    """Accept ``https``, and ``http`` to loopback: whoever alters the content can sign any token."""
    try:
        url = urlsplit(value)
        host = url.hostname if url.port != 0 else None
    except ValueError:  # quotes what may be a part of a password
        host = None
    if not host or "@" in value or url.fragment or not value.isascii() or not value.isprintable():
        raise ValueError("write an address such as https://issuer.example/jwks.json, without a user")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(host)):
        raise ValueError("use https, or http to a loopback address")
    return value


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _issuer_url(value: str) -> str:
    """Accept the identifier of an OpenID provider, which is put into a header and before a path."""
    if not _HOST.fullmatch(urlsplit(_trusted_url(value)).netloc) or urlsplit(value).query:
        raise ValueError("write an address such as https://login.example/realms/ops, without a query")
    return value


def _required_claims(value: object) -> object:
    """Read ``token_use=access, tid=<tenant>``, or a JSON object, whose ``true`` and ``2`` are the text of that."""
    if isinstance(value, str):
        return _pairs(value, "token_use=access, typ=Bearer")
    if isinstance(value, dict):
        return {name: json.dumps(one) if isinstance(one, int | float) else one for name, one in value.items()}
    return value


def _scope_map(value: object) -> object:
    """Read ``Alerts.Read=alerts:read, oncall=alerts:read alerts:manage``, or a JSON object of the same."""
    if isinstance(value, str):
        value = _pairs(value, "Alerts.Read=alerts:read, oncall=alerts:read alerts:manage")
    if isinstance(value, dict):
        return {name: scopes.split() if isinstance(scopes, str) else scopes for name, scopes in value.items()}
    return value


Rate = Annotated[str, AfterValidator(_rate)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
SourceGroups = Annotated[dict[str, tuple[str, ...]], BeforeValidator(_dedup_groups)]
TextList = Annotated[tuple[str, ...], BeforeValidator(_list)]
Hosts = Annotated[str, AfterValidator(_hosts)]
RootPath = Annotated[str, AfterValidator(_root_path)]
Origins = Annotated[TextList, AfterValidator(_origins)]
Proxies = Annotated[TextList, AfterValidator(_proxies)]
SeverityMap = Annotated[dict[str, Severity], BeforeValidator(_severity_map)]
Parameters = Annotated[dict[str, str], BeforeValidator(_parameters)]
TrustedUrl = Annotated[str, AfterValidator(_trusted_url)]
IssuerUrl = Annotated[str, AfterValidator(_issuer_url)]
JsonList = BeforeValidator(_json_list)
Text = Annotated[str, AfterValidator(_filled)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_list), AfterValidator(_filled)]
RequiredClaims = Annotated[dict[Text, Text], BeforeValidator(_required_claims), AfterValidator(_filled)]
Scopes = Annotated[tuple[Text, ...], AfterValidator(_filled)]
ScopeMap = Annotated[dict[Text, Scopes], BeforeValidator(_scope_map), AfterValidator(_filled)]
PublicKeyAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
