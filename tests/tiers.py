"""The tiers of the tests: what a marker promises is held here, and what a run needs does not depend on how it began.

A test with ``pytest.mark.unit`` uses no database, browser, network or process: one that tries fails. With
``pytest.mark.unit(process=True)`` it may start one, which runs the console's modules. ``pytest -m unit``
and ``pytest -m long`` import only the modules that name the marker, so that a short run does not load the tools of a
long one.

Property tests draw random examples in the long tier, whose seed the header prints; elsewhere, and in CI, which judges a
change and no luck, their examples are always the same.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from hypothesis import HealthCheck, settings

from tests.harness import memory_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER_PREFIX = "tocsin-files-"
"""The tests' files are in memory, and in no folder that a run beside this one sets the permissions of."""
WHOLLY_LONG = r"^pytestmark = \[?pytest\.mark\.long"
SLOWEST_FIRST = (
    "generated/test_clients.py",
    "test_loops.py",
    "console/test_feed.py",
    "cli/test_worker_supervisor.py",
    "console/test_console.py",
    "faults/test_database_failures.py",
    "console/test_alert.py",
    "database/test_durability.py",
    "console/test_attention.py",
    "database/test_embedded.py",
    "console/test_oidc.py",
    "cli/test_serve.py",
    "console/test_tabs.py",
    "cli/test_sql.py",
    "console/test_dashboard.py",
    "admin/test_recipients.py",
    "console/test_reset.py",
    "integrations/test_alertmanager.py",
    "console/test_banners.py",
    "console/test_sign_in.py",
    "console/test_keys.py",
    "cli/test_audit_verify.py",
    "stream/transports/test_http_endpoint.py",
    "faults/test_outage.py",
)
"""The modules that take longest: begun last, one of them would be all that runs in the end. Those with a browser, which
compute, stand between those that wait."""
BLOCKED = (
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (socket.socket, "bind"),
    (subprocess.Popen, "__init__"),
)
"""What opens a connection, or starts a process, such as PostgreSQL, a browser or a node."""
_ANY_SPEED: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "print_blob": True}

settings.register_profile("deterministic", derandomize=True, **_ANY_SPEED)
settings.register_profile("random", **_ANY_SPEED)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose how properties are tested, before Hypothesis reads it, and let a signal do what it does by default.

    Nor is there a proxy, which would be asked for what is on this machine.
    """
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        del os.environ[name]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and so would nodes
    if not config.option.basetemp:
        config.option.basetemp = tempfile.mkdtemp(prefix=FOLDER_PREFIX, dir=memory_folder())
    if config.option.hypothesis_profile:
        return
    if config.option.markexpr == "long" and not os.environ.get("CI"):
        config.option.hypothesis_profile = "random"
        config.option.hypothesis_seed = config.option.hypothesis_seed or str(random.randrange(2**32))
    else:
        config.option.hypothesis_profile = "deterministic"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove the folder of the tests' files when all passed; workers have theirs in it."""
    folder = Path(session.config.option.basetemp)
    if folder.name.startswith(FOLDER_PREFIX) and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(folder, ignore_errors=True)


def pytest_report_header(config: pytest.Config) -> str | None:
    """Name the seed of a random run."""
    seed = config.option.hypothesis_seed
    return f"repeat the same examples with --hypothesis-seed={seed}" if seed else None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out modules that have no test of the tier."""
    if collection_path.suffix != ".py":
        return None
    code = collection_path.read_text()
    match config.option.markexpr:
        case "unit" | "long" as tier:
            return f"pytest.mark.{tier}" not in code or None
        case "not long":
            return re.search(WHOLLY_LONG, code, re.MULTILINE) is not None or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest modules first, in which order pytest-xdist hands them out."""
    ranks = {Path(__file__).parent / module: rank for rank, module in enumerate(SLOWEST_FIRST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Hold the fixtures of a test to its tier."""
    with _held(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Hold a test to its tier."""
    with _held(item):
        return (yield)


@contextmanager
def _held(item: pytest.Item) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        if unit := item.get_closest_marker("unit"):
            for owner, name in BLOCKED:
                if not (owner is subprocess.Popen and unit.kwargs.get("process")):
                    patch.setattr(owner, name, _fail)
        yield


def _fail(*_: Any, **__: Any) -> NoReturn:
    pytest.fail("a unit test opened a connection or started a process: remove its marker, or what it needs")
