"""What a web page, a stranger or a client without credentials gets from the embedded cloud: nothing."""

import http.client
import io
import json
import socket
import ssl
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import paho.mqtt.client as mqtt
import pytest
from botocore.auth import S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from paho.mqtt.enums import CallbackAPIVersion

from fedgrass.local.aws.embedded_cloud import CLIENT_CONFIG, EmbeddedCloud
from fedgrass.local.testbed import create_observer
from tests.emulator.local_core import eventually

LIST_TABLES = {"X-Amz-Target": "DynamoDB_20120810.ListTables", "Content-Type": "application/x-amz-json-1.0"}
FUNCTIONS = "/2015-03-31/functions/"


@pytest.fixture(scope="module", params=[False, True], ids=["policies ignored", "policies enforced"])
def cloud(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[EmbeddedCloud]:
    with EmbeddedCloud(tmp_path_factory.mktemp("guarded"), enforces=request.param) as running:
        running.client("s3").create_bucket(Bucket="models")
        running.client("s3").put_object(Bucket="models", Key="secret", Body=b"weights")
        yield running


def ask(
    cloud: EmbeddedCloud,
    method: str,
    path: str,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
) -> tuple[int, bytes]:
    """Send a raw request, and return status and body of the response."""
    port = int(cloud.endpoint_url.rpartition(":")[2])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.putrequest(method, path, skip_host="Host" in (headers or {}))
        for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            connection.putheader(name, value)
        connection.endheaders(body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def signed(
    cloud: EmbeddedCloud, service: str, method: str, path: str, body: bytes = b"", **headers: str
) -> dict[str, str]:
    """Return the headers of a request, signed by the account's owner."""
    variables = cloud.environment()
    owner = Credentials(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    request = AWSRequest(method, cloud.endpoint_url + path, headers=headers, data=body)
    SigV4Auth(owner, service, cloud.region).add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


def forged(key: str) -> dict[str, str]:
    scope = f"{key}/20990101/us-east-1/dynamodb/aws4_request"
    return {
        **LIST_TABLES,
        "X-Amz-Date": "20990101T000000Z",
        "Authorization": f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature={'0' * 64}",
    }


PAGES = {
    "a script of a page": {"Origin": "https://example.com"},
    "a page of another local server": {"Origin": "http://localhost:3000"},
    "a sandboxed frame": {"Origin": "null"},
    "an image of a page": {"Sec-Fetch-Site": "cross-site"},
    "a domain bound to 127.0.0.1": {"Host": "attacker.example:4566"},
    "a virtual host of a bucket": {"Host": "models.localhost:4566"},
}


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/models/secret"),
        ("GET", FUNCTIONS),
        ("POST", FUNCTIONS),
        ("OPTIONS", "/models/secret"),
        ("GET", "/_ministack/ready"),
        ("POST", "/_ministack/reset"),
    ],
)
def test_a_page_is_refused_even_with_a_good_signature(
    cloud: EmbeddedCloud, page: str, method: str, path: str
) -> None:
    service = "s3" if path.startswith("/models") else "lambda"
    good = signed(cloud, service, method, path)
    status, body = ask(cloud, method, path, headers={**good, **PAGES[page]})
    assert status == 403
    assert b"embedded cloud" in body
    assert b"weights" not in body


def test_a_page_cannot_create_a_function_without_credentials(cloud: EmbeddedCloud) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("handler.py", "def run(event, context): return 'ran'")
    function = json.dumps(
        {"FunctionName": "evil", "Runtime": "python3.12", "Handler": "handler.run"}
    ).encode()
    for headers in ({}, forged("test"), forged("000000000000"), forged("AKIAUNKNOWN")):
        assert ask(cloud, "POST", FUNCTIONS, function, headers)[0] == 403
    assert cloud.client("lambda").list_functions()["Functions"] == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "AWS test:signature"},
        {"Authorization": "Bearer test"},
        forged("test"),
        forged("000000000000"),
        forged("123456789012"),
        forged(""),
        forged("AKIA0000000000000000"),
    ],
    ids=str,
)
def test_a_request_without_the_owners_signature_is_refused(
    cloud: EmbeddedCloud, headers: dict[str, str]
) -> None:
    assert ask(cloud, "POST", "/", b"{}", {**LIST_TABLES, **headers})[0] == 403
    assert ask(cloud, "GET", "/models/secret", headers=headers)[0] == 403


