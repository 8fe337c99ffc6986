"""Errors of S3 about a single object refuse that object; errors about all of S3 are an outage."""

from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from typing import Any, cast
from unittest.mock import Mock

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError

from cloud_functions.aws.s3 import S3Bucket
from fedgrass.federation import object_keys
from fedgrass.federation.errors import UpdateRefused
from fedgrass.federation.ports import Bucket
from fedgrass.federation.rounds import Participation, State
from fedgrass.federation.topics import Kind
from fedgrass.federation.weights import encode
from fedgrass.local.aws.embedded_cloud import EmbeddedCloud
from tests.fakes.memory_cloud import MemoryBucket
from tests.fakes.small_fleet import INITIAL, RUN, SmallFleet, update_full_of

KEY = "updates/thing-1/run-1/1-1.safetensors"
NAME = "unreadable-objects"
DATA = encode({})
READS: dict[str, Callable[[Bucket], object]] = {
    "read": lambda bucket: bucket.read(KEY, 10**6),
    "read_version": lambda bucket: bucket.read_version(KEY, 10**6),
    "read_into": lambda bucket: bucket.read_into(KEY, 2, memoryview(bytearray(3))),
    "read_into of a version": lambda bucket: bucket.read_into(KEY, 2, memoryview(bytearray(3)), '"tag" 1'),
    "read_layout": lambda bucket: bucket.read_layout(KEY),
}
# Status and code, as S3 documents them.
OF_ONE_OBJECT = [
    (403, "InvalidObjectState"),  # archived: GLACIER, DEEP_ARCHIVE, the archive tiers of INTELLIGENT_TIERING
    (400, "InvalidRequest"),  # encrypted with a key that the reader has to provide: SSE-C
    (400, "InvalidArgument"),
    (403, "AccessDenied"),  # encrypted with a KMS key of another account
    (400, "KMS.DisabledException"),
    (400, "KMS.NotFoundException"),
    (400, "KMS.InvalidStateException"),
    (405, "MethodNotAllowed"),  # a delete marker
    (412, "PreconditionFailed"),
    (416, "InvalidRange"),
    (409, "SomethingNew"),
    (400, "Teapot"),
]
OF_ALL_OBJECTS = [
    (500, "InternalError"),
    (503, "SlowDown"),
    (503, "ServiceUnavailable"),
    (400, "RequestTimeout"),
    (400, "KMS.ThrottlingException"),
    (429, "TooManyRequests"),
    (400, "ExpiredToken"),
    (403, "InvalidAccessKeyId"),
    (403, "SignatureDoesNotMatch"),
    (403, "RequestTimeTooSkewed"),
    (400, "InvalidToken"),
    (404, "NoSuchBucket"),
    (403, "AllAccessDisabled"),
    (301, "PermanentRedirect"),
    (400, "AuthorizationHeaderMalformed"),
]


class Raw(BytesIO):
    """The body of a response, with the interface of urllib3."""

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.read()


_answers: list[Callable[..., object]] = []  # the last one applies


@cache
def _client() -> Any:
    session: Any = boto3.Session(aws_access_key_id="none", aws_secret_access_key="none")  # noqa: S106 - no secret
    config = Config(retries={"total_max_attempts": 1})
    made = session.client("s3", region_name="us-east-1", config=config)
    made.meta.events.register("before-send.s3.GetObject", _answer)
    return made


def _answer(**asked: object) -> object:
    return _answers[-1](**asked)


def client(answer: Callable[..., object]) -> Any:
    """Return the client that answers every GET with ``answer`` from now on; nothing is sent."""
    _answers.append(answer)
    return _client()


def answering(status: int, code: str) -> S3Bucket:
    """Return a bucket that gives the same response for every object."""
    text = f"<Error><Code>{code}</Code><Message>as it\n is</Message></Error>".encode()
    headers: Any = {"content-type": "application/xml", "x-amz-bucket-region": "us-east-1"}
    return S3Bucket(client(lambda **_: AWSResponse("https://nowhere", status, headers, Raw(text))), NAME)


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize(("status", "code"), OF_ONE_OBJECT)
def test_an_answer_about_one_object_refuses_it_by_name(status: int, code: str, read: str) -> None:
    with pytest.raises(UpdateRefused, match=KEY) as refused:
        READS[read](answering(status, code))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("status", "code"), [(404, "NoSuchKey"), (404, "NoSuchVersion")])
def test_an_object_that_is_not_there_is_named(status: int, code: str) -> None:
    for read in READS.values():
        with pytest.raises(KeyError, match=KEY):
            read(answering(status, code))


@pytest.mark.parametrize(("status", "code"), OF_ALL_OBJECTS)
def test_an_answer_that_concerns_all_objects_does_not_refuse_one(status: int, code: str) -> None:
    for read in READS.values():
        with pytest.raises(ClientError):
            read(answering(status, code))


def test_a_network_failure_does_not_refuse_an_object() -> None:
    def fail(**_: object) -> None:
        raise EndpointConnectionError(endpoint_url="https://nowhere")

    for read in READS.values():
        with pytest.raises(EndpointConnectionError):
            read(S3Bucket(client(fail), NAME))


