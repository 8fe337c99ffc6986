"""The signature of the console's MQTT connections, checked by the algorithm that AWS documents."""

import hashlib
import hmac
from urllib.parse import parse_qsl, quote, urlsplit

import pytest
from botocore.credentials import ReadOnlyCredentials

from fedgrass.console import stack
from fedgrass.console.topic_feed import signed_address
from tests.fakes.stubbed_aws import StubbedAws

HOST = "abc123-ats.iot.eu-west-1.amazonaws.com"
KEY, SECRET, TOKEN = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "to/ken+=="


def signature_of(host: str, path: str, secret: str) -> str:
    """Compute the signature of a path as in "Signature Version 4" of AWS's documentation."""
    address = urlsplit(path)
    query = dict(parse_qsl(address.query))
    signed = {
        name: value
        for name, value in query.items()
        if name not in {"X-Amz-Signature", "X-Amz-Security-Token"}
    }
    canonical_query = "&".join(
        f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in sorted(signed.items())
    )
    empty = hashlib.sha256(b"").hexdigest()
    request = f"GET\n{address.path}\n{canonical_query}\nhost:{host}\n\nhost\n{empty}"
    _, day, region, service, end = query["X-Amz-Credential"].split("/")
    text = f"AWS4-HMAC-SHA256\n{query['X-Amz-Date']}\n{day}/{region}/{service}/{end}\n"
    text += hashlib.sha256(request.encode()).hexdigest()
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, end):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, text.encode(), "sha256").hex()


@pytest.mark.parametrize("token", [None, TOKEN])
def test_the_signature_is_that_of_the_documented_algorithm(token: str | None) -> None:
    path = signed_address.sign(HOST, ReadOnlyCredentials(KEY, SECRET, token), "eu-west-1")
    query = dict(parse_qsl(urlsplit(path).query))
    assert urlsplit(path).path == "/mqtt"
    assert query["X-Amz-Signature"] == signature_of(HOST, path, SECRET)
    assert query["X-Amz-Credential"].endswith("/eu-west-1/iotdevicegateway/aws4_request")
    assert query["X-Amz-Expires"] == "120"


def test_the_session_token_comes_after_the_signature_which_does_not_cover_it() -> None:
    path = signed_address.sign(HOST, ReadOnlyCredentials(KEY, SECRET, TOKEN), "eu-west-1")
    before, _, after = path.partition("&X-Amz-Signature=")
    assert "Security-Token" not in before
    assert after.endswith("&X-Amz-Security-Token=to%2Fken%2B%3D%3D")
    assert "Security-Token" not in signed_address.sign(
        HOST, ReadOnlyCredentials(KEY, SECRET, None), "eu-west-1"
    )


def test_a_stack_on_aws_is_reached_by_tls_at_the_endpoint_of_its_account(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    aws = StubbedAws()
    aws.expect("iot", "describe_endpoint", {"endpointAddress": HOST}, endpointType="iot:Data-ATS")
    monkeypatch.setattr(stack, "client", lambda service, _profile, _region: aws.client(service))
    monkeypatch.setattr(
        stack, "credentials", lambda _profile, _region: ReadOnlyCredentials(KEY, SECRET, None)
    )
    address = signed_address.signed_address()
    assert (address.host, address.port, address.has_tls, address.host_header) == (HOST, 443, True, HOST)


def test_without_credentials_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    with pytest.raises(stack.StackError, match="set AWS_PROFILE"):
        stack.credentials()
    with pytest.raises(stack.StackError, match="profile"):
        stack.credentials("not-there")
