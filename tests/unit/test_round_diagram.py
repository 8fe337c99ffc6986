"""The diagram in the docs is the table that moves the rounds."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_diagram_in_the_docs_is_drawn_from_the_table() -> None:
    drawn = runpy.run_path(str(DOCS / "draw_round.py"))["drawn"]
    page = (DOCS / "round.md").read_text()
    assert drawn(page) == page
    assert "OPEN --> ABANDONED" in page
