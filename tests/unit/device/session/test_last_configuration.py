"""The last configuration that could be used is kept, whatever becomes of its file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from components.predictor import predictor_configuration
from components.runtime.component_errors import ConfigurationError
from components.runtime.process_setup import FILE, LastConfiguration
from components.trainer import trainer_configuration
from components.trainer.trainer_configuration import parse_configuration

VALUES = {
    "fleet": "plant",
    "tasks": {"digits": {"share": 1}, "noise": {"megabytes": 0.5}},
    "heartbeat_seconds": "30",
}


@pytest.mark.parametrize("parser", [predictor_configuration, trainer_configuration])
def test_what_was_kept_is_parsed_to_the_same_configuration(tmp_path: Path, parser: Any) -> None:
    configuration = parser.parse_configuration(VALUES)
    LastConfiguration(tmp_path).keep(msgspec.to_builtins(configuration))
    assert LastConfiguration(tmp_path).usable(parser.parse_configuration) == configuration


@pytest.mark.parametrize(
    "more", [{"train_when": {"hours": "22:00-06:00", "mains": True}}, {"uploader": "s3"}]
)
def test_every_part_of_the_trainers_configuration_survives(tmp_path: Path, more: Mapping[str, Any]) -> None:
    configuration = parse_configuration({**VALUES, **more, "attributes": {"site": "berlin", "gpu": True}})
    LastConfiguration(tmp_path).keep(msgspec.to_builtins(configuration))
    assert LastConfiguration(tmp_path).usable(parse_configuration) == configuration


def test_nothing_was_kept_before_the_first_start(tmp_path: Path) -> None:
    assert LastConfiguration(tmp_path).usable(parse_configuration) is None


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"threads": "many"}', b"\xff", b"[" * 100_000])
def test_a_file_that_cannot_be_used_is_as_none(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert LastConfiguration(tmp_path).usable(parse_configuration) is None
    assert "cannot be used" in caplog.text


def test_a_folder_that_cannot_be_written_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    LastConfiguration(tmp_path / "absent").keep(VALUES)
    assert "cannot be written" in caplog.text
    with pytest.raises(ConfigurationError):
        parse_configuration({"threads": "many"})
