"""The predictor's subscriptions, each independent of the others, with a nucleus in memory."""

import random
from collections.abc import Callable

import pytest

from components.predictor.predictor_subscriptions import RENEW_SECONDS, Subscriptions
from components.runtime.component_errors import Unavailable
from components.runtime.event_loop import EventLoop
from tests.fakes.memory_device import Clock

REQUESTS, MODELS = "fedgrass/predict/digits", "fedgrass/plant/models/digits"


class Nucleus:
    """A nucleus that refuses the topics named by a test."""

    def __init__(self) -> None:
        self.refused: set[str] = set()
        self.subscribed: list[str] = []
        self.models: dict[str, Callable[[bytes], None]] = {}
        self.requests: dict[str, Callable[[bytes, bool], None]] = {}
        self.lost: Callable[[str, str], None] = lambda _topic, _reason: None

    def watch_subscriptions(self, lost: Callable[[str, str], None]) -> None:
        self.lost = lost

    def subscribe(self, topic: str, handler: Callable[[bytes], None], qos: int) -> None:
        assert qos == 1
        self._take(topic)
        self.models[topic] = handler

    def subscribe_locally(self, topic: str, handler: Callable[[bytes, bool], None]) -> None:
        self._take(topic)
        self.requests[topic] = handler

    def _take(self, topic: str) -> None:
        if topic in self.refused:
            message = f"could not subscribe to {topic}: Quota exceeded"
            raise Unavailable(message)
        self.subscribed.append(topic)


class Kept:
    """Subscriptions with the messages that they received."""

    def __init__(self, *refused: str) -> None:
        self.clock, self.nucleus = Clock(), Nucleus()
        self.loop = EventLoop(self.clock)
        self.nucleus.refused = set(refused)
        self.received: list[bytes] = []
        self.kept = Subscriptions(
            self.loop,
            self.nucleus,  # type: ignore[arg-type]
            random.Random(5),  # noqa: S311 - jitter
            on_model=lambda _task, _topic, payload: self.received.append(payload),
            on_request=lambda _task, _text, _as_json: None,
        )
        self.kept.cover("plant", "digits")

    def passes(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.now < until:
            self.clock.now += 0.25
            self.loop.run_due()


@pytest.mark.parametrize("topic", [REQUESTS, MODELS])
def test_one_refused_subscription_is_requested_until_it_stands(topic: str) -> None:
    site = Kept(topic)
    site.passes(600)
    assert site.nucleus.subscribed == [({REQUESTS, MODELS} - {topic}).pop()]
    site.nucleus.refused.clear()
    site.passes(31)
    assert sorted(site.nucleus.subscribed) == sorted([REQUESTS, MODELS])


@pytest.mark.parametrize("topic", [REQUESTS, MODELS])
def test_a_stream_that_ends_is_opened_again_and_the_other_one_left_alone(topic: str) -> None:
    site = Kept()
    site.passes(200)
    site.nucleus.lost(topic, "the nucleus closed its stream")
    site.loop.run_due()
    assert site.nucleus.subscribed[2:] == [topic]


def test_a_topic_is_subscribed_to_once_however_often_it_is_configured() -> None:
    site = Kept()
    site.kept.cover("plant", "digits")
    assert site.nucleus.subscribed == [REQUESTS, MODELS]


def test_models_that_no_message_announced_and_requests_without_echo_renew_their_topic() -> None:
    site = Kept()
    site.passes(200)
    site.kept.renew_models("plant", "digits")
    site.kept.renew_requests("digits")
    assert site.nucleus.subscribed[2:] == [MODELS, REQUESTS]


def test_models_are_subscribed_to_again_once_nothing_was_announced_for_long() -> None:
    site = Kept()
    site.passes(RENEW_SECONDS - 10)
    site.nucleus.models[MODELS](b"model")
    site.passes(20)
    site.kept.renew_silent_models()
    assert site.nucleus.subscribed[2:] == []
    site.passes(RENEW_SECONDS)
    site.kept.renew_silent_models()
    assert (site.nucleus.subscribed[2:], site.received) == ([MODELS], [b"model"])
