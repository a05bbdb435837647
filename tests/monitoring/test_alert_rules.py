"""``docs/monitoring/alerts.yml``, checked and tried by Prometheus' own tool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from scripts.system_packages import promtool
from service.errors import all_refusals
from tests.harness import ROOT

if TYPE_CHECKING:
    from tests.harness import Node

RULES = ROOT / "docs" / "monitoring" / "alerts.yml"
TRIALS = Path(__file__).with_name("alert_rules.yml")

needs_promtool = pytest.mark.skipif(promtool() is None, reason="there is no promtool; install the package prometheus")


def rules() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return found


@needs_promtool
@pytest.mark.parametrize("command", [("check", "rules", RULES), ("test", "rules", TRIALS)])
def test_prometheus_finds_the_rules_right(command: tuple[str, str, Path]) -> None:
    done = subprocess.run([str(promtool()), *map(str, command)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_rule_is_tried_both_ways() -> None:
    trials = [trial for test in yaml.safe_load(TRIALS.read_text())["tests"] for trial in test["alert_rule_test"]]
    for rule in rules():
        of_this = [trial["exp_alerts"] for trial in trials if trial["alertname"] == rule["alert"]]
        assert any(of_this), f"nothing makes {rule['alert']} fire"
        assert not all(of_this), f"nothing leaves {rule['alert']} silent"


async def test_what_the_rules_ask_for_is_what_the_service_shows(node: Node) -> None:
    async with await node.live("alice") as stream, node.http() as client:
        await stream.ack((await node.post())["seq"])
        text = (await client.get("/metrics")).text
    shown = set(re.findall(r"^# TYPE (tocsin_\w+)", text, re.MULTILINE)) | set(
        re.findall(r"^tocsin_\w+", text, re.MULTILINE)
    )
    asked = {name for rule in rules() for name in re.findall(r"tocsin_\w+", rule["expr"])}
    assert asked <= shown
    codes = {
        code for rule in rules() for codes in re.findall(r'code=~"([^"]+)"', rule["expr"]) for code in codes.split("|")
    }
    assert codes <= {error.code for error in all_refusals()}
