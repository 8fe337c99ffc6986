"""The file that describes a device without Greengrass, and what is refused in it, in which words."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.runtime.component_errors import ConfigurationError
from components.trainer.connection import device_file
from components.trainer.connection.device_file import Connection, read_device_file
from components.trainer.connection.mqtt_connection import MqttConnection
from components.trainer.trainer_configuration import parse_configuration

EXAMPLE = """
[connection]
thing = "press-1"
endpoint = "abc-ats.iot.eu-central-1.amazonaws.com"
certificate = "certificate.pem"
private_key = "private.key"
credentials_endpoint = "abc.credentials.iot.eu-central-1.amazonaws.com"
role_alias = "fedgrass-plant"
region = "eu-central-1"
work_folder = "work"

[trainer]
fleet = "plant"
heartbeat_seconds = 30
[trainer.tasks.digits]
share = 0
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("certificate.pem", "private.key"):
        (tmp_path / name).write_text("no certificate")
    return tmp_path


def written(folder: Path, text: str, name: str = "device.toml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def changed(folder: Path, **values: Any) -> Path:
    """Write the example as JSON with other values of the connection; None takes one away."""
    import tomllib  # noqa: PLC0415

    tables = tomllib.loads(EXAMPLE)
    tables["connection"].update(values)
    tables["connection"] = {key: value for key, value in tables["connection"].items() if value is not None}
    return written(folder, json.dumps(tables), "device.json")


def test_a_file_is_read_with_its_paths_seen_from_its_own_folder(folder: Path) -> None:
    connection, trainer = read_device_file(written(folder, EXAMPLE))
    assert connection.certificate == str(folder / "certificate.pem")
    assert connection.work_folder == str(folder / "work")
    assert (connection.port, connection.root_ca) == (8883, "")
    configuration = parse_configuration(trainer)
    assert (configuration.fleet, configuration.uploader) == ("plant", "s3")
    assert configuration.tasks == {"digits": {"share": 0}}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"thing": "a b"}, ["thing", "'a b'", "letters, digits"]),
        ({"thing": None}, ["thing", "missing"]),
        ({"endpoint": "https://x.amazonaws.com"}, ["endpoint", "no https://"]),
        ({"port": 0}, ["port", "0", "1 to 65,535"]),
        ({"port": "8883"}, ["port", "'8883'"]),
        ({"role_alias": "a/b"}, ["role_alias", "'a/b'"]),
        ({"region": "Europe"}, ["region", "'Europe'", "as AWS spells it"]),
        ({"certifcate": "x"}, ["'certifcate'", "did you mean 'certificate'?"]),
        ({"certificate": "missing.pem"}, ["certificate", "missing.pem", "No such file"]),
        ({"root_ca": "missing.pem"}, ["root_ca", "missing.pem", "No such file"]),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_what_it_may_be(
    folder: Path, values: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_device_file(changed(folder, **values))
    for word in words:
        assert word in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("device.toml", "connection = [", "is not valid TOML"),
        ("device.json", "{", "is not valid JSON"),
        ("device.json", "[]", "it has to be an object"),
        ("device.toml", "[connecton]\n", "did you mean 'connection'?"),
        ("device.toml", "connection = 3\n", "3 cannot be [connection]"),
    ],
)
def test_a_file_that_is_none_is_named(folder: Path, name: str, text: str, words: str) -> None:
    file = written(folder, text, name)
    with pytest.raises(ConfigurationError) as refused:
        read_device_file(file)
    assert words in str(refused.value)
    assert str(file) in str(refused.value)


def test_a_missing_file_is_told_with_the_option_that_names_another(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.toml cannot be read: No such file.*--mqtt FILE"):
        read_device_file(tmp_path / "none.toml")


def test_stream_manager_is_refused_where_there_is_no_greengrass(folder: Path) -> None:
    file = written(folder, EXAMPLE.replace('fleet = "plant"', 'uploader = "stream-manager"'))
    with pytest.raises(ConfigurationError, match="'stream-manager'; a device without Greengrass"):
        read_device_file(file)


@given(text=st.text(max_size=200))
def test_no_text_is_read_but_as_a_file_or_as_an_error_that_names_it(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text(text, encoding="utf-8", newline="")
    with pytest.raises(ConfigurationError, match=r"any\.toml"):
        read_device_file(file)


def test_a_certificate_that_is_none_is_named(folder: Path) -> None:
    file = written(folder, EXAMPLE)
    connection, _ = read_device_file(file)
    with pytest.raises(ConfigurationError, match=r"certificate\.pem.*cannot be used"):
        MqttConnection(file, connection, lambda _: None)


def test_static_keys_of_the_environment_are_never_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN")
    for name in (*own, "AWS_CONFIG_FILE", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "somebody's own")
    connection, _ = read_device_file(written(folder, EXAMPLE))
    work = folder / "work"
    work.mkdir()
    before = dict(os.environ)
    try:
        device_file.use_certificate(connection, work)
        assert not [name for name in own if name in os.environ]
        assert os.environ["AWS_ENDPOINT_URL"] == "somebody's own"
        assert os.environ["AWS_REGION"] == "eu-central-1"
        text = Path(os.environ["AWS_CONFIG_FILE"]).read_text()
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert "credential_process" in text
    assert "https://abc.credentials.iot.eu-central-1.amazonaws.com/role-aliases/fedgrass-plant/" in text


def test_the_connection_has_no_field_that_the_page_does_not_explain() -> None:
    page = (Path(__file__).parents[4] / "docs" / "plain_mqtt.md").read_text()
    assert [name for name in Connection.__struct_fields__ if f"`{name}`" not in page] == []
