"""The page of Flower apps: its strategies are those of the installed Flower and of the tests' pairs."""

import re
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="Flower is not installed: pip install -e '.[flower]' -c constraints.txt")
from flwr.server import strategy as former
from flwr.serverapp import strategy as flower

from fedgrass.federation.aggregation import STRATEGIES
from tests.documents.test_documents import rows
from tests.unit.federation.aggregation.test_strategies_beside_flower import PAIRS

PAGE = (Path(__file__).parents[2] / "docs" / "flower.md").read_text()
WAY_2 = "way 2"
NO_STRATEGIES = {"Result", "Strategy"}  # of the module: a result, and the base class
BESIDE_XGBOOST = {"FedXgbBagging": "tree_bagging"}  # tests/unit/device/trees/test_bagging_beside_flower.py


def table() -> dict[str, tuple[str, str]]:
    """Return our strategy and the words on its arguments, by Flower's strategy."""
    return {
        name.strip("`"): (ours.strip("`"), arguments)
        for name, ours, arguments in rows(PAGE, "Flower's strategy")
    }


def test_the_table_has_every_strategy_that_the_installed_flower_has() -> None:
    assert set(table()) == set(flower.__all__) - NO_STRATEGIES


def test_the_page_names_every_strategy_that_only_the_former_api_has() -> None:
    only = set(former.__all__) - set(flower.__all__) - NO_STRATEGIES
    paragraph = PAGE[PAGE.index("`flwr.server.strategy`") :].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", paragraph)) == only


def test_every_counterpart_on_the_page_is_compared_with_flowers_and_the_reverse() -> None:
    counterparts = {name: ours for name, (ours, _) in table().items() if ours != WAY_2}
    assert counterparts == {pair.flowers: pair.ours for pair in PAIRS} | BESIDE_XGBOOST


def test_the_arguments_on_the_page_are_flowers_and_the_options_ours() -> None:
    for name, (ours, words) in table().items():
        if ours == WAY_2 or name == "FedProx":  # whose argument becomes a setting of the training
            continue
        options = set(STRATEGIES[ours].__struct_fields__)
        arguments = getattr(flower, name).__init__.__code__.co_varnames
        for argument, option in re.findall(r"`(\w+)`: `(\w+)`", words):
            assert argument in arguments, f"{name}: {argument}"
            assert option in options, f"{name}: {option}"
        for same in re.findall(r"; `(\w+)`(?=;|$)", words):
            assert same in arguments, f"{name}: {same}"
            assert same in options, f"{name}: {same}"


def test_every_option_that_a_pair_sets_is_on_the_page() -> None:
    for pair in PAIRS:
        ours, words = table()[pair.flowers]
        assert ours == pair.ours
        missing = [option for option in pair.options if f"`{option}`" not in words]
        assert not missing, f"{pair.flowers}: {missing}"
