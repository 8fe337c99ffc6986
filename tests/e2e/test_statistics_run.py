"""``fedgrass stats`` over the embedded cloud: emulated cores answer, and one of them has reasons not to."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

import package
from components.trainer.tasks.noise import Noise
from fedgrass.federation.rounds import Participation, Work
from fedgrass.local.testbed import thing_names
from tests.e2e.conftest import Watched

DEVICES, EXAMPLES = 4, 300


@pytest.mark.timeout(300)  # it starts the command eight times
def test_a_run_of_statistics_is_asked_merged_shown_and_compared(
    make_site: Callable[..., Watched], tmp_path: Path
) -> None:
    watched = make_site(DEVICES, tasks={"noise": {"examples": EXAMPLES}})
    out = _stats(watched, "start", "look", "--task", "noise", "--minimum-devices", "3", "--sketch-k", "999")
    assert "run look: SUCCEEDED all 2 rounds closed" in out
    assert any(line.split()[:3] == ["value", "4", "1,200"] for line in out)
    first, second = watched.rounds("look")
    assert {record.round.work for record in (first, second)} == {Work.STATISTICS}
    parts = [*first.participants, *second.participants]
    assert {part.state for part in parts} == {Participation.REPLIED}
    assert {bool(part.bytes) for part in parts} == {True}, "sketches are too large for a completion"

    data = [Noise(device=thing, examples=EXAMPLES).features() for thing in thing_names(DEVICES)]
    pooled = np.concatenate([one["value"] for one in data])
    picture = tmp_path / "look.png"
    shown = _stats(watched, "show", "look", "--json", "--picture", str(picture))
    result = json.loads("\n".join(shown))["features"]
    assert result["value"]["count"] == len(pooled)
    assert result["value"]["mean"] == float(sum(map(Fraction, pooled.tolist())) / len(pooled))
    assert (result["value"]["smallest"], result["value"]["largest"]) == (pooled.min(), pooled.max())
    edges, counts = result["value"]["histogram"]["edges"], result["value"]["histogram"]["counts"]
    assert counts == np.histogram(pooled, edges)[0].tolist()
    labels, numbers = np.unique(np.concatenate([one["labels"] for one in data]), return_counts=True)
    found = {count["label"]: count["count"] for count in result["labels"]["labels"]["counts"]}
    assert found == dict(zip(map(str, labels), numbers.tolist(), strict=True))
    assert picture.read_bytes().startswith(b"\x89PNG")

    options = ("--task", "noise", "--minimum-devices", "3", "--statistics", "mean", "labels")
    _stats(watched, "start", "small", *options)
    (record,) = watched.rounds("small")
    assert {part.bytes for part in record.participants} == {0}, "a small answer is in the completion"
    compared = _stats(watched, "compare", "look", "small")
    assert any(line.startswith("labels") and "stable" in line for line in compared)
    assert [line.split()[0] for line in _stats(watched, "list")] == ["run", "look", "small"]
    refused = _stats(watched, "start", "five", "--task", "noise", check=False)
    assert "statistics.minimum_devices is 5, but a round would ask 4 of the 4 devices" in refused[-1]


def _stats(watched: Watched, *arguments: str, check: bool = True) -> list[str]:
    """Run the command; return the lines that it prints, with those of errors."""
    command = [sys.executable, "-m", "fedgrass.console.main", "stats", *arguments]
    environment = {**os.environ, **watched.testbed.cloud.environment()}
    done = subprocess.run(
        command, cwd=package.ROOT, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert not check or done.returncode == 0, done.stderr
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]