def test_the_owners_key_with_a_wrong_secret_is_refused(cloud: EmbeddedCloud) -> None:
    variables = cloud.environment()
    make: Any = boto3.client
    stranger = make(
        "dynamodb",
        endpoint_url=cloud.endpoint_url,
        region_name=cloud.region,
        aws_access_key_id=variables["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key="guessed",  # noqa: S106 - a wrong key is the test
        config=CLIENT_CONFIG,
    )
    with pytest.raises(ClientError, match="signature"):
        stranger.list_tables()


def test_a_signature_counts_for_its_body_and_its_path_only(cloud: EmbeddedCloud) -> None:
    good = signed(cloud, "dynamodb", "POST", "/", b"{}", **LIST_TABLES)
    assert ask(cloud, "POST", "/", b"{}", good)[0] == 200
    assert ask(cloud, "POST", "/", b'{"Limit": 1}', good)[0] == 403
    assert ask(cloud, "POST", "/?Action=Other", b"{}", good)[0] == 403


def presigned(cloud: EmbeddedCloud, seconds: int) -> str:
    """Return the path and query of a presigned URL of an object."""
    variables = cloud.environment()
    owner = Credentials(variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"])
    request = AWSRequest("GET", f"{cloud.endpoint_url}/models/secret")
    S3SigV4QueryAuth(owner, "s3", cloud.region, expires=seconds).add_auth(request)
    return str(request.url).removeprefix(cloud.endpoint_url)


def test_a_presigned_url_is_served_for_its_object_until_it_expires(cloud: EmbeddedCloud) -> None:
    path = presigned(cloud, 600)
    assert ask(cloud, "GET", path) == (200, b"weights")
    assert ask(cloud, "GET", path.replace("/secret", "/other"))[0] == 403
    assert ask(cloud, "GET", path.replace("Expires=600", "Expires=6000"))[0] == 403
    brief = presigned(cloud, 1)
    eventually(lambda: ask(cloud, "GET", brief)[0] == 403, 20)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/_ministack/reset"),
        ("POST", "/_ministack/config"),
        ("GET", "/_ministack/sqs/messages"),
        ("GET", "/_ministack/health"),
        ("GET", "/_localstack/health"),
        ("GET", "/health"),
        ("POST", "/_ministack/ready"),
    ],
)
def test_ministacks_own_api_is_closed_even_to_the_owner(cloud: EmbeddedCloud, method: str, path: str) -> None:
    assert ask(cloud, method, path, b"{}", signed(cloud, "s3", method, path, b"{}"))[0] == 403
    assert cloud.client("s3").get_object(Bucket="models", Key="secret")["Body"].read() == b"weights"


