"""Custom strategies: what is read, packed and kept, and what is refused before anything is uploaded."""

import os
import zipfile
from pathlib import Path

import pytest

import package
from fedgrass.console.strategies import strategy_check
from fedgrass.console.strategies.custom_strategies import (
    LIST_FILE,
    CustomStrategy,
    chosen_strategies,
    packed_strategies,
    read_strategy,
    write_files,
)
from fedgrass.console.strategies.deployed_strategies import check_uses
from fedgrass.console.strategies.strategy_check import checked
from fedgrass.federation.errors import SettingsError

GOOD = """
import numpy as np
from fedgrass.federation.aggregation import Strategy

class Half(Strategy, frozen=True):
    def step(self, model, change, state, turn):
        return model + np.float64(0.5) * change
"""


def module(folder: Path, name: str, text: str = GOOD) -> Path:
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return file


def strategy(name: str, *classes: str) -> CustomStrategy:
    return CustomStrategy(name, {f"{name}.py": b"x"}, [f"{name}:{one}" for one in classes])


def test_a_file_is_packed_at_the_top_of_the_zip_and_found_there_again(tmp_path: Path) -> None:
    (one,) = checked([read_strategy(module(tmp_path, "half.py"))])
    assert one.classes == ["half:Half"]
    entries = write_files({"half": one}, tmp_path / "packed")
    package.build_functions(tmp_path / "code.zip", extra=entries)
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        assert archive.read("half.py") == GOOD.encode()
        assert packed_strategies(archive) == {"half": one}
        assert "cloud_functions/averager.py" in archive.namelist()


def test_a_package_comes_without_its_tests_caches_and_hidden_files(tmp_path: Path) -> None:
    for name in ("__init__.py", "a/__init__.py", "tests/test_a.py", "__pycache__/x.pyc", ".git/config"):
        module(tmp_path / "steps", name, "")
    module(tmp_path / "steps", "a/deep.py")
    module(tmp_path / "steps", "table.json", "{}")
    (found,) = checked([read_strategy(tmp_path / "steps")])
    assert sorted(found.files) == [
        "steps/__init__.py", "steps/a/__init__.py", "steps/a/deep.py", "steps/table.json",
    ]  # fmt: skip
    assert found.classes == ["steps.a.deep:Half"]


def test_the_same_strategies_give_the_same_bytes(tmp_path: Path) -> None:
    built = []
    for place, time in (("one", 1_000_000_000), ("two", 1_500_000_000)):
        file = module(tmp_path / place, "half.py")
        file.chmod(0o600)
        os.utime(file, (time, time))
        (one,) = checked([read_strategy(file)])
        entries = write_files({"half": one}, tmp_path / place / "packed")
        package.build_functions(tmp_path / f"{place}.zip", extra=entries)
        built.append((tmp_path / f"{place}.zip").read_bytes())
    assert built[0] == built[1]


def test_without_strategies_the_zip_is_what_it_was(tmp_path: Path) -> None:
    assert write_files({}, tmp_path) == []
    package.build_functions(tmp_path / "code.zip")
    with zipfile.ZipFile(tmp_path / "code.zip") as archive:
        assert LIST_FILE not in archive.namelist()
        assert packed_strategies(archive) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("numpy.py", "already has a module 'numpy'"),
        ("json.py", "already has a module 'json'"),
        ("cloud_functions.py", "already has a module 'cloud_functions'"),
        ("fedgrass/__init__.py", "already has a module 'fedgrass'"),
        ("my-half.py", "'my-half' cannot be the name of a module"),
        ("héros.py", "cannot be the name of a module"),
        ("half.ipynb", "is not a Python file"),
        ("half/deep.py", "is a folder without __init__.py"),
    ],
)
def test_what_cannot_be_a_module_of_the_averager_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    file = module(tmp_path, name)
    with pytest.raises(SettingsError, match=reason):
        read_strategy(file if file.parent == tmp_path else file.parent)


def test_a_missing_path_a_part_of_a_package_and_compiled_code_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"half\.py cannot be read: No such file"):
        read_strategy(tmp_path / "half.py")
    with pytest.raises(SettingsError, match="is not a Python file"):
        read_strategy(Path("/dev/null"))
    init = module(tmp_path / "steps", "__init__.py")
    with pytest.raises(SettingsError, match=f"give its folder, {init.parent}"):
        read_strategy(init)
    module(tmp_path / "steps", "fast.so", "ELF")
    with pytest.raises(SettingsError, match=r"fast\.so is compiled for this machine"):
        read_strategy(init.parent)


