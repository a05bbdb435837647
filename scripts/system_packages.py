"""Programs that the tests use and that neither pip nor npm installs.

``python -m scripts.system_packages`` installs them where it runs as root and has apt, and prints one line for each
that is still missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

BROWSER_ARGUMENTS = (
    "--no-sandbox",  # Chromium refuses to run as root otherwise
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Return the path of Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def light_chromium() -> str | None:
    """Return the path of Chromium's headless shell, which is twice as fast and has no desktop; else of Chromium."""
    return shutil.which("chromium-headless-shell") or chromium()


def alertmanager() -> str | None:
    """Return the path of Prometheus Alertmanager, or None."""
    return next(filter(None, map(shutil.which, ("prometheus-alertmanager", "alertmanager"))), None)


def promtool() -> str | None:
    """Return the path of promtool, which checks Prometheus' alert rules, or None."""
    return shutil.which("promtool")


def pgbouncer() -> str | None:
    """Return the path of PgBouncer, which Debian has where only root looks, or None."""
    return shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")


def postgresql_15() -> str | None:
    """Return the path of the server of PostgreSQL 15, the oldest one that is supported, or None."""
    return shutil.which("postgres", path="/usr/lib/postgresql/15/bin")


def nginx() -> str | None:
    """Return the path of nginx, which Debian has where only root looks, or None."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def caddy() -> str | None:
    """Return the path of Caddy, or None."""
    return shutil.which("caddy")


def libfaketime() -> str | None:
    """Return the path of libfaketime, which gives a process a clock of its own, or None."""
    return next(map(str, Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


def gson() -> str | None:
    """Return the path of Gson, or None."""
    jar = Path("/usr/share/java/gson.jar")
    return str(jar) if jar.exists() else None


PACKAGES = (
    ("Chromium", "the browser tests", "chromium", chromium),
    (
        "Chromium's headless shell",
        "the faster browser tests",
        "chromium-headless-shell",
        lambda: shutil.which("chromium-headless-shell"),
    ),
    ("Prometheus Alertmanager", "the tests with Alertmanager", "prometheus-alertmanager", alertmanager),
    ("promtool", "the tests of the alert rules", "prometheus", promtool),
    ("PgBouncer", "the tests through a connection pooler", "pgbouncer", pgbouncer),
    ("PostgreSQL 15", "the tests with the oldest PostgreSQL", "postgresql-15", postgresql_15),
    ("nginx", "the tests behind nginx", "nginx-light", nginx),
    ("Caddy", "the tests behind Caddy", "caddy", caddy),
    ("libfaketime", "the trials that set clocks", "faketime", libfaketime),
    ("curl", "the tests of the shell programs", "curl", lambda: shutil.which("curl")),
    ("jq", "the tests of the shell programs", "jq", lambda: shutil.which("jq")),
    ("Gson", "the tests of the Java program", "libgoogle-gson-java", gson),
)
"""Name, what needs it, Debian package, and how to find it."""


def main() -> None:
    """Install what is missing."""
    missing = [package for package in PACKAGES if not package[-1]()]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        for name, purpose, package, _ in missing:
            print(f"Installing {name} for {purpose} …", flush=True)
            subprocess.run(
                ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package],
                check=False,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=subprocess.DEVNULL,
            )
    for name, purpose, package, found in missing:
        if not found():
            print(f"Skipping {purpose}: {name} is missing; install the package {package}.")


if __name__ == "__main__":
    main()
