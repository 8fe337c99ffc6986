"""`fedgrass watch`: what it prints, when it ends, and what it refuses."""

import json
import os
from typing import Any, Self

import pytest

from fedgrass.console import main, stack
from fedgrass.console.topic_feed import topic_watch
from fedgrass.console.topic_feed.topic_subscription import Link, Received, SubscriptionStatus
from fedgrass.federation.errors import FedgrassError
from tests.documents import golden_files

NOW = 1_700_000_000_000
GOLDEN = golden_files.FOLDER / "watch.jsonl"
PASSED = [
    Received(NOW, "fedgrass/orchard/rounds/apples", b'{"run":"apples","round":1,"device":"d1"}'),
    Received(NOW + 5, "fedgrass/orchard/clients/d1/status", b'{"run":"apples","reason":"\\u001b[31mred"}'),
    Received(NOW + 9, "fedgrass/orchard/clients/d2/heartbeat", b"\x1b[31m no JSON \xff"),
]


class FakeSubscription:
    """A subscription through which `PASSED` comes once."""

    filters: tuple[str, ...] = ()
    status = SubscriptionStatus(link=Link.CONNECTED)
    refusal = ""

    def __init__(self, _address: object, filters: list[str]) -> None:
        type(self).filters = tuple(filters)
        self._left = list(PASSED)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._left.clear()

    def wait_until_connected(self, _seconds: float) -> None:
        if self.refusal:
            raise FedgrassError(self.refusal)

    def take(self, _seconds: float) -> list[Received]:
        taken, self._left = self._left, []
        return taken


@pytest.fixture(autouse=True)
def _stack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack, "outputs", lambda _name: {"Fleet": "orchard"})
    monkeypatch.setattr(topic_watch, "TopicSubscription", FakeSubscription)
    monkeypatch.setattr(FakeSubscription, "status", SubscriptionStatus(link=Link.CONNECTED))


def test_every_message_is_one_printable_line(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["watch", "--count", "3"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        'fedgrass/orchard/rounds/apples  {"run":"apples","round":1,"device":"d1"}',
        'fedgrass/orchard/clients/d1/status  {"run":"apples","reason":"\\u001b[31mred"}',
        "fedgrass/orchard/clients/d2/heartbeat  \\x1b[31m no JSON \\xff",
    ]


def test_the_json_form_is_the_documented_one(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["watch", "--count", "3", "--output", "json"])
    printed = capsys.readouterr().out
    assert printed == GOLDEN.read_text(encoding="ascii")
    assert all(json.loads(line)["topic"] for line in printed.splitlines())


def test_only_what_the_filters_let_through_is_shown_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["watch", "--run", "apples", "--count", "2"])
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2
    assert "watching fedgrass/orchard/#" in captured.err
    main.run(["watch", "--kind", "status", "--kind", "round", "--device", "d1", "--count", "2"])
    assert FakeSubscription.filters == ("fedgrass/orchard/clients/d1/status", "fedgrass/orchard/rounds/+")


def test_it_ends_after_the_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    main.run(["watch", "--seconds", "0.01", "--device", "nobody"])
    assert capsys.readouterr().out == ""


def test_losses_and_reconnections_are_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = SubscriptionStatus(link=Link.RECONNECTING, error="cut", dropped=7)
    monkeypatch.setattr(FakeSubscription, "status", lost)
    main.run(["watch", "--seconds", "0.01"])
    errors = capsys.readouterr().err
    assert "7 messages were dropped" in errors
    assert "reconnecting: cut" in errors


def test_a_subscription_that_is_refused_ends_it_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeSubscription, "refusal", "the topics cannot be subscribed to: no iot:Connect")
    with pytest.raises(FedgrassError, match="no iot:Connect"):
        main.run(["watch"])


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--kind", "heartbeats"], "heartbeats"),
        (["--count", "-1"], "-1"),
        (["--seconds", "soon"], "soon"),
        (["--topik", "x"], "--topik"),
    ],
)
def test_mistakes_in_the_command_line_are_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main.run(["watch", *words])
    assert ended.value.code == 2
    assert reason in capsys.readouterr().err


def test_the_profile_and_the_region_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, Any] = {}
    monkeypatch.setattr(stack, "outputs", lambda name: {"Fleet": used.setdefault("stack", name)})
    monkeypatch.setenv("AWS_REGION", "")
    main.run(["watch", "--stack", "fruit", "--region", "eu-north-1", "--count", "1"])
    assert (used["stack"], os.environ["AWS_REGION"]) == ("fruit", "eu-north-1")