@pytest.mark.parametrize("found", ["bytes 0-2/100", "bytes 20-22/100", "", None])
def test_an_answer_with_another_range_than_was_asked_for_is_refused(
    found: str | None,
) -> None:
    headers: Any = {"etag": '"tag"', "content-length": "3"} | (
        {} if found is None else {"content-range": found}
    )
    bucket = S3Bucket(client(lambda **_: AWSResponse("https://nowhere", 206, headers, Raw(b"abc"))), NAME)
    with pytest.raises(UpdateRefused, match=KEY):
        READS["read_into"](bucket)


def stored(where: str, request: pytest.FixtureRequest, **options: str) -> Bucket:
    """Return a bucket with one object that a device has stored with its own options."""
    if where == "memory":
        memory = MemoryBucket()
        memory.write(KEY, DATA)
        memory.unreadable[KEY] = "InvalidObjectState: archived"
        return memory
    cloud: EmbeddedCloud = request.getfixturevalue("embedded_cloud")
    s3 = cloud.client("s3")
    s3.create_bucket(Bucket=NAME)
    s3.put_object(Bucket=NAME, Key=KEY, Body=DATA, **options)
    return S3Bucket(s3, NAME)


@pytest.mark.parametrize("read", [name for name in READS if name != "read_into of a version"])
@pytest.mark.parametrize("how", ["GLACIER", "DEEP_ARCHIVE", "a key of its own"])
def test_an_object_that_its_writer_made_unreadable_is_refused_by_name(
    where: str, request: pytest.FixtureRequest, how: str, read: str
) -> None:
    with pytest.raises(UpdateRefused, match=KEY):
        READS[read](stored(where, request, **hidden(how)))


def hidden(how: str) -> dict[str, str]:
    """Return the options of an upload that only the device can read."""
    if how == "a key of its own":
        return {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0123456789abcdef" * 2}
    return {"StorageClass": how}


@pytest.mark.parametrize("how", ["GLACIER", "a key of its own"])
def test_a_device_that_makes_its_update_unreadable_is_refused_and_the_round_closes_with_the_others(
    where: str, request: pytest.FixtureRequest, how: str
) -> None:
    fleet = SmallFleet(devices=3, minimum_replies=2)
    if where == "aws":
        s3 = request.getfixturevalue("embedded_cloud").client("s3")
        name = f"unreadable-{how.replace(' ', '-').lower()}"
        s3.create_bucket(Bucket=name)
        fleet.bucket = cast(Any, S3Bucket(s3, name))
        fleet.cloud = fleet._worker()
        fleet.bucket.write(object_keys.model(RUN, 0), encode(INITIAL))
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    data = fleet.upload("thing-1", opened, update_full_of(9.0))
    key = object_keys.update("thing-1", opened.run, opened.number, opened.attempt)
    if where == "aws":
        s3.put_object(Bucket=name, Key=key, Body=data, **hidden(how))
    else:
        fleet.bucket.unreadable[key] = "InvalidObjectState: archived"
    fleet.say("thing-1", Kind.COMPLETE, fleet.completion(opened, data))
    fleet.reply("thing-2", opened, value=3.0)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good, closed.refused, closed.expired) == (State.CLOSED, 2, 1, 0)
    assert fleet.parts(opened)["thing-1"] is Participation.REFUSED
    assert f"object {key} cannot be read, S3 answers" in fleet.told_of("thing-1")[0]


def test_a_store_that_gives_nothing_refuses_nobody_and_the_message_comes_back() -> None:
    fleet = SmallFleet(devices=2)
    fleet.start()
    opened = fleet.newest()
    fleet.reply("thing-0", value=1.0)
    plain = fleet.bucket.read_into
    said: Any = {"Error": {"Code": "SlowDown"}, "ResponseMetadata": {"HTTPStatusCode": 503}}
    outage = ClientError(said, "GetObject")
    fleet.bucket.read_into = Mock(side_effect=outage)  # type: ignore[method-assign]
    with pytest.raises(AssertionError, match="SlowDown"):  # it is logged as an error
        fleet.reply("thing-1", opened, value=3.0)
    fleet.log.clear()
    fleet.bucket.read_into = plain  # type: ignore[method-assign]
    assert set(fleet.parts(opened).values()) == {Participation.REPLIED}
    fleet.pass_time(61)
    assert fleet.reply("thing-1", opened, value=3.0)
    closed = fleet.rounds.round(RUN, 1, 1)
    assert closed is not None
    assert (closed.state, closed.good) == (State.CLOSED, 2)


def test_a_model_that_cannot_be_read_abandons_the_round_and_names_no_device() -> None:
    fleet = SmallFleet(devices=2, on_abandoned="fail")
    fleet.start()
    opened = fleet.newest()
    fleet.bucket.unreadable[object_keys.model(RUN, 0)] = "InvalidObjectState: archived"
    for device in fleet.names:
        fleet.reply(device, opened)
    abandoned = fleet.newest()
    assert abandoned.state is State.ABANDONED
    assert "object models/run-1/0.safetensors cannot be read, S3 answers" in abandoned.reason
    assert set(fleet.parts(opened).values()) == {Participation.REPLIED}
