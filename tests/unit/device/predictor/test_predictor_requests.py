"""Requests for predictions: over a real HTTP connection, and how bad ones are refused."""

import http.client
import json
import math
import socket
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.predictor import local_requests
from components.predictor.local_requests import LocalRequests
from components.predictor.serving import LARGEST_REQUEST, Request, Served, Serving, parse_request, percentile
from components.predictor.web import Server
from components.runtime.component_errors import ConfigurationError, RequestRefused, Unavailable
from components.trainer.tasks.digits import Digits
from components.trainer.tasks.noise import Noise
from components.trainer.tasks.task import InputRefused
from fedgrass.federation.messages import NewModel
from tests.emulator.local_core import eventually

MODEL = NewModel(task="noise", run="run-a", round=3, bucket="b", key="k", sha256="0" * 64, bytes=1)


def twice(inputs: Sequence[object]) -> list[object]:
    if inputs == ["broken"]:
        message = "a mistake\nof the task"
        raise ZeroDivisionError(message)
    for value in inputs:
        if not isinstance(value, int | float):
            message = f"{value!r} is no number"
            raise InputRefused(message)
    return [value * 2 for value in inputs]  # type: ignore[operator]


@dataclass
class Web:
    serving: Serving
    port: int

    def ask(
        self, method: str, path: str, body: bytes | str | None = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture
def web() -> Iterator[Web]:
    serving = Serving(("noise", "empty"))
    serving.serve("noise", Served(MODEL, twice))
    server = Server(0, serving, lambda: {"status": "ok" if not serving.without_model() else "no model yet"})
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield Web(serving, server.port)
    server.shutdown()
    server.server_close()
    thread.join(10)


def test_inputs_are_answered_with_outputs_and_the_model_that_made_them(web: Web) -> None:
    assert web.ask("POST", "/predict/noise", '{"inputs": [1, 2.5], "id": "x"}') == (
        200,
        {"id": "x", "task": "noise", "run": "run-a", "round": 3, "outputs": [2, 5.0]},
    )
    figures = web.serving.figures()
    assert (figures.requests, figures.failures) == (1, 0)
    assert figures.p50_ms > 0


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "/predict/noise", "", 400, "a request is a JSON object"),
        ("POST", "/predict/noise", "{", 400, "a request is a JSON object"),
        ("POST", "/predict/noise", "[1]", 400, "Expected `object`"),
        ("POST", "/predict/noise", '{"input": [1]}', 400, "missing required field `inputs`"),
        ("POST", "/predict/noise", '{"inputs": []}', 400, "length >= 1"),
        ("POST", "/predict/noise", json.dumps({"inputs": [0] * 1025}), 400, "length <= 1024"),
        ("POST", "/predict/noise", b'{"inputs": ["\xff"]}', 400, "utf-8"),
        ("POST", "/predict/noise", '{"inputs": ["one"]}', 400, "'one' is no number"),
        ("POST", "/predict/noise", '{"inputs": ["broken"]}', 500, "Error: a mistake of the task"),
        ("POST", "/predict/faces", '{"inputs": [1]}', 404, "no task 'faces' here; there are: noise, empty"),
        ("POST", "/predict/empty", '{"inputs": [1]}', 503, "no model of the task 'empty' has arrived yet"),
        ("POST", "/elsewhere", '{"inputs": [1]}', 404, "predictions are at POST /predict/<task>"),
        ("GET", "/predict/noise", None, 404, "GET /health, or POST /predict/<task>"),
    ],
)
def test_a_bad_request_is_answered_by_an_error_with_the_reason(  # noqa: PLR0913, PLR0917 - the parameters of pytest
    web: Web, method: str, path: str, body: bytes | str | None, status: int, words: str
) -> None:
    found, answer = web.ask(method, path, body)
    assert (found, list(answer)) == (status, ["error"])
    assert words in answer["error"]
    assert "\n" not in answer["error"]
    # The next request is not affected.
    assert web.ask("POST", "/predict/noise", '{"inputs": [1]}')[0] == 200


def test_a_request_that_is_too_large_is_refused_before_it_is_read(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as link:
        length = f"Content-Length: {LARGEST_REQUEST + 1}"
        link.sendall(f"POST /predict/noise HTTP/1.1\r\nHost: localhost\r\n{length}\r\n\r\n".encode())
        assert link.recv(100).startswith(b"HTTP/1.1 413 ")


def test_a_request_without_its_length_is_refused(web: Web) -> None:
    with socket.create_connection(("127.0.0.1", web.port), timeout=10) as link:
        link.sendall(b"POST /predict/noise HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert link.recv(100).startswith(b"HTTP/1.1 411 ")


@pytest.mark.parametrize(
    "headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1:80", "Origin": "https://evil.example"}]
)
def test_a_page_in_a_browser_cannot_ask(web: Web, headers: dict[str, str]) -> None:
    assert web.ask("POST", "/predict/noise", '{"inputs": [1]}', **headers)[0] == 403
    assert web.ask("GET", "/health", **headers)[0] == 403


