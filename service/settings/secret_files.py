"""Secrets in files, as Docker, Kubernetes and systemd hand them over: ``TOCSIN_…_FILE`` for every secret."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import SecretStr

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any

    from pydantic import BaseModel

FILE_SUFFIX = "_file"
FILE_MAX_BYTES = 1024 * 1024
_HOLD_SECRETS = ("issuers",)
"""Settings that are no secret as a whole."""


def secrets_of(settings: type[BaseModel]) -> list[str]:
    """Return the settings of a class that hold a secret, or an address with a password."""
    return [
        name
        for name, field in settings.model_fields.items()
        if field.annotation == SecretStr | None or name in _HOLD_SECRETS
    ]


def read_secret_files(
    given: Mapping[str, Any], secrets: Iterable[str], *, name: Callable[[str], str] = str
) -> dict[str, Any]:
    """Return the settings with each ``…_file`` of a secret replaced by what the file holds.

    ``name`` is how the error calls a setting.

    Raises:
        ValueError: a file cannot be read, or a secret is given in both ways. The message shows neither
            the content nor the path, which may be the secret itself, set by mistake.

    """
    read = dict(given)
    for secret in secrets:
        path = read.pop(f"{secret}{FILE_SUFFIX}", None)
        if path is None:
            continue
        setting = name(f"{secret}{FILE_SUFFIX}")
        if read.get(secret) is not None:
            raise ValueError(f"set {name(secret)} or {setting}, not both")
        read[secret] = _content(path, setting)
    return read


def _content(path: object, setting: str) -> str:
    """Return the content of a file without the line end that editors and ``echo`` put there."""
    if not isinstance(path, str | Path):
        raise ValueError(f"{setting}: write the path of a file")  # noqa: TRY004 - pydantic reports a ValueError
    try:
        with Path(path).open("rb") as file:
            content = file.read(FILE_MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{setting}: {error.strerror}: set it to the path of a file with the secret") from None
    except ValueError:
        raise ValueError(f"{setting}: this is not a path") from None
    if len(content) > FILE_MAX_BYTES:
        raise ValueError(f"{setting}: the file is larger than {FILE_MAX_BYTES} bytes")
    try:
        text = content.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ValueError(f"{setting}: the file is not UTF-8") from None
    if not text:
        raise ValueError(f"{setting}: the file is empty")
    return text
