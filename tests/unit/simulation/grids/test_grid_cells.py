"""The file of a grid becomes cells, and each mistake in it is found before anything runs."""

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.trainer.training import TrainingSettings
from fedgrass.federation.errors import SettingsError
from fedgrass.simulation.grids.grid_cells import Cell, cells_of
from fedgrass.simulation.grids.grid_file import GridFile, Target, read_grid
from fedgrass.simulation.grids.grid_keys import TRAINING_NAMES
from fedgrass.simulation.simulation_spec import SimulationSpec

BASE = SimulationSpec(devices=20, settings={"rounds": 3, "momentum": 0.5}, seed=7)


def cells(tmp_path: Path, text: str, *, seeds: int = 2, base: SimulationSpec = BASE) -> list[Cell]:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return cells_of(read_grid(path), base, seeds)


def mistake(tmp_path: Path, text: str, *, seeds: int = 2, base: SimulationSpec = BASE) -> str:
    with pytest.raises(SettingsError) as caught:
        cells(tmp_path, text, seeds=seeds, base=base)
    message = str(caught.value)
    assert message.startswith(("--grid ", "--seed"))
    assert "\n" not in message
    return message


def test_the_cells_are_all_combinations_in_the_order_of_the_file(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        """
        rounds = [5, 10]
        training.learning_rate = [0.1, 0.2]
        count = 8
        selection = "random"
        """,
    )
    assert [cell.name for cell in found] == [
        "rounds=5, learning_rate=0.1",
        "rounds=5, learning_rate=0.2",
        "rounds=10, learning_rate=0.1",
        "rounds=10, learning_rate=0.2",
    ]
    last = found[-1]
    assert (last.settings.rounds, last.settings.count, last.settings.selection) == (10, 8, "random")
    assert last.settings.training == {"momentum": 0.5, "learning_rate": 0.2}
    assert last.values == {
        "rounds": 10,
        "training.learning_rate": 0.2,
        "count": 8,
        "selection": "random",
    }


def test_a_key_sets_the_run_the_training_the_task_the_fleet_or_the_simulation(tmp_path: Path) -> None:
    (found,) = cells(
        tmp_path,
        """
        devices = 30
        task = "noise"
        epochs = 4
        vectorize = "never"
        settings.deadline_seconds = 60
        task_options.size = 10
        fleet.dropout = 0.1
        aggregation = "fedadam"
        aggregation_options.server_rate = 0.5
        """,
    )
    spec = found.spec
    assert (spec.devices, spec.task, spec.vectorize, spec.task_options) == (
        30,
        "noise",
        "never",
        {"size": 10},
    )
    assert (found.settings.deadline_seconds, found.settings.training["epochs"]) == (60, 4)
    assert found.settings.aggregation_options == {"server_rate": 0.5}
    assert spec.fleet.dropout == 0.1
    assert found.name == "the only cell"


def test_named_cells_are_combined_with_all_values(tmp_path: Path) -> None:
    found = cells(
        tmp_path,
        """
        rounds = [5, 10]
        [[cell]]
        name = "all"
        [[cell]]
        name = "random, over-selected"
        selection = "random"
        count = 8
        over_selection = 1.3
        """,
    )
    assert [cell.name for cell in found] == [
        "all, rounds=5",
        "all, rounds=10",
        "random, over-selected, rounds=5",
        "random, over-selected, rounds=10",
    ]
    assert found[2].settings.over_selection == 1.3


def test_training_is_a_field_of_the_simulation_if_its_values_are(tmp_path: Path) -> None:
    found = cells(tmp_path, 'training = ["real", "curve"]')
    assert [cell.spec.training for cell in found] == ["real", "curve"]


def test_each_seed_is_a_simulation_of_its_own(tmp_path: Path) -> None:
    (found,) = cells(tmp_path, "rounds = 5")
    assert [found.with_seed(number).seed for number in range(3)] == [7, 8, 9]


