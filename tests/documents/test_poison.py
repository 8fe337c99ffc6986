"""One update in ten is bad: each strategy must do what the table in docs/aggregation.md states."""

import re
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_functions.aggregation.update_reader import BadUpdates
from fedgrass.federation.errors import AggregationFailed
from tests.fakes.small_average import AVERAGING, SmallAverage, file_of
from tests.guards.cloud_files import PROJECT

Arrays = dict[str, NDArray[Any]]
UPDATES = 10
_SAME_WAY = 0.9  # minimum cosine of the angle between two changes
BAD = 4
OVERSTATED = "sign-flipped, 2^53 examples"
LOSSES = [{"loss": 0.5}] * UPDATES
PAGE = PROJECT / "docs" / "aggregation.md"
# The settings of the run, by the first column of the table.
SETTINGS: dict[str, dict[str, Any]] = {
    **{f"`{name}`": {"aggregation": name} for name in AVERAGING},
    "`weighted_mean` with `clip_norm`": {"aggregation": "weighted_mean", "clip_norm": 1.0},
    "`weighted_mean` with `largest_norm`": {"aggregation": "weighted_mean", "largest_norm": 3.0},
    "`weighted_mean` with `clip_norm`, `examples_cap` 1": {
        "aggregation": "weighted_mean",
        "clip_norm": 1.0,
        "examples_cap": 1,
    },
    "`weighted_mean` with `clip_norm`, `examples_cap` 0": {
        "aggregation": "weighted_mean",
        "clip_norm": 1.0,
        "examples_cap": 0,
    },
}
KINDS = ("NaN", "1e30", "another model", "sign-flipped x 100", OVERSTATED)


def start() -> Arrays:
    return {"w": np.random.default_rng(1).standard_normal(200, dtype=np.float32)}


def honest() -> list[Arrays]:
    """Return ten updates whose changes, of norm about 1.5, have a common part and some noise."""
    rng = np.random.default_rng(2)
    common = rng.normal(0, 0.1, 200)
    return [
        {"w": (start()["w"] + common + rng.normal(0, 0.03, 200)).astype(np.float32)} for _ in range(UPDATES)
    ]


def bad_update(kind: str, update: Arrays) -> Arrays | bytes:
    match kind:
        case "NaN":
            return {"w": np.where(np.arange(200) == 7, np.nan, update["w"]).astype(np.float32)}
        case "1e30":
            return {"w": np.full(200, 1e30, np.float32)}
        case "another model":
            return file_of({"w": np.zeros((20, 10), np.float32)})
        case "sign-flipped, 2^53 examples":
            return {"w": (2 * start()["w"] - update["w"]).astype(np.float32)}
        case _:
            return {"w": (start()["w"] - 100 * (update["w"] - start()["w"])).astype(np.float32)}


def upload(run: SmallAverage, updates: list[Arrays], bad: Arrays | bytes) -> None:
    """Put the files into the bucket, the bad one as a device without checks would write it."""
    sent: list[Arrays | bytes] = [*updates]
    sent[BAD] = bad if isinstance(bad, bytes) else run.unchecked(bad)
    run.upload(sent)


def outcome(settings: dict[str, Any], kind: str) -> str:
    """Return the effect of the bad update, as the table names it."""
    updates = honest()
    without = SmallAverage(start(), **settings)
    expected = without.round(updates[:BAD] + updates[BAD + 1 :], metrics=LOSSES[1:])["w"]
    run = SmallAverage(start(), **settings)
    upload(run, updates, bad_update(kind, updates[BAD]))
    claims = [100] * UPDATES
    if kind == OVERSTATED:
        claims[BAD] = 2**53
    try:
        made = run.make(UPDATES, claims, metrics=LOSSES)["w"]
    except BadUpdates as bad:
        return "refused" if list(bad.refused) == [f"thing-{BAD:04}"] else f"refused: {bad.refused}"
    except AggregationFailed:
        return "abandoned"
    step = np.linalg.norm(expected.astype(np.float64) - start()["w"])
    if np.linalg.norm(made.astype(np.float64) - expected) < step / 2:
        return "withstood"
    change = made.astype(np.float64) - start()["w"]
    if np.linalg.norm(change) < step / 10:
        return "no step"
    forwards = float(change @ (expected.astype(np.float64) - start()["w"])) / (np.linalg.norm(change) * step)
    return "slowed" if forwards > _SAME_WAY and np.linalg.norm(change) < step else "ruined"


def table() -> dict[str, list[str]]:
    """Return the rows of the table between its markers, by their first column."""
    found = re.search(r"<!-- poison -->\n(.*?)<!-- /poison -->", PAGE.read_text(), re.DOTALL)
    assert found
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].strip().splitlines()]
    assert tuple(rows[0][1:]) == KINDS
    return {row[0]: row[1:] for row in rows[2:]}


def test_the_table_has_every_strategy() -> None:
    assert table().keys() == SETTINGS.keys()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_bad_update_among_ten_has_the_effect_in_the_table(name: str, kind: str) -> None:
    assert outcome(SETTINGS[name], kind) == table()[name][KINDS.index(kind)]


def print_table() -> None:
    """Print the current table: python -m tests.documents.test_poison."""
    rows = [["with default options", *KINDS], ["---"] * (1 + len(KINDS))]
    rows += [[name, *(outcome(SETTINGS[name], kind) for kind in KINDS)] for name in SETTINGS]
    for row in rows:
        print("| " + " | ".join(row) + " |")  # noqa: T201 - a program


if __name__ == "__main__":
    print_table()
