"""A ServerApp outlives a lost connection to AWS."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from fedgrass.console.task_messages.patient_fleet import PatientFleet
from tests.fakes.flower_fleet import FlowerFleet
from tests.fakes.small_fleet import RUN


def refused(code: str, status: int = 400) -> ClientError:
    answer: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetItem")


class Broken(FlowerFleet):
    """A fleet whose next requests fail."""

    errors: list[Exception]

    def use(self, name: str) -> None:
        super().use(name)
        if self.errors:
            raise self.errors.pop(0)


def patient(errors: list[Exception]) -> tuple[PatientFleet, list[str], list[float]]:
    fleet = Broken.__new__(Broken)
    fleet.errors = []
    FlowerFleet.__init__(fleet, 1, lambda *_: None)
    fleet.errors = errors
    said: list[str] = []
    pauses: list[float] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        return False

    return PatientFleet(fleet, said.append, pause, clock=lambda: sum(pauses)), said, pauses


def test_a_request_is_repeated_until_aws_answers() -> None:
    errors: list[Exception] = [
        EndpointConnectionError(endpoint_url="https://x"),
        refused("ThrottlingException"),
        refused("InternalError", 500),
    ]
    fleet, said, pauses = patient(errors)
    assert fleet.round(RUN, 1) is None
    assert pauses == [1, 2, 4]
    assert len(said) == 1
    assert "AWS does not answer" in said[0]


def test_objects_are_read_and_written_in_spite_of_interruptions() -> None:
    fleet, _, pauses = patient([refused("SlowDown", 503)])
    fleet.bucket.write_pieces("key", [memoryview(b"1234")])
    assert len(pauses) == 1
    size, read, _ = fleet.bucket.stream("key")
    assert (size, read(4)) == (4, b"1234")
    assert fleet.bucket.exists("key")
    assert fleet.bucket.write_once("key", b"other") == b"1234"


def test_a_refusal_is_not_repeated() -> None:
    fleet, _, pauses = patient([refused("AccessDenied", 403)])
    with pytest.raises(ClientError):
        fleet.round(RUN, 1)
    assert pauses == []


def test_it_gives_up_after_a_quarter_of_an_hour() -> None:
    fleet, _, pauses = patient([EndpointConnectionError(endpoint_url="https://x")] * 1000)
    with pytest.raises(EndpointConnectionError):
        fleet.message_devices(RUN)
    assert 800 < sum(pauses) <= 900
