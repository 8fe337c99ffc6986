"""The component's configuration as a nucleus may give it."""

import msgspec
import pytest

from components.runtime.component_errors import ConfigurationError
from components.trainer.session.device_context import LONGEST_REASON
from components.trainer.session.journal import LONGEST_METRICS
from components.trainer.trainer_configuration import (
    LARGEST_ATTRIBUTES,
    LONGEST_TASK_LIST,
    parse_configuration,
)
from fedgrass.federation.messages import LARGEST_MESSAGE, Heartbeat, encode


def test_numbers_may_be_spelled_as_strings() -> None:
    configuration = parse_configuration({"heartbeat_seconds": "30", "threads": "2", "warm_seconds": 5})
    assert (configuration.heartbeat_seconds, configuration.threads, configuration.warm_seconds) == (30, 2, 5)


def test_a_task_that_is_null_is_taken_away() -> None:
    configuration = parse_configuration({"tasks": {"digits": None, "noise": {"megabytes": 3}}})
    assert configuration.tasks == {"noise": {"megabytes": 3}}


def test_a_key_that_is_not_known_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    parse_configuration({"hearbeat_seconds": 30, "accessControl": {}, "python": ""})
    assert "'hearbeat_seconds': did you mean 'heartbeat_seconds'?" in caplog.text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (
            {"heartbeat_seconds": "often"},
            "heartbeat_seconds is 'often': it takes a number from 0.1 to 86,400",
        ),
        ({"heartbeat_seconds": 0}, "heartbeat_seconds"),
        ({"threads": 0}, "threads"),
        ({"uploader": "ftp"}, "uploader is 'ftp': it takes one of: s3, stream-manager"),
        ({"fleet": "My Fleet"}, "configuration's fleet is 'My Fleet': it takes 1 to 32"),
        ({"tasks": ["digits"]}, "tasks"),
        ({"attributes": "wifi"}, "attributes"),
        (
            {"attributes": {"two words": 1}},
            "attributes has the name 'two words': a name takes 1 to 32 letters",
        ),
        ({"attributes": {"site": ["a", "b"]}}, r"attributes.site is \['a', 'b'\]: it takes a text"),
        ({"attributes": {"site": "x" * 65}}, "attributes"),
        ({"attributes": {"site": "a\nb"}}, "attributes"),
        ({"attributes": {"version": "2"}}, "'version', which already has a meaning: rename it"),
        ({"attributes": {"And": True}}, "'And', which already has a meaning"),
        (
            {"attributes": {f"a{n}": 1 for n in range(15)}},
            "attributes is .*: it takes an object of at most 14 values",
        ),
        ({"attributes": {f"a{n}": "\u20ac" * 64 for n in range(6)}}, "room for 1,024"),
        ({"tasks": {"Digits!": {}}}, "tasks has the name 'Digits!': a name takes 1 to 32"),
        (
            {"tasks": {"faces": {}}},
            "there is no task 'faces'; built in are digits, mnist, cifar10, air_quality, noise",
        ),
        ({"tasks": {"faces": {"module": "faces"}}}, "it is spelled package.module:ClassName"),
        ({"tasks": {f"task-{n}-with-a-long-name": {"module": "a:B"} for n in range(60)}}, "too many names"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(values: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_configuration(values)


def test_attributes_are_texts_numbers_and_truths_as_they_were_given() -> None:
    given = {"site": "berlin", "racks": 3, "fixed": True, "model": "12", "gone": None}
    configuration = parse_configuration({"attributes": given})
    assert configuration.attributes == {"site": "berlin", "racks": 3.0, "fixed": True, "model": "12"}


def test_whatever_a_configuration_has_its_heartbeat_is_never_too_large() -> None:
    tasks = {f"task-{number:02}-{'x' * 24}": {"module": "a:B"} for number in range(31)}
    attributes = {f"{'a' * 28}{number:02}": "\u20ac" * 12 for number in range(14)}
    configuration = parse_configuration({"tasks": tasks, "attributes": attributes})
    heartbeat = Heartbeat(
        state="working",
        tasks=",".join(configuration.tasks),
        examples=2**53,
        component_version="255.255.255-" + "x" * 64,
        uptime_seconds=123456789.1,
        attributes={"battery": 99.9, "mains": False, **configuration.attributes},
        metrics="m" * LONGEST_METRICS,
        configuration_error="e" * LONGEST_REASON,
        connection_error="e" * LONGEST_REASON,
    )
    assert len(heartbeat.tasks) > LONGEST_TASK_LIST - 40
    assert len(msgspec.json.encode(configuration.attributes)) > LARGEST_ATTRIBUTES - 40
    assert len(encode(heartbeat)) < LARGEST_MESSAGE
