"""The predictor's models on disk: the last three, complete after a power failure at any moment."""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import package
from components.predictor.model_store import KEPT, LIST, ModelStore, file_name
from fedgrass.federation import weights
from fedgrass.federation.messages import NewModel

WRITER = """
import sys
from pathlib import Path
from components.predictor.model_store import ModelStore
from tests.unit.device.predictor.test_model_store import content, model
store = ModelStore(Path(sys.argv[1]))
number = int(sys.argv[2])
while True:
    store.put(model(number), content(number))
    print(number, flush=True)
    number += 1
"""

FEWEST_KILLS, MOST_KILLS = 8, 60  # until one interrupts a write


def content(number: int) -> bytes:
    return str(number).encode() * 200_000


def model(number: int) -> NewModel:
    data = content(number)
    return NewModel(
        task="noise",
        run="run-a",
        round=number,
        bucket="b",
        key="k",
        sha256=weights.sha256(data),
        bytes=len(data),
    )


def test_the_newest_model_and_the_two_before_it_are_kept(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert store.newest() is None
    for number in range(1, 6):
        store.put(model(number), content(number))
    assert store.newest() == (model(5), content(5))
    names = {file_name(model(number)) for number in (3, 4, 5)}
    assert {file.name for file in tmp_path.iterdir()} == {LIST, *names}
    assert len(names) == KEPT


def test_a_restart_finds_what_was_put_last(tmp_path: Path) -> None:
    for number in (1, 2):
        ModelStore(tmp_path).put(model(number), content(number))
    assert ModelStore(tmp_path).newest() == (model(2), content(2))


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_model_gives_way_to_the_one_before_it(tmp_path: Path, damage: str) -> None:
    store = ModelStore(tmp_path)
    for number in (1, 2):
        store.put(model(number), content(number))
    file = tmp_path / file_name(model(2))
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content(2)[:-1] + (b"" if damage == "cut" else b"x"))
    assert ModelStore(tmp_path).newest() == (model(1), content(1))


def test_a_list_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    ModelStore(tmp_path).put(model(1), content(1))
    (tmp_path / LIST).write_bytes(b"\xff{")
    store = ModelStore(tmp_path)
    assert store.newest() is None
    store.put(model(2), content(2))
    assert ModelStore(tmp_path).newest() == (model(2), content(2))


def test_the_same_model_put_twice_is_there_once(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    for number in (1, 2, 1):
        store.put(model(number), content(number))
    assert store.newest() == (model(1), content(1))
    assert len(list(tmp_path.glob("*.safetensors"))) == 2


@pytest.mark.slow
def test_a_process_killed_in_the_middle_of_putting_a_model_leaves_a_whole_one(tmp_path: Path) -> None:
    rng = random.Random(5)  # noqa: S311 - the moments of the kills
    number, kills, unfinished = 1, 0, 0
    while kills < FEWEST_KILLS or (not unfinished and kills < MOST_KILLS):
        kills += 1
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "models"), str(number)],
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": str(package.ROOT)},
            cwd=tmp_path,
        ) as writer:
            assert writer.stdout is not None
            told = [int(writer.stdout.readline()) for _ in range(rng.randint(1, 8))]
            writer.send_signal(signal.SIGKILL)
            told += [int(line) for line in writer.stdout.readlines()]
        unfinished += bool(list((tmp_path / "models").glob("*.unfinished")))
        found = ModelStore(tmp_path / "models").newest()
        assert found is not None
        newest, data = found
        # Every write that was reported as done is there; a later one may be.
        assert newest.round in {told[-1], told[-1] + 1}
        assert (newest, data) == (model(newest.round), content(newest.round))
        assert not list((tmp_path / "models").glob("*.unfinished"))
        assert len(list((tmp_path / "models").glob("*.safetensors"))) <= KEPT
        number = newest.round + 1
    assert unfinished, "no kill came in the middle of anything: this test shows nothing"
