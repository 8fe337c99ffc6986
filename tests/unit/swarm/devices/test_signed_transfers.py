"""Requests to S3 and to the credentials provider, against a small HTTP server."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from aiohttp import web
from botocore.credentials import Credentials

from fedgrass.swarm.devices.signed_transfers import DeviceCredentials, Transfers, object_url, signed_headers
from fedgrass.swarm.swarm_errors import TransferError
from fedgrass.swarm.swarm_spec import CloudAddress

KEYS = Credentials("AKIA1", "secret", "token")
ON_AWS = CloudAddress(
    fleet="press",
    endpoint="iot",
    port=8883,
    root_ca="",
    credentials_endpoint="credentials",
    role_alias="alias",
    region="eu-central-1",
)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _talk(handler: Handler, story: Callable[[Transfers], Awaitable[Any]]) -> Any:
    """Return what ``story`` returns, whose requests ``handler`` answers."""

    async def talk() -> Any:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        address = CloudAddress(
            **{
                **{name: getattr(ON_AWS, name) for name in CloudAddress.__struct_fields__},
                "s3_url": f"http://127.0.0.1:{port}",
            }
        )
        try:
            async with Transfers(address) as transfers:
                return await story(transfers)
        finally:
            await runner.cleanup()

    return asyncio.run(talk())


def test_an_upload_is_signed_with_the_device_own_credentials() -> None:
    seen: list[web.Request] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append(request)
        assert await request.read() == b"update"
        return web.Response()

    _talk(handler, lambda transfers: transfers.put("bucket", "updates/a:b/1.safetensors", b"update", KEYS))
    (request,) = seen
    assert request.method == "PUT"
    assert request.raw_path == "/bucket/updates/a%3Ab/1.safetensors"
    assert request.headers["x-amz-security-token"] == "token"
    assert "Credential=AKIA1/" in request.headers["authorization"]
    assert len(request.headers["x-amz-content-sha256"]) == 64


def test_a_download_returns_the_object() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=b"model")

    assert _talk(handler, lambda transfers: transfers.get("bucket", "models/0", KEYS)) == b"model"


def test_a_refusal_of_s3_has_its_reason() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=403, text="<Code>AccessDenied</Code>")

    with pytest.raises(TransferError, match=r"S3 refuses PUT of updates/a: HTTP 403 <Code>AccessDenied"):
        _talk(handler, lambda transfers: transfers.put("bucket", "updates/a", b"", KEYS))


def test_a_connection_that_breaks_is_a_failed_transfer() -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.abort()
        return web.Response()

    with pytest.raises(TransferError, match="PUT of updates/a failed"):
        _talk(handler, lambda transfers: transfers.put("bucket", "updates/a", b"x", KEYS))


def test_credentials_that_cannot_be_had_are_named() -> None:
    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response()

    with pytest.raises(TransferError, match=r"https://credentials/role-aliases/alias/.* gives press-1"):
        _talk(handler, lambda transfers: transfers.credentials("press-1", ssl.create_default_context()))


def test_objects_have_the_address_of_their_cloud() -> None:
    assert object_url(ON_AWS, "bucket", "updates/a b") == (
        "https://bucket.s3.eu-central-1.amazonaws.com/updates/a%20b"
    )


def test_the_signature_covers_the_body() -> None:
    url = object_url(ON_AWS, "bucket", "updates/a")
    one, other = (signed_headers("PUT", url, body, KEYS, "eu-central-1") for body in (b"1", b"2"))
    assert {one["X-Amz-Date"], one["X-Amz-Security-Token"]} >= {"token"}
    assert one["Authorization"] != other["Authorization"]


def test_credentials_are_renewed_before_they_expire() -> None:
    soon, later = (datetime.now(UTC) + timedelta(minutes=minutes) for minutes in (4, 6))
    assert not DeviceCredentials(KEYS, soon).usable
    assert DeviceCredentials(KEYS, later).usable
