"""The real parts that the tests need and Python packages do not bring: Chromium, and of Prometheus two programs.

``python -m tests.parts`` installs them as root where apt is at hand, and otherwise says in one line each what will be
skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess

BROWSER_ARGUMENTS = (
    "--no-sandbox",  # it refuses to run as root otherwise
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str | None:
    """Return the path of a Chromium, or None."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def light_chromium() -> str | None:
    """Return the path of Chromium's headless shell, which takes half the time and has no desktop; else of Chromium."""
    return shutil.which("chromium-headless-shell") or chromium()


def alertmanager() -> str | None:
    """Return the path of a Prometheus Alertmanager, or None."""
    return next(filter(None, map(shutil.which, ("prometheus-alertmanager", "alertmanager"))), None)


def promtool() -> str | None:
    """Return the path of Prometheus' tool that checks rules, or None."""
    return shutil.which("promtool")


PARTS = (
    ("Chromium", "the browser tests", "chromium", chromium),
    (
        "headless shell of Chromium",
        "the quicker way of the browser tests",
        "chromium-headless-shell",
        lambda: shutil.which("chromium-headless-shell"),
    ),
    ("Prometheus Alertmanager", "the tests with a real one", "prometheus-alertmanager", alertmanager),
    ("promtool", "the tests of the alert rules", "prometheus", promtool),
)


def main() -> None:
    missing = [part for part in PARTS if not part[-1]()]
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
            print(f"Skipping {purpose}: there is no {name}; install the package {package}.")


if __name__ == "__main__":
    main()
