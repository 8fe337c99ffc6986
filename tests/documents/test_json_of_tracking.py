"""The JSON of `fedgrass run track`, and the sinks on the page on tracking."""

import json
import re
from pathlib import Path

import msgspec

from fedgrass.console.tracking.run_tracking import SinkReport, TrackReport
from fedgrass.console.tracking.tracking_sink import _KINDS
from tests.documents.golden_files import golden_text

DOCS = Path(__file__).parents[2] / "docs"
REPORT = TrackReport(
    run="night-1",
    state="RUNNING",
    sinks=[
        SinkReport(sink="jsonl:runs.jsonl", rounds=2, models=1, recorded=3, error=""),
        SinkReport(
            sink="mlflow:http://127.0.0.1:5000", rounds=0, models=0, recorded=0, error="Connection refused"
        ),
    ],
    count=2,
)


def test_the_form_is_that_of_its_golden_file() -> None:
    golden = json.loads(golden_text("run-track"))
    assert msgspec.to_builtins(REPORT) == golden, "a field was renamed or removed: scripts read it"


def test_the_page_has_every_field_of_the_form() -> None:
    section = page("json.md").partition("\n## fedgrass run track\n")[2].partition("\n## ")[0]
    fields = {*TrackReport.__struct_fields__, *SinkReport.__struct_fields__}
    assert [field for field in sorted(fields) if f"`{field}`" not in section] == []


def test_the_page_on_tracking_has_every_sink_and_its_extra() -> None:
    rows = re.findall(r"^\| `(\w+):\w+` \|.*\| (.*) \|$", page("tracking.md"), re.MULTILINE)
    assert [kind for kind, _ in rows] == ["jsonl", "mlflow", "tensorboard", "sagemaker", "otlp"]
    assert {kind for kind, _ in rows} == set(_KINDS)
    for kind, needs in rows:
        extra = _KINDS[kind].extra
        assert (f"the extra `{extra}`" in needs) == bool(extra)


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")
