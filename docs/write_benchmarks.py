"""Write docs/benchmarks.md, its pictures and the figures of README.md from docs/benchmarks.json.

    python docs/write_benchmarks.py

Benchmarks write the record with --record; `make bench OPTIONS=--record` does both.
"""

import sys
from pathlib import Path

from benchmarks.measuring import record
from benchmarks.pages.benchmark_page import written
from benchmarks.pages.benchmark_pictures import draw
from benchmarks.pages.readme_figures import with_figures

PAGE = Path(__file__).with_name("benchmarks.md")
README = Path(__file__).parents[1] / "README.md"
_USAGE = 2  # exit code


def main() -> None:
    """Write all."""
    try:
        entries = record.read()
    except record.RecordFault as error:
        print(f"write_benchmarks: {error}", file=sys.stderr)
        sys.exit(_USAGE)
    PAGE.write_text(written(entries), encoding="utf-8")
    README.write_text(with_figures(README.read_text(encoding="utf-8"), entries), encoding="utf-8")
    draw(entries)


if __name__ == "__main__":
    main()