@pytest.mark.slow
def test_one_connection_takes_many_requests(web: Web) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", web.port, timeout=10)
    for number in range(20):
        connection.request("POST", "/predict/noise", json.dumps({"inputs": [number]}))
        assert json.loads(connection.getresponse().read())["outputs"] == [2 * number]
    connection.close()
    assert web.serving.figures().requests == 20


def test_the_health_page_reports_a_task_without_a_model(web: Web) -> None:
    assert web.ask("GET", "/health") == (503, {"status": "no model yet"})
    web.serving.serve("empty", Served(MODEL, twice))
    assert web.ask("GET", "/health") == (200, {"status": "ok"})


def test_it_listens_on_loopback_only(web: Web) -> None:
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.2", web.port), timeout=5)


def test_a_port_that_is_taken_is_named_with_the_way_out(web: Web) -> None:
    with pytest.raises(
        ConfigurationError, match=f"http_port {web.port} on 127.0.0.1 cannot be used.*or 0 for"
    ):
        Server(web.port, web.serving, dict)


@given(text=st.binary(max_size=300))
def test_no_text_is_taken_but_as_a_request_or_a_refusal(text: bytes) -> None:
    try:
        parsed: object = parse_request(text)
    except RequestRefused as error:
        parsed = error.status
    assert isinstance(parsed, Request) or parsed == 400


@given(numbers=st.lists(st.floats(0, 1e6), min_size=1, max_size=200), percent=st.integers(1, 100))
def test_a_percentile_is_not_exceeded_by_so_many(numbers: list[float], percent: int) -> None:
    ordered = sorted(numbers)
    found = percentile(ordered, percent)
    assert sum(number <= found + 1e-3 for number in ordered) >= math.floor(len(ordered) * percent / 100)
    assert sum(number < found - 1e-3 for number in ordered) <= math.ceil(len(ordered) * percent / 100)


# ---------------------------------------------------------------- local topics


class Topics:
    """Local topics that record what is published, or refuse it."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes, bool]] = []
        self.refusals = 0

    def publish_locally(self, topic: str, text: bytes, *, as_json: bool) -> None:
        if self.refusals:
            self.refusals -= 1
            message = "in flight: too much"
            raise Unavailable(message)
        self.published.append((topic, text, as_json))


def asked(value: object, reply: str = "fedgrass/predict/noise/replies/me") -> bytes:
    return json.dumps({"inputs": [value], "reply": reply}).encode()


def test_an_answer_that_cannot_be_published_costs_no_other_one(caplog: pytest.LogCaptureFixture) -> None:
    serving, topics = Serving(("noise",)), Topics()
    serving.serve("noise", Served(MODEL, twice))
    requests = LocalRequests(topics, serving)
    topics.refusals = 1
    requests.receive("noise", asked(1), as_json=True)
    requests.receive("noise", b"no JSON", as_json=False)
    requests.receive("noise", asked(2), as_json=False)
    requests.start()
    eventually(lambda: topics.published)
    ((topic, text, as_json),) = topics.published
    assert (topic, json.loads(text)["outputs"], as_json) == ("fedgrass/predict/noise/replies/me", [4], False)
    assert "was not answered: in flight: too much" in caplog.text


def test_more_requests_than_can_wait_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    serving = Serving(("noise",))
    requests = LocalRequests(Topics(), serving)
    for number in range(local_requests.MOST_WAITING + 2):
        requests.receive("noise", asked(number), as_json=True)
    assert serving.figures().failures == 2
    assert "dropped a request" in caplog.text


# ---------------------------------------------------------------- the tasks' predictors


def test_a_task_predicts_with_the_weights_that_it_was_given_whatever_comes_next() -> None:
    task = Digits()
    first, second = (task.predictor(task.initial_weights(seed)) for seed in (1, 2))
    image = np.zeros((1, 8, 8)).tolist()
    before = first([image])
    task.evaluate(task.initial_weights(3))
    assert first([image]) == before
    assert second([image]) != before
    assert np.asarray(before).shape == (1, 10)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ([[[[0.0]]]], r"inputs\[0\] has the shape \(1, 1, 1\); the model takes \(1, 8, 8\)"),
        ([np.zeros((1, 8, 8)).tolist(), 3], r"inputs\[1\] has the shape \(\); the model takes"),
        ([[[1], [2, 3]]], r"inputs\[0\] is not an array"),
        ([None], r"inputs\[0\] contains something that is not a finite number"),
        (["a"], r"inputs\[0\] contains something that is not a finite number"),
        ([math.inf], r"inputs\[0\] contains something that is not a finite number"),
        ([10**400], r"inputs\[0\]"),
    ],
)
def test_an_input_that_the_model_cannot_take_is_named(inputs: list[object], words: str) -> None:
    task = Digits()
    with pytest.raises(InputRefused, match=words):
        task.predictor(task.initial_weights(0))(inputs)


def test_noise_adds_its_bias() -> None:
    predict = Noise().predictor({"body": np.zeros(3), "bias": np.full(4, 0.5)})
    assert predict([1, 2.0]) == [1.5, 2.5]
    with pytest.raises(InputRefused, match=r"inputs\[1\] is True"):
        predict([1, True])
