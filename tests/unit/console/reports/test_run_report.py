"""The page of a report: complete in itself, and foreign text in it is text."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import Environment

from fedgrass.console.reports import run_report
from fedgrass.console.reports.report_figures import Collector, ReportFigures
from fedgrass.console.reports.run_report import collect, render, write_report
from fedgrass.console.reports.turnaround_rows import Turnaround
from fedgrass.console.runs.run_costs import run_cost
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.rounds import Participation
from fedgrass.federation.runs import Run, RunAction, RunState
from fedgrass.federation.settings import RunSettings
from tests.fakes.memory_operator import operator_of
from tests.fakes.small_fleet import RUN, SmallFleet
from tests.unit.console.reports.test_report_figures import START, part, round_of, the_run

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "{{ run.name }}",
    "</style><script>alert(1)</script>",
    "<svg/onload=alert(1)>",
    "javascript:alert(1)",
    "&lt;b&gt;",
)
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "header", "main", "section", "h1", "h2", "h3", "p"),
    *("span", "dl", "div", "dt", "dd", "figure", "figcaption", "picture", "source", "img", "table", "thead"),
    *("tbody", "tr", "th", "td", "details", "summary"),
}


class Page(HTMLParser):
    """The elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def figures_with(text: str) -> ReportFigures:
    collector = Collector()
    parts = [
        part(text[:40] or "x", Participation.FAILED, reason=text),
        part("b", Participation.REPLIED, 3),
    ]
    metrics = {"accuracy": 0.5, text or "m": 1.0}
    collector.add(round_of(reason=text, metrics=metrics), parts, {"b": Turnaround(seconds=3, train=2)})
    return collector.figures()


def page_with(text: str, run: Run | None = None) -> str:
    run = run or the_run(reason=text, settings=RunSettings(task="digits", where=text))
    return render(run, figures_with(text), run_cost([], run), [], START)


def assert_harmless(text: str) -> Page:
    page = Page(text)
    for tag, attributes in page.tags:
        assert tag in ALLOWED, tag
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            assert name not in {"href", "style", "srcdoc", "action"}, (tag, name)
            if name in {"src", "srcset"}:
                assert (value or "").startswith("data:image/png;base64,")
    return page


@pytest.mark.parametrize("text", HOSTILE)
def test_html_in_a_name_a_reason_a_setting_or_a_metric_is_shown_and_never_executed(text: str) -> None:
    page = assert_harmless(page_with(text))
    assert page.text.count(text) >= 4


def test_the_check_above_finds_a_page_that_does_not_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    class Careless(Environment):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "autoescape": False})

    monkeypatch.setattr(run_report, "Environment", Careless)
    run_report.page_template.cache_clear()
    with pytest.raises(AssertionError):
        assert_harmless(page_with(HOSTILE[0]))
    run_report.page_template.cache_clear()


@settings(max_examples=25)
@given(st.text(max_size=60))
def test_any_text_leaves_the_page_as_it_is_built(text: str) -> None:
    assert_harmless(page_with(text))


def test_control_and_direction_characters_do_not_reach_the_page() -> None:
    page = page_with("a\x1b[2J\u202eb\x00c")
    assert not re.search("[\x00\x1b\u202e]", page)


def test_the_policy_allows_the_pages_own_style_and_pictures_alone() -> None:
    text = page_with("fine")
    policy = next(a["content"] for tag, a in Page(text).tags if "Content-Security-Policy" in str(a))
    style = re.findall("<style>(.*?)</style>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style[0].encode()).digest()).decode()
    assert policy is not None
    assert policy.split("; ") == [
        "default-src 'none'",
        "img-src data:",
        f"style-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    ]


def test_nothing_refers_to_another_file_or_host() -> None:
    text = page_with("fine")
    assert not re.search(r"https?://|//[a-z]|@import|url\(", text)


def test_who_did_what_is_listed() -> None:
    action = RunAction(at=START, action="pause", by="arn:aws:iam::1:user/<b>ada</b>")
    page = assert_harmless(page_with("fine", the_run(history=(action,))))
    assert "arn:aws:iam::1:user/<b>ada</b>" in page.text
    assert "2023-11-14 22:13:20" in page.text


def test_a_report_is_one_page_and_its_pictures_as_files(tmp_path: Path) -> None:
    fleet = SmallFleet(devices=3, rounds=1)
    fleet.start()
    fleet.status("thing-0", "failed", reason="<b>the disk is full</b>")
    fleet.pass_time(4)
    for device in ("thing-1", "thing-2"):
        fleet.reply(device)
    figures, rounds = collect(operator_of(fleet), fleet.run())
    found = write_report(fleet.run(), figures, rounds, tmp_path / RUN, fleet.now)
    text = Path(found.page).read_text(encoding="utf-8")
    page = assert_harmless(text)
    names = sorted(path.stem for path in (tmp_path / RUN / "report").iterdir())
    assert names == ["bytes", "cost", "devices", "loss", "lost", "participation", "turnaround"]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == len(found.pictures) == len(names)
    assert all(attributes["alt"] for attributes in images)
    assert found.page_bytes == len(text.encode())
    assert "1 of 3 devices were refused or lost" in page.text
    assert "<b>the disk is full</b>" in page.text
    assert figures.mean is not None
    assert figures.mean.seconds == 4


@pytest.fixture
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the drawing, which takes seconds."""
    monkeypatch.setattr(run_report, "png", lambda _picture, _theme: b"png")


@pytest.mark.usefixtures("_undrawn")
def test_a_run_without_rounds_has_a_report_too(tmp_path: Path) -> None:
    run = the_run(state=RunState.RUNNING)
    found = write_report(run, Collector().figures(), [], tmp_path / RUN, START)
    page = assert_harmless(Path(found.page).read_text(encoding="utf-8"))
    assert "No device was refused or lost." in page.text


@pytest.mark.usefixtures("_undrawn")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / RUN).write_bytes(b"")
    with pytest.raises(SettingsError, match=r"report\.html cannot be written: .*--out"):
        write_report(the_run(), Collector().figures(), [], tmp_path / RUN, START)
