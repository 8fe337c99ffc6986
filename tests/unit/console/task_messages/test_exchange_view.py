"""What the operator sees of the messages: lines in a log, a table on a terminal."""

import io
import logging

from rich.console import Console

from fedgrass.console.task_messages.content_files import StoredContent
from fedgrass.console.task_messages.exchange_view import ExchangeView, LogToView
from fedgrass.console.task_messages.message_outcomes import Failure, Reply
from fedgrass.console.task_messages.message_queue import Letter


def letters(*devices: str, type_: str = "train", group: str = "3") -> list[Letter]:
    content = StoredContent("a" * 64, 1_000, 2_000_000)
    return [
        Letter(id=device, device=device, type=type_, group=group, ttl=60, created_at=0, content=content)
        for device in devices
    ]


def view_of(*, terminal: bool = False) -> tuple[ExchangeView, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=200, force_terminal=terminal, color_system=None)
    return ExchangeView(console, "run-1", clock=lambda: 10.0), out


def test_a_log_has_a_line_when_messages_are_sent_and_one_when_all_have_an_outcome() -> None:
    view, out = view_of()
    with view:
        view.stored(2_000_000)
        view.sent(1, letters("a", "b"), adopted=False)
        view.collected(1, "a", Reply([], [], 1_500_000))
        view.collected(1, "b", Failure("failed", "KeyError: 'x'"))
    assert out.getvalue().splitlines() == [
        "round 1: train 3 sent to 2 devices, 4.00 MB to download, 2.00 MB uploaded",
        "round 1: b failed: KeyError: 'x'",
        "round 1: 1 replied, 1 failed, 1.50 MB, in 0.00 s",
    ]


def test_a_terminal_shows_the_rounds_with_their_counts() -> None:
    view, _ = view_of(terminal=True)
    view.sent(4, letters("a", "b", type_="query.histogram"), adopted=True)
    view.collected(4, "a", Reply([], [], 500_000))
    out = io.StringIO()
    Console(file=out, width=150, color_system=None).print(view._render())
    assert "query.histogram 3 (of the earlier process)" in out.getvalue()
    assert "0.00/0.50" in out.getvalue()


def test_the_text_of_a_device_or_an_app_is_one_harmless_line() -> None:
    view, out = view_of()
    view.sent(1, letters("a"), adopted=False)
    view.collected(1, "a", Failure("failed", "[red]\x1b[31m\nsecond"))
    assert "\x1b" not in out.getvalue()
    assert len(out.getvalue().splitlines()) == 3
    assert "[red]" in out.getvalue()


def test_a_reason_is_shown_to_its_end_where_the_file_of_the_traceback_is() -> None:
    view, out = view_of()
    view.sent(1, letters("a"), adopted=False)
    reason = f"KeyError: {'x' * 470}; traceback: failures/1.txt"
    view.collected(1, "a", Failure("failed", reason))
    assert f"round 1: a failed: {reason}" in out.getvalue().splitlines()


def test_why_messages_wait_is_said_once() -> None:
    view, out = view_of()
    for _ in range(3):
        view.held_up("run 'run-1' is PAUSED")
    assert out.getvalue().count("PAUSED") == 1


def test_flowers_log_lines_appear_without_empty_ones() -> None:
    view, out = view_of()
    logger = logging.getLogger("tests.flower-log")
    logger.propagate = False
    logger.setLevel(logging.DEBUG)
    handler = LogToView(view)
    logger.addHandler(handler)
    for text in ("", "[ROUND 1/3]", "\t└──> Aggregated: {}", "first\nsecond"):
        logger.info(text)
    logger.debug("hidden")
    logger.removeHandler(handler)
    assert out.getvalue().splitlines() == [
        "[ROUND 1/3]",
        "  └──> Aggregated: {}",
        "first",
        "second",
    ]


def test_rounds_that_ended_long_ago_are_forgotten() -> None:
    view, _ = view_of(terminal=True)
    for number in range(1, 40):
        view.sent(number, letters("a"), adopted=False)
        view.collected(number, "a", Reply([], [], 1))
    assert len(view._lines) < 20
