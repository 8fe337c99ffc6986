"""``fedgrass deploy devices`` against a stubbed cloud."""

from collections.abc import Callable

import pytest

from fedgrass.console import stack
from fedgrass.console.deploy import device_actions
from fedgrass.console.main import parse
from tests.fakes.stubbed_aws import StubbedAws

STACK = {"Fleet": "plant", "BucketName": "plant-bucket", "InitiatorName": "initiator"}


@pytest.fixture
def aws() -> StubbedAws:
    return StubbedAws()


@pytest.fixture
def run(aws: StubbedAws, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run ``fedgrass deploy devices`` against the stubbed cloud."""
    monkeypatch.setattr(stack, "client", aws.client)
    monkeypatch.setattr(stack, "outputs", lambda _name: STACK)
    monkeypatch.setattr(device_actions, "WATCH_SECONDS", 0.0)

    def command(*words: str) -> None:
        parse(["deploy", "devices", "--group", "presses", *words])()

    return command
