"""The views of a run with a ServerApp: the live view, the table, the picture."""

from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from fedgrass.console.runs import history, history_picture, run_display, run_start
from fedgrass.console.runs.fleet_operator import Operator, RoundRecord
from fedgrass.console.runs.live_view import LiveView
from fedgrass.federation import messages, topics
from fedgrass.federation.errors import SettingsError
from fedgrass.federation.messages import Completion, Status
from fedgrass.federation.rounds import Round
from fedgrass.federation.runs import Run
from fedgrass.federation.topics import Kind
from tests.fakes.message_fleet import MessageFleet, started
from tests.fakes.small_fleet import FLEET, RUN


class OperatorOf:
    """The operator's view of a fleet in memory."""

    def __init__(self, fleet: MessageFleet) -> None:
        self._fleet = fleet

    def rounds(self, run: Run, first: int = 1) -> list[RoundRecord]:
        return [
            RoundRecord(found, list(self._fleet.rounds.participants(found)))
            for found in self.rounds_alone(run, first)
        ]

    def rounds_alone(self, run: Run, first: int = 1) -> list[Round]:
        return list(self._fleet.rounds.rounds_from(run.name, first, run.round))


def after_rounds() -> MessageFleet:
    """Return a fleet after rounds of training, of evaluation, and without replies; a fourth one is open."""
    fleet = started(devices=2)
    fleet.push(kind="train", group="1")
    for device in fleet.names:
        fleet.answers(device, metrics={"train_loss": 0.5, "a": 1.0, "b": 2.0, "c": 3.0}, train_metrics={})
    fleet.push(kind="evaluate", group="1")
    for device in fleet.names:
        fleet.answers(device, metrics={"eval_loss": 0.25, "eval_acc": 0.75}, train_metrics={})
    fleet.push(kind="query.histogram_of_all_the_sensors")
    for device in fleet.names:
        fleet.status(device, "declined", reason="busy with run-2")
    fleet.push(kind="train", group="2")
    return fleet


def summaries_of(fleet: MessageFleet) -> list[dict[str, Any]]:
    return [history.summarize(record, {}) for record in OperatorOf(fleet).rounds(fleet.run())]


def printed(renderable: object, width: int = 80) -> str:
    console = Console(record=True, width=width)
    console.print(renderable)
    return console.export_text()


def test_the_table_shows_what_each_round_was_for_and_the_metrics_as_the_app_names_them() -> None:
    shown = " ".join(printed(history.table(summaries_of(after_rounds()))).split())
    for text in (
        "1 train 1",
        "2 evaluate 1",
        "4 train 2 open",
        "eval_acc 0.750, eval_loss",
        "a 1.000, b 2.000, and",
        "2 / 2 / 0",
    ):
        assert text in shown
    assert "…" in shown
    assert "accuracy" not in shown


@pytest.mark.parametrize("width", [80, 60])
def test_no_figure_of_the_table_is_cut_off(width: int) -> None:
    shown = printed(history.table(summaries_of(after_rounds())), width)
    assert shown.count("…") <= 1  # of the aim that was shortened
    assert "0.750" in shown


def test_the_status_of_a_run_counts_its_open_rounds_and_says_why_devices_declined(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = after_rounds()
    run_display.show_run(cast(Operator, OperatorOf(fleet)), fleet.run())
    shown = capsys.readouterr().out
    assert "run run-1: RUNNING" in shown
    assert "1 open rounds of its ServerApp's messages" in shown
    assert "round 3.1 thing-0, thing-1 declined: busy with run-2" in shown


def test_a_run_without_an_open_round_waits_for_its_server_app_until_it_has_ended(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fleet = started()
    run_display.show_run(cast(Operator, OperatorOf(fleet)), fleet.run())
    assert capsys.readouterr().out == (
        "run run-1: RUNNING\n2023-11-14 22:13:20 UTC start by -\nwaiting for its ServerApp\n"
    )
    fleet.request("finish")
    run_display.show_run(cast(Operator, OperatorOf(fleet)), fleet.run())
    assert capsys.readouterr().out.splitlines()[0] == "run run-1: SUCCEEDED the ServerApp has ended"


def test_a_model_for_a_run_with_a_server_app_is_refused() -> None:
    settings = ("task=flower:x", "mode=server_app")
    with pytest.raises(SettingsError, match="takes its model from there: leave --model out"):
        run_start.start("fedgrass", "text", name="a", settings=settings, model=Path("m.safetensors"))


def test_the_picture_shows_the_apps_own_accuracy_at_the_rounds_that_measured_it() -> None:
    summaries = summaries_of(after_rounds())
    assert history_picture.metric_of(summaries, {}) == "eval_acc"
    panel = history_picture.make_figure(RUN, summaries, {}).axes[0]
    assert panel.get_ylabel() == "eval_acc"
    assert {float(x) for line in panel.lines for x in cast(Any, line.get_xdata())} == {2.0}


def test_without_a_share_the_picture_shows_a_loss() -> None:
    summaries = summaries_of(after_rounds())[:1]
    assert history_picture.metric_of(summaries, {}) == "train_loss"


# ---------------------------------------------------------------- live view
def view() -> tuple[LiveView, Console]:
    console = Console(record=True, width=100, force_terminal=False)
    return LiveView(console, RUN, rounds=None), console


def shown_live(live: LiveView) -> str:
    return printed(live._render(), 120)


def test_the_live_view_shows_what_a_device_was_asked_for_and_does_not_speak_of_pytorch() -> None:
    fleet = started(devices=1)
    fleet.push(kind="query.histogram", group="7")
    live, _ = view()
    work = {"run": RUN, "round": 1, "attempt": 1}
    for topic, payload in fleet.publisher.published:
        live.receive(topic, payload)
    assert "query.histogram 7" in shown_live(live)
    topic = topics.of_device(FLEET, "thing-0", Kind.STATUS)
    live.receive(topic, messages.encode(Status(**work, state="accepted")))  # type: ignore[arg-type]
    assert "PyTorch" not in shown_live(live)
    done = Completion(
        **work,  # type: ignore[arg-type]
        round_id="run-1/1/1",
        announced_at=1,
        bytes=0,
        checksum="0" * 32,
        examples=3,
        train_seconds=1.5,
    )
    live.receive(topics.of_device(FLEET, "thing-0", Kind.COMPLETE), messages.encode(done))
    assert "worked 1.50 s" in shown_live(live)


def test_the_live_view_of_a_run_of_unknown_length_counts_its_rounds() -> None:
    live, console = view()
    live.round_closed(3, "train 3")
    assert "3/?" in shown_live(live)
    fleet = started(devices=1)
    fleet.push(group="1")
    fleet.all_answer()
    for topic, payload in fleet.publisher.published:
        live.receive(topic, payload)
    shown = console.export_text()
    assert "opened: train 1 sent to 1 device" in shown
    assert "closed: 1 of 1 devices answered train 1" in shown
