"""The demo starts in the environment that `make demo` makes, which has no extra for Flower apps."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[3]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
# What `make demo` leaves out, by the names under which it is imported.
absent_packages = {Requirement(one).name for one in EXTRAS["flower"]} - {
    Requirement(one).name for extra in ("device", "cloud", "local") for one in EXTRAS[extra]
}


def test_only_flower_itself_is_left_to_its_extra() -> None:
    assert absent_packages == {"flwr"}


@pytest.mark.parametrize("module", ["fedgrass.local.demo", "fedgrass.console.flower.server_app_run"])
def test_a_command_starts_without_the_extra(module: str) -> None:
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in sorted(absent_packages))
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {blocked}; import {module}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