def upgrade(cloud: EmbeddedCloud, path: str, host: str, **headers: str) -> bytes:
    """Ask for a WebSocket with the subprotocol of MQTT, and return the status line."""
    port = int(cloud.endpoint_url.rpartition(":")[2])
    given = {
        "Host": host,
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "mqtt",
        **headers,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    with socket.create_connection(("127.0.0.1", port), timeout=20) as link:
        link.sendall(f"GET {path} HTTP/1.1\r\n{lines}\r\n".encode())
        return link.recv(4096).partition(b"\r\n")[0]


def signed_upgrade(
    cloud: EmbeddedCloud,
    host: str,
    secret: str = "",
    path: str = "/mqtt",
    service: str = "iotdevicegateway",
) -> str:
    """Return a path with a signature, by default the one of the console's MQTT client."""
    variables = cloud.environment()
    key, right = variables["AWS_ACCESS_KEY_ID"], variables["AWS_SECRET_ACCESS_KEY"]
    request = AWSRequest("GET", f"http://{host}{path}")
    SigV4QueryAuth(Credentials(key, secret or right), service, cloud.region, expires=60).add_auth(request)
    return str(request.url).removeprefix(f"http://{host}")


def iot_host(cloud: EmbeddedCloud) -> str:
    return f"abc-ats.iot.{cloud.region}.localhost:{cloud.endpoint_url.rpartition(':')[2]}"


def test_a_websocket_without_a_signature_is_not_served(cloud: EmbeddedCloud) -> None:
    port = cloud.endpoint_url.rpartition(":")[2]
    for host in (f"localhost:{port}", iot_host(cloud)):
        assert b"403" in upgrade(cloud, "/mqtt", host)


def test_the_websocket_of_a_signed_mqtt_client_is_served(cloud: EmbeddedCloud) -> None:
    host = iot_host(cloud)
    assert b"101" in upgrade(cloud, signed_upgrade(cloud, host), host)


def test_a_signed_websocket_is_refused_to_web_pages_other_hosts_paths_and_keys(cloud: EmbeddedCloud) -> None:
    host = iot_host(cloud)
    path = signed_upgrade(cloud, host)
    assert b"403" in upgrade(cloud, path, host, Origin="http://localhost:3000")
    assert b"403" in upgrade(cloud, signed_upgrade(cloud, host, "wrong"), host)
    assert b"403" in upgrade(cloud, signed_upgrade(cloud, host, path="/other"), host)
    assert b"403" in upgrade(cloud, signed_upgrade(cloud, host, service="iotdata"), host)
    attacker = "abc-ats.iot.us-east-1.attacker.example"
    assert b"403" in upgrade(cloud, signed_upgrade(cloud, attacker), attacker)


def test_an_mqtt_client_without_a_certificate_is_not_served(cloud: EmbeddedCloud) -> None:
    context = ssl.create_default_context(cafile=str(cloud.root_ca))
    with socket.create_connection((cloud.iot_endpoint, cloud.mqtt_port), timeout=20) as link:
        # In TLS 1.3, the client completes the handshake before the server checks for a certificate.
        try:
            with context.wrap_socket(link, server_hostname="localhost") as secure:
                secure.sendall(b"\x10\x10\x00\x04MQTT\x04\x02\x00\x3c\x00\x04page")
                answer = secure.recv(4)
        except OSError:
            answer = b""
    assert answer == b"", "the broker answered a client without a certificate"


def test_an_observer_receives_from_its_fleet_and_may_publish_nothing(
    cloud: EmbeddedCloud, tmp_path: Path
) -> None:
    broker = create_observer(cloud, "orchard", tmp_path)
    heard: list[str] = []
    granted, answered = threading.Event(), threading.Event()

    def subscribe(client: mqtt.Client, *_: Any) -> None:
        client.subscribe("fedgrass/orchard/#", qos=1)

    client = mqtt.Client(CallbackAPIVersion.VERSION2, f"{broker.client_prefix}1", protocol=mqtt.MQTTv5)
    client.tls_set(str(broker.root_ca), str(broker.certificate), str(broker.private_key))
    client.on_connect = subscribe
    client.on_subscribe = lambda *_: granted.set()
    client.on_publish = lambda *_: answered.set()
    client.on_message = lambda _client, _data, message: heard.append(message.topic)
    client.connect(broker.host, broker.port)
    client.loop_start()
    try:
        assert granted.wait(20)
        client.publish("fedgrass/orchard/clients/press-1/complete", b"{}", qos=1)
        assert answered.wait(20)
        cloud.client("iot-data").publish(topic="fedgrass/orchard/rounds/first", qos=1, payload=b"{}")
        eventually(lambda: "fedgrass/orchard/rounds/first" in heard, 20)
        assert ("fedgrass/orchard/clients/press-1/complete" in heard) is not cloud.enforces
    finally:
        client.disconnect()
        client.loop_stop()


def test_the_code_of_a_function_needs_the_signature_of_its_address(cloud: EmbeddedCloud) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as code:
        code.writestr("handler.py", "def run(event, context): return 'ran'")
    functions = cloud.client("lambda")
    role = cloud.client("iam").create_role(RoleName="coded", AssumeRolePolicyDocument="{}")["Role"]["Arn"]
    functions.create_function(
        FunctionName="coded",
        Runtime="python3.12",
        Handler="handler.run",
        Role=role,
        Code={"ZipFile": archive.getvalue()},
    )
    location = functions.get_function(FunctionName="coded")["Code"]["Location"]
    parts = urlsplit(location)
    assert ask(cloud, "GET", f"{parts.path}?{parts.query}") == (200, archive.getvalue())
    for query in ("", parts.query.replace("X-Amz-Signature=", "X-Amz-Signature=0"), "X-Amz-Signature=none"):
        assert ask(cloud, "GET", f"{parts.path}?{query}")[0] == 403
    assert ask(cloud, "GET", f"{parts.path.replace('coded', 'other')}?{parts.query}")[0] == 403
    functions.delete_function(FunctionName="coded")
    cloud.client("iam").delete_role(RoleName="coded")
