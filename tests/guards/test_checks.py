"""The continuous integration, pre-commit and `make check` run the same checks; the packages are typed."""

import os
import re
from typing import Any

import pytest
import yaml

import package

ROOT = package.ROOT
WORKFLOW: dict[Any, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
HOOKS: dict[str, Any] = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()


def commands_of(target: str) -> list[str]:
    """Return the commands of a target of the Makefile, with the environment's folder put in."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found
    return [line.strip().replace("$(BIN)", ".venv/bin") for line in found[1].splitlines()]


def test_pre_commit_runs_each_command_of_make_check() -> None:
    (repository,) = HOOKS["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == commands_of("check")
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    assert not any(hook["pass_filenames"] for hook in repository["hooks"])


def test_the_workflow_calls_the_script_of_the_continuous_integration() -> None:
    (job,) = WORKFLOW["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert job["timeout-minutes"] <= 60


def test_the_workflow_runs_for_pull_requests_and_may_only_read() -> None:
    triggers = WORKFLOW[True]  # YAML 1.1 reads the key `on` as a boolean
    assert set(triggers) == {"push", "pull_request"}
    assert WORKFLOW["permissions"] == {"contents": "read"}
    (job,) = WORKFLOW["jobs"].values()
    assert "permissions" not in job
    used = [step["uses"] for step in job["steps"] if "uses" in step]
    assert len(used) == 2
    assert all(re.fullmatch(r"actions/[a-z-]+@v\d+(\.\d+\.\d+)?", action) for action in used), used


@pytest.mark.parametrize("name", ["fedgrass", "greengrass_emulator"])
def test_a_package_declares_that_it_is_typed(name: str) -> None:
    """PEP 561; what hatchling packs is each folder as a whole."""
    assert (ROOT / name / "py.typed").read_text() == ""
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert f'"{name}"' in re.findall(r"^packages = \[(.*)\]$", pyproject, re.MULTILINE)[0]
