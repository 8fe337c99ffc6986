"""docs/benchmarks.md, its pictures and the figures of README.md come from the record."""

import re
import runpy
from pathlib import Path

import pytest

from benchmarks.measuring import record
from benchmarks.pages import benchmark_pictures
from benchmarks.pages.benchmark_page import written
from benchmarks.pages.readme_figures import BEGIN, END, with_figures

ROOT = Path(__file__).parents[2]
RUN = "run `python docs/write_benchmarks.py`"


def test_the_page_is_what_the_script_writes() -> None:
    assert (ROOT / "docs" / "benchmarks.md").read_text() == written(record.read()), RUN


def test_the_pictures_are_drawn_from_the_figures_of_the_record() -> None:
    entries = record.read()
    for question in benchmark_pictures.PICTURES.keys() & entries.keys():
        picture = benchmark_pictures.FOLDER / f"{question}.svg"
        assert benchmark_pictures.digest(entries[question]["figures"]) in picture.read_text(), RUN


def section() -> str:
    page = (ROOT / "README.md").read_text()
    return page.partition("\n## How fast\n")[2].partition("\n## ")[0]


def test_every_figure_of_the_readme_comes_from_the_record() -> None:
    page = (ROOT / "README.md").read_text()
    assert with_figures(page, record.read()) == page, RUN
    prose = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", "", section(), flags=re.DOTALL)
    assert re.findall(r"\d[\d.,]* ?(?:s|ms|MB|GB|%|rounds?|times)\b", prose) == [], (
        "a figure outside the marks"
    )


def test_the_script_names_a_record_that_it_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "benchmarks.json").write_text("{")
    monkeypatch.setattr(record.read, "__defaults__", (tmp_path / "benchmarks.json",))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "docs" / "write_benchmarks.py"), run_name="__main__")
    assert ended.value.code == 2
    assert "benchmarks.json is not JSON" in capsys.readouterr().err
