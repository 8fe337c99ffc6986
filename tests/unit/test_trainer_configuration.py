"""The component's configuration as a nucleus may give it."""

import pytest

from components.trainer.configuration import parse_configuration
from components.trainer.errors import ConfigurationError


def test_numbers_may_be_spelled_as_strings() -> None:
    configuration = parse_configuration({"heartbeat_seconds": "30", "threads": "2", "warm_seconds": 5})
    assert (configuration.heartbeat_seconds, configuration.threads, configuration.warm_seconds) == (30, 2, 5)


def test_a_task_that_is_null_is_taken_away() -> None:
    configuration = parse_configuration({"tasks": {"digits": None, "noise": {"megabytes": 3}}})
    assert configuration.tasks == {"noise": {"megabytes": 3}}


def test_a_key_that_is_not_known_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    parse_configuration({"hearbeat_seconds": 30, "accessControl": {}, "python": ""})
    assert "unknown keys: hearbeat_seconds; known are: fleet, heartbeat_seconds" in caplog.text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"heartbeat_seconds": "often"}, "heartbeat_seconds"),
        ({"heartbeat_seconds": 0}, "heartbeat_seconds"),
        ({"threads": 0}, "threads"),
        ({"uploader": "ftp"}, "uploader"),
        ({"fleet": "My Fleet"}, "'My Fleet' cannot name a fleet"),
        ({"tasks": ["digits"]}, "tasks"),
        ({"tasks": {"Digits!": {}}}, "tasks"),
        ({"tasks": {"faces": {}}}, "there is no task 'faces'; built in are digits, noise"),
        ({"tasks": {"faces": {"module": "faces"}}}, "it is spelled package.module:ClassName"),
        ({"tasks": {f"task-{n}-with-a-long-name": {"module": "a:B"} for n in range(60)}}, "too many names"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_configuration(values)
