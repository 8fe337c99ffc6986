"""Figures of any structure on the page, and those of the README."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.pages import benchmark_page, benchmark_pictures
from benchmarks.pages.figure_tables import number, rendered
from benchmarks.pages.readme_figures import BEGIN, END, minor, with_figures

MACHINE = {"processor": "Xeon", "cores": 2, "memory_gib": 24.0, "system": "Debian 12", "python": "3.11.7"}
ONE = {
    "s": 0.5,
    "fastest_s": 0.4,
    "slowest_s": 0.7,
    "cpu_s": 0.1,
    "device_cpu_s": 0.02,
    "device_mb": 115.0,
    "idle_mb": 34.0,
    "server_mb": 400.0,
}
SPREAD = {"mean": 0.97, "lowest": 0.96, "highest": 0.98, "missed": 0}


def entry(figures: dict[str, Any], **peers: str | None) -> dict[str, Any]:
    return {
        "figures": figures,
        "command": "python -m benchmarks.any",
        "seeds": [1, 2],
        "peers": peers,
        "versions": {"fedgrass": "0.5.0"},
        "machine": MACHINE,
        "date": "2026-11-30",
        "load": 0.1,
    }


OVERHEAD = entry(
    {
        "1_mb": {
            "1": {"fedgrass": ONE, "flower": None, "flare": None},
            "4": {
                "fedgrass": ONE,
                "flower": {**ONE, "s": 10.0},
                "flare": None,
                "share_of_flowers_seconds": 0.05,
                "share_of_flowers_cpu": 1.0,
            },
        }
    },
    flower="1.42.0",
    flare=None,
)
LINE = {
    "n": 10,
    "model_mb": 100.0,
    "seconds": 0.25,
    "flower_seconds": 0.5,
    "peak_mb": 22,
    "flower_peak_mb": 1200,
    "gb_per_s": 4.0,
    "read_limit_gb_per_s": 17.0,
}
AVERAGING = entry({"sizes": [LINE, {**LINE, "n": 50}]}, flower="1.42.0")


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "-"),
        (True, "True"),
        (3, "3"),
        (12345.0, "12,345"),
        (1234.56, "1,234.6"),
        (0.123456, "0.1235"),
        ("a|b", "a\\|b"),
        (SPREAD, "0.97 (0.96 to 0.98)"),
        ({**SPREAD, "mean": None, "missed": 2}, "missed by 2"),
    ],
)
def test_a_figure_has_four_digits_that_count(value: object, shown: str) -> None:
    assert number(value) == shown


def test_figures_of_any_structure_become_tables() -> None:
    figures = {
        "total_s": 1.5,
        "modes": {"plain": {"s": 1, "accuracy": SPREAD}, "none": None},
        "sizes": [{"n": 1}, {"n": 2, "mb": 3}],
        "seeds": [1, 2],
        "curve": list(range(20)),
        "deep": {"inner": {"x": {"a": 1}, "y": [1]}},
        "empty": {},
    }
    assert rendered(figures).splitlines() == [
        "| figure | value |",
        "| --- | --- |",
        "| total s | 1.5 |",
        "",
        "### modes",
        "",
        "| | s | accuracy |",
        "| --- | --- | --- |",
        "| plain | 1 | 0.97 (0.96 to 0.98) |",
        "| none | - | - |",
        "",
        "### sizes",
        "",
        "| n | MB |",
        "| --- | --- |",
        "| 1 | - |",
        "| 2 | 3 |",
        "",
        "### seeds",
        "",
        "1, 2",
        "",
        "### curve",
        "",
        "20 values, from 0 to 19",
        "",
        "### deep",
        "",
        "#### inner",
        "",
        "##### x",
        "",
        "| figure | value |",
        "| --- | --- |",
        "| a | 1 |",
        "",
        "##### y",
        "",
        "1",
    ]


def test_a_section_says_how_where_and_with_what_it_was_measured() -> None:
    page = benchmark_page.written({"round_overhead": OVERHEAD})
    assert "| 4 | flower | 10 | 0.4 to 0.7 | 0.1 | 0.02 | 34 | 115 | 400 |" in page
    assert "| 4 | flare | - | - | - | - | - | - | - |" in page
    assert "| 4 | 0.05 | 1 |" in page
    assert "`python -m benchmarks.any` on 2026-11-30, load 0.1; fedgrass 0.5.0, flower 1.42.0" in page
    words = " ".join(page.split())
    assert "flare (not installed). Seeds: 1, 2. Xeon, 2 cores, 24 GiB, Debian 12, Python 3.11.7." in words
    assert "Not recorded yet: `averaging`" in page


def test_the_readmes_figures_are_written_between_its_marks() -> None:
    entries = {"round_overhead": OVERHEAD, "averaging": AVERAGING}
    page = with_figures(f"before\n{BEGIN}| 7 | 8 |\n{END}after\n", entries)
    assert "| 7 | 8 |" not in page
    assert page.startswith(f"before\n{BEGIN}")
    assert page.endswith(f"{END}after\n")
    assert "| devices | fedgrass, s | Flower 1.42, s | FLARE (not installed), s |" in page
    assert "| 4 | 0.5 | 10 | - |" in page
    assert "An idle trainer holds 34 MB of memory." in page
    assert "| 50 | 0.25 | 0.5 | 22 | 1,200 |" in page
    assert with_figures(page, entries) == page


def test_a_readme_without_marks_is_left_alone() -> None:
    assert with_figures("text\n", {"averaging": AVERAGING}) == "text\n"


def test_a_version_is_named_by_its_minor_version() -> None:
    assert minor("1.42.0") == "1.42"
    assert minor(None) == "(not installed)"


@pytest.mark.slow
def test_pictures_are_the_same_bytes_each_time_and_name_their_figures(tmp_path: Path) -> None:
    start = entry({"parts": {"clone_s": None, "build_s": 1.0, "first_round_s": 2.0, "total_s": 3.0}})
    learning = entry({"iid": {"accuracy": SPREAD, "rounds": 5}, "cifar10": None})
    entries = {
        "round_overhead": OVERHEAD,
        "averaging": AVERAGING,
        "start": start,
        "learning": learning,
    }
    for folder in ("one", "two"):
        benchmark_pictures.draw(entries, tmp_path / folder)
    for question in benchmark_pictures.PICTURES:
        text = (tmp_path / "one" / f"{question}.svg").read_text()
        assert benchmark_pictures.digest(entries[question]["figures"]) in text
        assert text == (tmp_path / "two" / f"{question}.svg").read_text()