def test_a_target_is_reached_from_either_side() -> None:
    assert Target(value=0.9).is_reached_by(0.9)
    assert not Target(value=0.9).is_reached_by(0.89)
    assert Target(metric="loss", value=0.5, lower_is_better=True).is_reached_by(0.4)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("round = [1, 2]", "did you mean 'rounds'?"),
        ("learning_rat = [0.1]", "did you mean 'learning_rate'?"),
        ("training.learning_rat = [0.1]", "did you mean 'learning_rate'?"),
        ("dropout = [0.1]", "write fleet.dropout"),
        ("fleet.dropuot = [0.1]", "did you mean 'dropout'?"),
        ("device = [10]", "did you mean 'devices'?"),
        ("zzz = [1]", "docs/settings.md has those of a run"),
        ('task = ["digit"]', "did you mean 'digits'?"),
        ("seed = [1, 2]", "set it by --seed, and the number of seeds by --seeds"),
        ("fleet = [1]", "fleet.NAME = [...]"),
        ("rounds = []", "rounds is an empty list"),
        ("rounds = [1, 2, 1]", "the value 1 twice"),
        ("rounds = [1, 0]", "the cell 'rounds=0': the run's rounds is 0: it takes a whole number from 1"),
        ('rounds = ["ten"]', "the run's rounds is 'ten'"),
        ("devices = [-1]", "the simulation's devices is -1"),
        ('selection = ["fastets"]', "one of:"),
        ("count = [5]", "its selection 'all' asks every device"),
        ('fleet.dropout = ["often"]', "dropout"),
        ("fleet.dropout = [2.0]", "dropout"),
        ("epochs = [1]\ntraining.epochs = [2]", "training.epochs is set twice"),
        ('rounds = [1]\n[[cell]]\nname = "a"\nrounds = 2', "set both by [[cell]] 'a' and above it"),
        ('[[cell]]\nname = "a"\nround = 2', "[[cell]] 'a': 'round' is no setting"),
        ("[[cell]]\nrounds = 2", "[[cell]] number 1 has no name"),
        ('[[cell]]\nname = "a"\n[[cell]]\nname = "a"', "two [[cell]] tables have the name 'a'"),
        ('[[cell]]\nname = "a"\n[[cell]]\nname = "b"', "the cells 'a' and 'b' are the same simulation"),
        ("cell = 3", "write [[cell]]"),
        ("", "there is no setting in it"),
        ("rounds = [1, 2", "is not valid TOML"),
        ("rounds = 1\n[target]\nvalu = 0.9", "did you mean 'value'?"),
        ("rounds = 1\n[target]\nvalue = nan", "it takes a finite number"),
        ('rounds = 1\n[batch]\nqueue = "q"\ndefinition = "d"\nfolder = "/tmp"', "s3://BUCKET/FOLDER"),
        ('rounds = 1\n[ray]\nadress = "h:1"', "did you mean 'address'?"),
        ("a.b.c.d.e = 1", "no setting is so deep"),
        ('thing_group = "halls"', "cannot be simulated"),
    ],
)
def test_a_mistake_is_named_with_the_way_out(tmp_path: Path, text: str, named: str) -> None:
    assert named in mistake(tmp_path, text)


def test_too_many_simulations_are_counted_and_the_way_to_fewer_is_shown(tmp_path: Path) -> None:
    values = list(range(1, 102))
    message = mistake(tmp_path, f"rounds = {values}\nepochs = {values}", seeds=3)
    assert "it has 30,603 simulations (101 of rounds x 101 of epochs x 3 seeds); at most 10,000" in message
    assert "shorten a list, lower --seeds" in message


@pytest.mark.parametrize("seeds", [0, 1001])
def test_a_number_of_seeds_out_of_range_is_refused(tmp_path: Path, seeds: int) -> None:
    assert f"--seeds is {seeds}; it takes a whole number from 1 to 1,000" in mistake(
        tmp_path, "rounds = 1", seeds=seeds
    )


def test_seeds_beyond_the_largest_are_refused(tmp_path: Path) -> None:
    base = SimulationSpec(seed=2**32 - 1)
    assert "leaves no room for 2 seeds" in mistake(tmp_path, "rounds = 1", base=base)


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"--grid .*grid\.toml cannot be read: No such file"):
        read_grid(tmp_path / "grid.toml")


def test_the_training_settings_without_a_table_are_those_of_the_tasks() -> None:
    assert set(TRAINING_NAMES) == set(TrainingSettings.__struct_fields__) - {"seed"}


@settings(max_examples=20)
@given(
    st.dictionaries(
        st.sampled_from(["rounds", "epochs", "count", "devices"]),
        st.lists(st.integers(1, 1000), min_size=1, max_size=2, unique=True),
        min_size=1,
    )
)
def test_there_are_as_many_cells_as_combinations_and_no_two_are_equal(axes: dict[str, list[int]]) -> None:
    path = Path("grid.toml")
    grid = GridFile(
        path=path,
        axes={(name,): list(values) for name, values in axes.items()} | {("selection",): ["random"]},
    )
    found = cells_of(grid, BASE, 1)
    expected = math.prod(len(values) for values in axes.values())
    assert len({str(cell.spec) for cell in found}) == len({cell.name for cell in found}) == expected
