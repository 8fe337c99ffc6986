"""docs/benchmarks.md, from the record: a section for each question."""

from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.measuring.questions import QUESTIONS
from benchmarks.pages.benchmark_pictures import FOLDER, PICTURES
from benchmarks.pages.figure_tables import in_words, matrix, number, paragraph, rendered, table

_INTRODUCTION = """\
Written by `docs/write_benchmarks.py` from `docs/benchmarks.json`. `make bench` asks all of these questions in
turn, with the peers in the same run and in separate environments. `make bench OPTIONS=--record` writes
the record and this page again; one question is asked by its command, which takes less than a minute with
`--quick`.

A figure is that of one machine. The load is the number of processes that wanted a processor when the
benchmark began: where it is not near 0, other programs ran, and seconds mean less than processor seconds and
ratios. `-` stands for what was not measured, such as a peer that is not installed. Of several seeds there is
the mean, with the lowest and the highest.
"""
_SHARES = ("share_of_flowers_seconds", "share_of_flowers_cpu")


def overhead(figures: Mapping[str, Any]) -> str:
    """Return the tables of the overhead of a round: one for each size of the model."""
    header = ["devices", "system", "seconds a round", "fastest to slowest", "CPU s", "of the device"]
    header += ["idle MB", "device MB", "server MB"]
    parts = []
    for size, cells in figures.items():
        rows = [
            _overhead_row(devices, system, cell.get(system) or {})
            for devices, cell in cells.items()
            for system in ("fedgrass", "flower", "flare")
        ]
        parts.append(f"### A model of {in_words(size)}\n\n{table(header, rows)}")
        shares = {
            devices: {name: cell[name] for name in _SHARES}
            for devices, cell in cells.items()
            if _SHARES[0] in cell
        }
        if shares:
            parts.append(matrix("devices", shares))
    return "\n".join(parts)


def _overhead_row(devices: str, system: str, one: Mapping[str, Any]) -> list[object]:
    spread = f"{number(one['fastest_s'])} to {number(one['slowest_s'])}" if one else None
    columns = ("cpu_s", "device_cpu_s", "idle_mb", "device_mb", "server_mb")
    return [devices, system, one.get("s"), spread, *(one.get(name) for name in columns)]


RENDERERS: dict[str, Callable[[Mapping[str, Any]], str]] = {"round_overhead": overhead}


def section(question: str, title: str, entry: Mapping[str, Any]) -> str:
    """Return the section of a question, from its entry in the record."""
    machine, versions = entry["machine"], {**entry["versions"], **entry["peers"]}
    named = ", ".join(f"{name} {version or '(not installed)'}" for name, version in versions.items())
    parts = [f"## {question}\n\n{title[0].upper()}{title[1:]}.\n"]
    if question in PICTURES:
        parts.append(f"![{title}]({FOLDER.relative_to(FOLDER.parents[1])}/{question}.svg)\n")
    parts.append(RENDERERS.get(question, rendered)(entry["figures"]))
    seeds = f" Seeds: {', '.join(map(str, entry['seeds']))}." if entry["seeds"] else ""
    measured = f"`{entry['command']}` on {entry['date']}, load {entry['load']:g}; {named}.{seeds}"
    parts.append(
        paragraph(
            f"{measured} {machine['processor']}, {machine['cores']} cores, {machine['memory_gib']:g} GiB,"
            f" {machine['system']}, Python {machine['python']}."
        )
    )
    return "\n".join(parts)


def written(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page."""
    parts = ["# Benchmarks\n", *map(paragraph, _INTRODUCTION.split("\n\n"))]
    parts += [section(one.name, one.title, entries[one.name]) for one in QUESTIONS if one.name in entries]
    if missing := [f"`{one.name}`" for one in QUESTIONS if one.name not in entries]:
        parts.append(paragraph(f"Not recorded yet: {', '.join(missing)}."))
    return "\n".join(parts)
