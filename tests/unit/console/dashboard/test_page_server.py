import logging
import socket

import pytest

from fedgrass.console.dashboard.page_server import check_names, greeting, listen, make_printable
from fedgrass.federation.errors import SettingsError


def test_a_port_that_is_taken_is_refused_with_the_way_out() -> None:
    with (
        listen("127.0.0.1", 0) as taken,
        pytest.raises(SettingsError, match="choose others by --host and --port"),
    ):
        listen("127.0.0.1", taken.getsockname()[1])


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"192\.0\.2\.1 port 0"):
        listen("192.0.2.1", 0)


def test_a_free_port_of_this_machine_alone_is_listened_on() -> None:
    with listen("127.0.0.1", 0) as made:
        host, port = made.getsockname()
        assert (host, port > 0, made.family) == ("127.0.0.1", True, socket.AF_INET)


def test_all_addresses_need_a_name_that_browsers_use() -> None:
    with pytest.raises(SettingsError, match="--allow-host NAME"):
        check_names("0.0.0.0", [])  # noqa: S104
    check_names("0.0.0.0", ["bastion"])  # noqa: S104


@pytest.mark.parametrize(
    ("host", "token", "allowed", "url"),
    [
        ("127.0.0.1", "", [], "http://127.0.0.1:8321/"),
        ("::1", "", [], "http://[::1]:8321/"),
        ("10.0.0.7", "t0ken", [], "http://10.0.0.7:8321/?token=t0ken"),
        ("0.0.0.0", "t0ken", ["bastion"], "http://bastion:8321/?token=t0ken"),  # noqa: S104
        ("0.0.0.0", "t0ken", ["bastion:80"], "http://bastion:80/?token=t0ken"),  # noqa: S104
    ],
)
def test_the_url_is_printed_first(host: str, token: str, allowed: list[str], url: str) -> None:
    lines = greeting(host, 8321, token, allowed)
    assert lines[0] == f"dashboard: {url}"
    assert any("HTTP does not encrypt it" in line for line in lines) is bool(token)
    assert greeting(host, 8321, token, allowed, read_only=True)[0].startswith("dashboard (read-only): ")


def test_the_path_of_a_request_cannot_control_the_terminal() -> None:
    path = "http://127.0.0.1/_nicegui/\x1b]0;owned\x07\n\x9b2J"
    record = logging.makeLogRecord({"msg": "%s not found", "args": (path,)})
    assert make_printable(record)
    assert record.getMessage() == r"http://127.0.0.1/_nicegui/\x1b]0;owned\x07 \x9b2J not found"
