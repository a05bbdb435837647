"""The real parts that the tests need and Python packages do not bring: Chromium.

``python -m tests.parts`` installs it as root where apt is at hand, and otherwise says in one line what will be skipped.
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


def main() -> None:
    if chromium():
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing Chromium for the browser tests …", flush=True)
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "chromium"],
            check=False,
            env=environment,
            stdout=subprocess.DEVNULL,
        )
    if not chromium():
        print("Skipping the browser tests: there is no Chromium; install the package chromium.")


if __name__ == "__main__":
    main()
