"""Where the real data sets are, which no test copies into the project."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("FEDGRASS_DATA") or Path(__file__).parents[2] / "shared" / "data")


def real_data(name: str) -> Path:
    """Return the folder of a data set; the test is skipped where it is not there."""
    folder = FOLDER / name
    if not folder.is_dir():
        pytest.skip(f"there is no {folder}: name the folder of the data sets in FEDGRASS_DATA")
    return folder
