"""The figures of README.md's section "How fast", between two marks, from the record."""

from collections.abc import Mapping
from typing import Any

from benchmarks.pages.figure_tables import number, paragraph, table

BEGIN = "<!-- figures written by docs/write_benchmarks.py -->\n"
END = "<!-- end of the figures -->\n"


def with_figures(page: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the page with the current figures between its marks; unchanged if it has none."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{begin}\n{how_fast(entries)}\n{end}{after}" if end else page


def how_fast(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the figures of the section."""
    parts = []
    if entry := entries.get("round_overhead"):
        parts.append(_overhead(entry))
    if entry := entries.get("averaging"):
        parts.append(_averaging(entry))
    parts.append(
        "All figures, with machine, versions and commands: [docs/benchmarks.md](docs/benchmarks.md).\n"
    )
    return "\n".join(parts)


def _overhead(entry: Mapping[str, Any]) -> str:
    cells, peers = entry["figures"]["1_mb"], entry["peers"]
    rows = []
    for devices, cell in cells.items():
        systems = [cell.get(name) or {} for name in ("fedgrass", "flower", "flare")]
        rows.append([devices, *(one.get("s") for one in systems), *(one.get("cpu_s") for one in systems)])
    names = ["fedgrass", f"Flower {minor(peers['flower'])}", f"FLARE {minor(peers['flare'])}"]
    first = cells[next(iter(cells))]
    idle = {name: first[name]["idle_mb"] for name in ("fedgrass", "flower", "flare") if first.get(name)}
    words = {
        "fedgrass": "An idle trainer holds {} MB of memory",
        "flower": "Flower's node {} MB",
        "flare": "FLARE's site {} MB",
    }
    held = ", ".join(words[name].format(round(megabytes)) for name, megabytes in idle.items())
    header = ["devices", *(f"{name}, s" for name in names), *(f"{name}, CPU s" for name in names)]
    text = f"""The cost of a round in addition to the training, with a model of 1 MB, all in one run on a
        machine with {entry["machine"]["cores"]} cores (`{entry["command"]}`): seconds a round, and processor
        seconds per device and round of all processes, which for fedgrass include the emulators of Greengrass
        and of AWS:"""
    return f"{paragraph(text)}\n{table(header, rows)}\n{paragraph(f'{held}.')}"


def _averaging(entry: Mapping[str, Any]) -> str:
    sizes, version = entry["figures"]["sizes"], minor(entry["peers"]["flower"])
    columns = ("n", "seconds", "flower_seconds", "peak_mb", "flower_peak_mb")
    header = ["updates", "fedgrass, s", f"Flower {version}, s", "fedgrass, MB", f"Flower {version}, MB"]
    last = sizes[-1]
    rows = [[line[name] for name in columns] for line in sizes]
    before = f"""The averager, on models of {number(last["model_mb"])} MB read from files, next to Flower's
        own aggregation in the same run (`{entry["command"]}`; updates verified, the new model written with
        its SHA-256):"""
    after = f"""That is {number(last["gb_per_s"])} GB/s at {last["n"]} updates; one core that only reads the
        same files reached {number(last["read_limit_gb_per_s"])} GB/s in that run."""
    return f"{paragraph(before)}\n{table(header, rows)}\n{paragraph(after)}"


def minor(version: str | None) -> str:
    """Return the minor version, such as 1.42."""
    return ".".join(version.split(".")[:2]) if version else "(not installed)"
