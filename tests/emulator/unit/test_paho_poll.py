"""A connection whose file descriptor is above 1,023, as of the hundredth core in a process, is read."""

import os
import select
import socket

import paho.mqtt.client as paho
import pytest

from greengrass_emulator.iot import paho_poll, paho_thread

HIGH = 1500


def test_a_descriptor_that_select_cannot_take_is_waited_for() -> None:
    near, far = socket.socketpair()
    with near, far:
        os.dup2(near.fileno(), HIGH)
        with socket.socket(fileno=HIGH) as high:
            with pytest.raises(ValueError, match="out of range"):
                select.select([high], [], [], 0)
            assert paho_poll.select([high], [high], [], 0) == ([], [high], [])
            far.send(b"x")
            assert paho_poll.select([high], [], [], 5) == ([high], [], [])


def test_a_connection_that_the_other_side_has_closed_can_be_read() -> None:
    near, far = socket.socketpair()
    with near:
        far.close()
        assert paho_poll.select([near], [], [], 5) == ([near], [], [])


def test_a_closed_socket_is_an_error_as_of_select() -> None:
    near, far = socket.socketpair()
    near.close()
    with far, pytest.raises(ValueError, match="negative"):
        paho_poll.select([near], [], [], 0)


def test_the_client_of_a_core_waits_with_poll() -> None:
    assert paho_thread
    assert paho.select is paho_poll  # type: ignore[attr-defined]
