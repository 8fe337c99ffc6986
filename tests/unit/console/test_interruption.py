"""A command is interrupted at any time, even inside a library that hides exceptions."""

import io
import os
import signal
import time

import pytest
from awscrt.auth import (
    AwsCredentialsProvider,
    AwsSignatureType,
    AwsSigningAlgorithm,
    AwsSigningConfig,
    aws_sign_request,
)
from awscrt.http import HttpHeaders, HttpRequest

from fedgrass.console import interruption
from fedgrass.console.interruption import ended_by_signals

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
PATIENCE = 10.0


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_interrupts_the_command_and_the_former_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        _interrupted(number)
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_pressing_ctrl_c_again_does_not_disturb_the_taking_down() -> None:
    taken_down: list[str] = []
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        _interrupted_again(taken_down)
    assert taken_down == ["all"]


def test_who_presses_it_again_after_a_while_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interruption, "_CLEAN_UP_SECONDS", 0.0)
    taken_down: list[str] = []
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        _interrupted_again(taken_down)
    assert taken_down == []


def test_an_error_that_a_library_makes_of_the_interruption_is_an_interruption() -> None:
    with pytest.raises(KeyboardInterrupt) as caught, ended_by_signals():
        _interrupted_library()
    assert isinstance(caught.value.__cause__, OSError)


def _interrupted(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(PATIENCE)


def _interrupted_again(taken_down: list[str]) -> None:
    try:
        _interrupted(signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        taken_down.append("all")


def _interrupted_library() -> None:
    try:
        _interrupted(signal.SIGINT)
    except KeyboardInterrupt as interruption:
        message = "unknown error"
        raise OSError(message) from interruption


def test_an_error_of_a_command_that_was_not_interrupted_is_unchanged() -> None:
    message = "a mistake"
    with pytest.raises(ValueError, match=message), ended_by_signals():
        raise ValueError(message)


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def _signed(request: HttpRequest, signing: AwsSigningConfig) -> None:
    aws_sign_request(request, signing).result(timeout=PATIENCE)
    time.sleep(PATIENCE)


class _InterruptedBody(io.BytesIO):
    """A request body during whose reading Ctrl-C is pressed."""

    asked = 0

    def readinto1(self, buffer: object) -> int:
        self.asked += 1
        if self.asked == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return super().readinto1(buffer)  # type: ignore[arg-type]  # a memoryview


def test_ctrl_c_while_a_request_is_signed_waits_until_the_runtime_has_returned(
    capfd: pytest.CaptureFixture[str],
) -> None:
    body = _InterruptedBody(b"x" * 1000)
    request = HttpRequest("PUT", "/key", HttpHeaders([("Host", "bucket.s3.amazonaws.com")]), body)
    signing = AwsSigningConfig(
        algorithm=AwsSigningAlgorithm.V4,
        signature_type=AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=AwsCredentialsProvider.new_static("id", "secret"),
        region="eu-west-1",
        service="s3",
    )
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        _signed(request, signing)
    assert "Authorization" in dict(request.headers)
    assert capfd.readouterr().err == ""