def test_a_package_of_too_many_files_or_bytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        module(tmp_path / "steps", f"part_{number}.py", "x = 1\n" * 10)
    module(tmp_path / "steps", "__init__.py", "")
    monkeypatch.setattr("fedgrass.console.strategies.custom_strategies._MOST_FILES", 3)
    with pytest.raises(SettingsError, match="has 4 files, and 3 are allowed"):
        read_strategy(tmp_path / "steps")
    monkeypatch.undo()
    monkeypatch.setattr("fedgrass.console.strategies.custom_strategies._LARGEST", 100)
    with pytest.raises(SettingsError, match="larger than the limit of 100 bytes"):
        read_strategy(tmp_path / "steps")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import torch", "bad imports 'torch', which is not there: the averager has"),
        ("import fedgrass.console.stack", "bad imports 'fedgrass.console'"),
        ("from components.trainer.tasks import noise", "bad imports 'components'"),
        ("import yaml", "bad imports 'yaml'"),
        ("x = 1", "bad defines no strategy: derive a class"),
        ("from fedgrass.federation.aggregation.means import Mean", "bad defines no strategy"),
        ("def broken(:", "bad.py is not Python 3.12"),
        ("raise ValueError('no luck')", "bad cannot be imported: ValueError: no luck"),
        ("raise SystemExit(3)", "bad cannot be imported: SystemExit: 3"),
        ("import os; os._exit(9)", "ended the process, exit code 9"),
        (GOOD + "    reads = 'rows'\n", "bad:Half cannot be used: its reads is 'rows'"),
    ],
)
def test_a_module_that_the_averager_could_not_use_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        checked([read_strategy(module(tmp_path, "bad.py", text))])
    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_import_that_does_not_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy_check, "IMPORT_SECONDS", 0.5)
    with pytest.raises(SettingsError, match=r"importing bad did not end within 0\.5 s"):
        checked([read_strategy(module(tmp_path, "bad.py", "while True: pass"))])


def test_a_module_that_prints_does_not_disturb_the_check(tmp_path: Path) -> None:
    (found,) = checked([read_strategy(module(tmp_path, "loud.py", "print('{}')\n" + GOOD))])
    assert found.classes == ["loud:Half"]


def test_deployed_strategies_stay_given_ones_replace_and_named_ones_go() -> None:
    deployed = {name: strategy(name, "A") for name in ("one", "two", "three")}
    newer = strategy("two", "A", "B")
    chosen = chosen_strategies(deployed, [newer, strategy("four", "C")], ["three"])
    assert chosen == {"one": deployed["one"], "two": newer, "four": strategy("four", "C")}
    assert chosen_strategies(deployed, [], []) == deployed


@pytest.mark.parametrize(
    ("given", "without", "reason"),
    [
        (["two", "two"], [], "--strategy names two modules 'two'"),
        (["two"], ["two"], "'two' is in both --strategy and --without-strategy"),
        ([], ["on"], "--without-strategy 'on' is not deployed: did you mean 'one'"),
    ],
)
def test_contradictions_are_refused(given: list[str], without: list[str], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        chosen_strategies({"one": strategy("one", "A")}, [strategy(name, "A") for name in given], without)


def test_removing_from_a_stack_without_strategies_is_refused() -> None:
    with pytest.raises(SettingsError, match="'one' is not deployed: no custom strategy is deployed"):
        chosen_strategies({}, [], ["one"])


def test_a_living_run_keeps_its_strategy_by_name() -> None:
    before = {"one": strategy("one", "A", "B"), "two": strategy("two", "C")}
    uses = {"spring": "one:A", "summer": "weighted_mean", "autumn": "cloud_functions.mine:D"}
    check_uses(uses, before, {"one": strategy("one", "A")})
    with pytest.raises(SettingsError, match=r"'spring' uses one:A\. Keep it, or cancel the runs"):
        check_uses(uses, before, {"one": strategy("one", "B"), "two": before["two"]})
    with pytest.raises(SettingsError, match="'spring' uses one:A"):
        check_uses(uses, before, {})
