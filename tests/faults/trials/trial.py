"""Trials from their seeds, and a command that runs many of them.

python -m tests.faults.trials.trial --seed 7 --minutes 10
python -m tests.faults.trials.trial --seed 3 --plan "failover with loss"
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from scripts.system_packages import pgbouncer
from tests.faults.trials import faults
from tests.faults.trials.judge import complaints_of
from tests.faults.trials.nodes import ROOT, environment_of
from tests.faults.trials.world import Setup, World
from tests.fixtures.postgres_cluster import DATABASE, DEBIAN, HOST, ROLE, Server, wheel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

PLAIN = Setup()
ASYNCHRONOUS = Setup(replica="asynchronous")
SYNCHRONOUS = Setup(replica="synchronous")
LAZY = {"synchronous_commit": "off", "wal_writer_delay": "5s"}
"""A server that answers before a commit is written, and writes late."""
LATE = Setup(server={"wal_writer_delay": "10s"})
"""A server that writes nothing before a commit, so that a crash makes it forget more transaction ids."""
SESSION = Setup(pooler="session", server=LAZY)
TRANSACTION = Setup(pooler="transaction", server=LAZY)
POOLED_REPLICA = Setup(replica="asynchronous", pooler="transaction")
RANDOM_FAULTS = 3


@dataclass(frozen=True)
class Plan:
    """What a trial runs on, and which faults happen, in this order."""

    name: str
    setup: Setup
    faults: tuple[Callable[[World], Awaitable[None]], ...]


PLANS = (
    Plan(
        "nodes",
        Setup(own_clocks=True),
        (faults.kill_node, faults.freeze_node, faults.restart_nodes, faults.step_clocks),
    ),
    Plan("crashes", LATE, (faults.crash_before_commit, faults.crash_before_commit, faults.crash_database)),
    Plan(
        "refusals",
        PLAIN,
        (faults.lock_out, faults.deadlock, faults.use_up_connections, faults.end_sessions, faults.forbid_writing),
    ),
    Plan("network", PLAIN, (faults.end_listening, faults.lose_packets)),
    Plan("full disk", Setup(disk_bytes=150 << 20), (faults.fill_disk,)),
    Plan("failover with loss", ASYNCHRONOUS, (faults.fail_over_with_loss,)),
    Plan("failover without loss", ASYNCHRONOUS, (faults.fail_over_without_loss,)),
    Plan("restore", PLAIN, (faults.restore_snapshot,)),
    Plan("synchronous standby", SYNCHRONOUS, (faults.interrupt_replication, faults.lose_synchronous_standby)),
    Plan("session pooling", SESSION, (faults.crash_database, faults.kill_node)),
    Plan("transaction pooling", TRANSACTION, (faults.crash_database, faults.crash_before_commit)),
    Plan("pooled failover", POOLED_REPLICA, (faults.fail_over_with_loss, faults.fail_over_without_loss)),
)
ANYWHERE = (
    *(faults.kill_node, faults.freeze_node, faults.restart_nodes, faults.crash_database, faults.crash_before_commit),
    *(faults.lock_out, faults.deadlock, faults.forbid_writing, faults.use_up_connections, faults.end_sessions),
    *(faults.end_listening, faults.lose_packets),
)
OF_REPLICA = {
    None: (faults.restore_snapshot, faults.kill_node),
    "asynchronous": (faults.fail_over_with_loss, faults.fail_over_without_loss),
    "synchronous": (faults.interrupt_replication, faults.lose_synchronous_standby),
}


def random_plan(seed: int) -> Plan:
    """Choose a set-up and faults."""
    random = Random(f"{seed}/plan")
    setup = random.choice((PLAIN, ASYNCHRONOUS, SYNCHRONOUS, SESSION, TRANSACTION, POOLED_REPLICA))
    own = OF_REPLICA[setup.replica]
    chosen = [random.choice(own), *random.sample(ANYWHERE, RANDOM_FAULTS - 1)]
    random.shuffle(chosen)
    return Plan(f"random {seed}", setup, tuple(chosen))


def lacking(plan: Plan) -> str | None:
    """Return what a plan needs and this machine does not have."""
    if plan.setup.pooler and pgbouncer() is None:
        return "PgBouncer is missing; install the package pgbouncer"
    if plan.setup.disk_bytes and os.geteuid() != 0:
        return "only root can make a small disk"
    return None


class Verdict(NamedTuple):
    """What a trial found."""

    summary: str
    complaints: list[str]


async def run(plan: Plan, seed: int, template: Server, folder: Path) -> Verdict:
    """Run a trial."""
    world, injected, began = World(template, folder, seed, plan.setup), [], time.monotonic()

    async def inject() -> None:
        for fault in plan.faults:
            injected.append(f"{fault.__name__} after {world.stored} ({time.monotonic() - began:.0f} s)")
            await fault(world)
            await world.go_on()

    try:
        await world.build()
        await world.live(inject)
        complaints = await complaints_of(world)
    finally:
        await world.close()
    connections = sum(len(recipient.record.connections) for recipient in world.recipients)
    resets = sum(one.reset is not None for recipient in world.recipients for one in recipient.record.connections)
    summary = (
        f"{plan.name}, seed {seed}, {plan.setup}: {', '.join(injected)}; {world.head} events,"
        f" {len(world.changes)} changes, {connections} connections, {resets} resets,"
        f" {time.monotonic() - began:.0f} s, {len(complaints)} complaints"
    )
    return Verdict(summary, complaints)


def make_template(folder: Path, binaries: Path) -> Server:
    """Make a server with the schema, which does not run."""
    server = Server.create(folder, binaries)
    server.start()
    server.run("createdb", "-h", HOST, "-p", str(server.port), "-U", ROLE, DATABASE)
    subprocess.run(
        [sys.executable, "-m", "service", "migrate"],
        env=environment_of({"TOCSIN_DATABASE_URL": server.url}),
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    server.stop()
    return server


def make_folder() -> Path:
    """Make a folder in memory, if there is one, that the servers' user may enter."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="tocsin-trials-", dir=memory if memory.is_dir() else None))
    folder.chmod(0o755)
    return folder


def main() -> None:
    """Run trials with one seed after the other until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=0)
    parser.add_argument("--plan", default="random", help=", ".join(plan.name for plan in PLANS))
    parser.add_argument("--debian", action="store_true", help="PostgreSQL 15 of Debian instead of the wheel")
    arguments = parser.parse_args()
    named = {plan.name: plan for plan in PLANS}
    folder, deadline, wrong = make_folder(), time.monotonic() + 60 * arguments.minutes, 0
    template = make_template(folder / "template", DEBIAN if arguments.debian else wheel())
    for seed in range(arguments.seed, sys.maxsize):
        plan = random_plan(seed) if arguments.plan == "random" else named[arguments.plan]
        place = folder / str(seed)
        place.mkdir(mode=0o755)
        verdict = asyncio.run(run(plan, seed, template, place))
        print(verdict.summary, *verdict.complaints[:20], sep="\n    ", flush=True)
        wrong += bool(verdict.complaints)
        if not verdict.complaints:
            shutil.rmtree(place)
        if time.monotonic() > deadline:
            break
    if not wrong:
        shutil.rmtree(folder)
    raise SystemExit(1 if wrong else 0)


if __name__ == "__main__":
    main()
