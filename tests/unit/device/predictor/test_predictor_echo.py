"""The predictor detects that local requests do not arrive, and publishes only what every nucleus delivers."""

import json
from collections.abc import Sequence

import pytest

from components.predictor.local_requests import LARGEST_REPLY, MOST_JSON_PARTS, LocalRequests
from components.predictor.predictor_subscriptions import EchoCheck
from components.predictor.serving import Served, Serving
from components.runtime.component_errors import Forbidden, Unavailable
from tests.emulator.local_core import eventually
from tests.unit.device.predictor.test_predictor_requests import MODEL, Topics

REPLIES = "fedgrass/predict/noise/replies/me"


class Nucleus:
    """Local topics whose subscriptions can be dead, for each task."""

    def __init__(self) -> None:
        self.dead: set[str] = set()
        self.renewed: list[str] = []
        self.error: Exception | None = None
        self.check = EchoCheck(self.publish, self.renew)

    def publish(self, task: str, text: bytes) -> None:
        if self.error:
            raise self.error
        if task not in self.dead:
            assert self.check.is_echo(task, text)

    def renew(self, task: str) -> None:
        self.renewed.append(task)
        self.dead.discard(task)


def test_a_subscription_that_echoes_is_left_alone() -> None:
    nucleus = Nucleus()
    for _ in range(10):
        nucleus.check.check(["noise", "digits"])
    assert nucleus.renewed == []


def test_the_one_subscription_that_is_dead_is_renewed_once() -> None:
    nucleus = Nucleus()
    nucleus.dead.add("noise")
    for _ in range(10):
        nucleus.check.check(["noise", "digits"])
    assert nucleus.renewed == ["noise"]


def test_one_lost_probe_proves_nothing() -> None:
    nucleus = Nucleus()
    nucleus.dead.add("noise")
    nucleus.check.check(["noise"])
    nucleus.dead.clear()
    for _ in range(5):
        nucleus.check.check(["noise"])
    assert nucleus.renewed == []


@pytest.mark.parametrize("error", [Unavailable("offline"), Forbidden("an access control of its own")])
def test_probes_that_do_not_go_out_prove_nothing(error: Exception) -> None:
    nucleus = Nucleus()
    nucleus.error = error
    for _ in range(5):
        nucleus.check.check(["noise"])
    assert nucleus.renewed == []


def test_only_the_own_probe_is_an_echo() -> None:
    nucleus, other = Nucleus(), Nucleus()
    probes: list[bytes] = []
    EchoCheck(lambda _, text: probes.append(text), lambda _: None).check(["noise"])
    assert not nucleus.check.is_echo("noise", probes[0])
    assert not other.check.is_echo("noise", json.dumps({"inputs": [1]}).encode())


def test_a_probe_is_not_a_request() -> None:
    serving, topics = Serving(("noise",)), Topics()
    requests = LocalRequests(topics, serving, is_echo=lambda _, text: text == b"probe")
    requests.receive("noise", b"probe", as_json=False)
    assert requests._waiting.empty()
    assert serving.figures().failures == 0


def answer_to(outputs: Sequence[object], *, as_json: bool, **request: object) -> tuple[str, bytes, bool]:
    serving, topics = Serving(("noise",)), Topics()
    serving.serve("noise", Served(MODEL, lambda _: list(outputs)))
    requests = LocalRequests(topics, serving)
    requests.start()
    try:
        asked = json.dumps({"inputs": [1], "reply": REPLIES, **request}).encode()
        requests.receive("noise", asked, as_json=as_json)
        eventually(lambda: topics.published)
    finally:
        requests.stop()
    return topics.published[0]


@pytest.mark.parametrize("as_json", [True, False])
def test_a_reply_that_no_local_message_carries_is_refused_with_the_way_out(*, as_json: bool) -> None:
    _, text, _ = answer_to(["x" * LARGEST_REPLY], as_json=as_json, id=7)
    answer = json.loads(text)
    assert answer["id"] == 7
    assert "a local message has room for 7,000: ask over HTTP" in answer["error"]


def test_a_json_reply_of_many_numbers_is_refused_and_a_binary_one_is_not() -> None:
    numbers = [[float(number) for number in range(64)]]
    _, text, _ = answer_to(numbers, as_json=True)
    assert (
        f"a local JSON message has room for {MOST_JSON_PARTS}: ask with a binary message"
        in json.loads(text)["error"]
    )
    _, text, as_json = answer_to(numbers, as_json=False)
    assert (json.loads(text)["outputs"], as_json) == (numbers, False)


def test_one_answer_about_the_digits_passes_as_json() -> None:
    _, text, _ = answer_to([[0.1] * 10], as_json=True, id=1)
    assert json.loads(text)["outputs"] == [[0.1] * 10]


@pytest.mark.parametrize("error", [False, True])
def test_an_id_as_long_as_a_request_ends_no_connection(*, error: bool) -> None:
    serving, topics = Serving(("noise",)), Topics()
    serving.serve("noise", Served(MODEL, lambda inputs: ["x" * 7_000] if error else list(inputs)))
    requests = LocalRequests(topics, serving)
    asked = {"inputs": [1], "reply": REPLIES}
    requests.receive("noise", json.dumps({**asked, "id": "x" * 6_990}).encode(), as_json=False)
    requests.receive("noise", json.dumps({**asked, "id": "next"}).encode(), as_json=False)
    requests.start()
    eventually(lambda: topics.published)
    requests.stop()
    assert all(len(text) <= LARGEST_REPLY for _, text, _ in topics.published)
    assert json.loads(topics.published[-1][1])["id"] == "next"
