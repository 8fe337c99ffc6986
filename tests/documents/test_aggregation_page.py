"""docs/aggregation.md lists every strategy and option, and its example of a custom strategy works."""

import re
from pathlib import Path

import pytest

from fedgrass.federation.aggregation import STRATEGIES
from fedgrass.federation.settings_parser import parse_settings
from tests.documents.documented_fields import field_words
from tests.documents.test_documents import ROOT, rows, spelled
from tests.fakes.small_average import average
from tests.unit.federation.aggregation.test_own_strategies import three

PAGE = (ROOT / "docs" / "aggregation.md").read_text()


def test_the_page_has_each_strategy_with_its_passes_and_what_the_server_keeps() -> None:
    documented = {name.strip("`"): (passes, kept) for name, _, passes, kept in rows(PAGE, "`aggregation`")}
    assert documented == {
        name: ("2" if strategy.survey else "1", str(len(strategy.state)))
        for name, strategy in STRATEGIES.items()
    }


def test_the_page_has_each_option_with_what_it_takes_and_its_default() -> None:
    documented = {
        (strategy.strip("`"), option.strip("`")): (takes, default)
        for option, strategy, takes, default, _ in rows(PAGE, "option")
    }
    assert documented == {
        (name, option): (said, spelled(value))
        for name, strategy in STRATEGIES.items()
        for option, (said, value) in field_words(type(strategy)).items()
    }


def test_the_example_of_a_custom_strategy_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = re.search(r"```python\n(# cautious.py\n.*?)```", PAGE, re.DOTALL)
    assert found
    (tmp_path / "mine_of_the_page.py").write_text(found[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    made = average(three(2, 6), examples=[1_000, 9_999], aggregation="mine_of_the_page:Cautious")
    assert made["w"].tolist() == [2.0] * 3


def test_what_a_strategy_needs_of_the_training_goes_to_the_devices_unless_the_run_says_another() -> None:
    settings = {"task": "digits", "aggregation": "fedprox", "aggregation_options": {"proximal": 0.5}}
    assert parse_settings(settings).training_of(1) == {"proximal": 0.5}
    own = parse_settings({**settings, "training": {"proximal": 0.1, "epochs": 2}})
    assert own.training_of(1) == {"proximal": 0.1, "epochs": 2}
    assert parse_settings({"task": "digits"}).training_of(1) == {}
