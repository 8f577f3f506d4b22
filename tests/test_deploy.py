"""The systemd units: valid, hardened, and their commands are ones that dripgate has."""

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from dripgate.cli import cli

UNITS = sorted((Path(__file__).parents[1] / "deploy").glob("*.service"))
analyze = pytest.mark.needs("systemd")


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_the_unit_without_a_warning(unit, tmp_path):
    """With a program and a user that exist on this machine."""
    text = unit.read_text().replace("=/opt/dripgate/bin/dripgate", "=/bin/echo")
    text = re.sub(r"^(User|Group)=.*$", r"\1=root", text, flags=re.MULTILINE)
    (tmp_path / unit.name).write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / unit.name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@analyze
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_is_hardened(unit):
    """At most 2.0 of 10, where a unit without any hardening has 9.6."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_unit_s_command_and_options_exist(unit):
    page = (UNITS[0].parents[1] / "docs" / "recipes" / "raspberry-pi.md").read_text()
    command = re.search(r"^ExecStart=\S+ (.*)$", unit.read_text(), re.MULTILINE)[1]
    options = re.search(r"^OPTIONS=(.*)$", page, re.MULTILINE)[1] if "run" in command else ""
    used = set(re.findall(r"--[a-z-]+", command + options))
    assert len(used) >= 1
    shown = CliRunner().invoke(cli, [command.split()[0], "--help"]).output
    assert used <= set(re.findall(r"--[a-z-]+", shown))
