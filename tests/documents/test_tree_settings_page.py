"""docs/own_task.md lists the settings of trees with their values and defaults, and its example works."""

import re
from pathlib import Path

import numpy as np
import pytest

from components.trainer.tasks.registry import load_task
from components.trainer.trees import TreeSettings
from tests.documents.documented_fields import field_words
from tests.documents.test_documents import ROOT, rows, spelled

PAGE = (ROOT / "docs" / "own_task.md").read_text()


def test_the_page_has_each_setting_with_what_it_takes_and_its_default() -> None:
    documented = {name.strip("`"): (takes, default) for name, takes, default, _ in rows(PAGE, "tree setting")}
    assert documented == {
        name: (said, spelled(value)) for name, (said, value) in field_words(TreeSettings).items()
    }


def test_the_example_of_the_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n([^`]*XGBoostTask\):[^`]*)```", PAGE)
    (tmp_path / "pumps_of_the_page.py").write_text(example)
    monkeypatch.syspath_prepend(str(tmp_path))
    inputs = np.random.default_rng(0).normal(size=(100, 3))
    np.savetxt(tmp_path / "pumps.csv", np.column_stack([inputs, inputs[:, 0] > 0]), delimiter=",")
    options = {"module": "pumps_of_the_page:Pumps", "file": str(tmp_path / "pumps.csv")}
    task = load_task("pumps", options)
    fit = task.fit(task.initial_weights(0), {"trees_per_round": 5}, lambda _: None, lambda: False)
    assert task.evaluate(fit.weights).metrics["accuracy"] > 0.8
