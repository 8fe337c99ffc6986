"""The table of options: any file is rows or a refusal, and rows are read as they were written."""

import csv
import io
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedgrass.console.device_options.options_table import Row, WrongRows, read_table
from fedgrass.federation.errors import SettingsError

NAMES = st.from_regex(r"[a-zA-Z0-9:_-]{1,20}", fullmatch=True)
OPTIONS = st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,9}", fullmatch=True)
# A cell is stripped, and an empty one removes the option.
VALUES = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=40).filter(
    lambda text: text.isprintable() and text == text.strip()
)


def rows_in(content: bytes) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "devices.csv"
        file.write_bytes(content)
        return read_table(file)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(max_size=200).map(lambda text: f"thing,option,value\n{text}".encode()),
    )
)
def test_any_file_is_rows_or_refused(content: bytes) -> None:
    found: list[Row] = []
    with suppress(SettingsError):  # any other error fails the test
        found = rows_in(content)
        assert found
    assert all(row.thing and row.task and row.option for row in found)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@given(rows=st.dictionaries(st.tuples(NAMES, NAMES, OPTIONS), VALUES, min_size=1, max_size=8))
def test_what_a_spreadsheet_writes_is_read_back(
    delimiter: str, rows: dict[tuple[str, str, str], str]
) -> None:
    written = {key: value for key, value in rows.items() if ":" not in key[1]}
    if not written:
        return
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["thing", "option", "value"])
    for (thing, task, option), value in written.items():
        writer.writerow([thing, f"{task}.{option}", value])
    found = rows_in(text.getvalue().encode())
    assert {(row.thing, row.task, row.option): row.text or "" for row in found} == written


def test_options_of_flower_apps_have_hyphens_and_a_colon() -> None:
    (row,) = rows_in(b"thing,option,value\npress-1,flower:mean-of.node-partition-id,3\n")
    assert (row.task, row.option, row.text) == ("flower:mean-of", "node-partition-id", "3")


@pytest.mark.parametrize("option", ["flower:.node-x", "other:mean.x", "flower:a:b.x", "flower:mean.-x"])
def test_what_is_no_option_of_a_flower_app_is_refused(option: str) -> None:
    with pytest.raises(WrongRows):
        rows_in(f"thing,option,value\npress-1,{option},3\n".encode())
