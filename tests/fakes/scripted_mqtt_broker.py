"""An MQTT 5 broker over TLS on 127.0.0.1 whose answers to subscriptions a test chooses.

It implements the part of the protocol that the device's client uses: CONNECT, SUBSCRIBE with one filter,
PUBLISH at QoS 0 and 1, PINGREQ. No session outlives its connection.
"""

import contextlib
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

GRANTED = 1
TAKEN_OVER = 0x8E
Answer = Callable[[int, str], int | None]  # connection's number, filter -> SUBACK's code; None: no answer


class TlsLink:
    """A TLS connection that several threads may use, of which OpenSSL allows only one at a time."""

    def __init__(self, connected: ssl.SSLSocket) -> None:
        connected.settimeout(0.0)  # non-blocking
        self._socket = connected
        self._using = threading.Lock()
        self._sending = threading.Lock()  # keeps packets whole

    def recv(self, count: int) -> bytes:
        """Wait for at most ``count`` bytes; return none if the connection has ended."""
        while True:
            with self._using, contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                return self._socket.recv(count)
            self._wait(reading=True)

    def sendall(self, data: bytes) -> None:
        """Send all of ``data``."""
        with self._sending:
            while data:
                with self._using, contextlib.suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    data = data[self._socket.send(data) :]
                    continue
                self._wait(reading=False)

    def shutdown(self) -> None:
        """Break the connection."""
        with self._using:
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        with self._using:
            self._socket.close()

    def _wait(self, *, reading: bool) -> None:
        number = self._socket.fileno()
        if number < 0:
            raise EOFError
        select.select([number] if reading else [], [] if reading else [number], [], 0.5)


@dataclass
class Client:
    """One connection."""

    number: int
    link: TlsLink
    heard: set[str] = field(default_factory=set)


class ScriptedBroker:
    """Accepts everything except what ``answer`` refuses; records the requests of clients."""

    def __init__(self, folder: Path, answer: Answer = lambda _number, _topic: GRANTED) -> None:
        self.certificate, self.private_key = _certificate(folder)
        self.answer = answer
        self.connects = 0
        self.subscribed: list[tuple[int, str, int | None]] = []
        self.published: list[tuple[int, str, bytes]] = []
        self._clients: dict[str, Client] = {}  # by their client id
        self._lock = threading.Lock()
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(self.certificate, self.private_key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self.cut()

    def connection(self, thing: str) -> dict[str, Any]:
        """Return the ``connection`` table of a device file for this broker."""
        return {
            "thing": thing,
            "endpoint": "localhost",
            "port": self.port,
            "certificate": str(self.certificate),
            "private_key": str(self.private_key),
            "root_ca": str(self.certificate),
            "credentials_endpoint": "none",
            "role_alias": "none",
            "region": "eu-west-1",
        }

    def cut(self) -> None:
        """Break every connection without a DISCONNECT."""
        with self._lock:
            clients = list(self._clients.values())
        for client in clients:
            with contextlib.suppress(OSError):
                client.link.shutdown()

    def forget(self, topic: str) -> None:
        """Silently end every subscription to a topic."""
        with self._lock:
            for client in self._clients.values():
                client.heard.discard(topic)

    def deliver(self, topic: str, payload: bytes) -> None:
        """Publish to every client that is subscribed."""
        with self._lock:
            clients = [client for client in self._clients.values() if topic in client.heard]
        name = topic.encode()
        packet = struct.pack(">H", len(name)) + name + b"\0" + payload
        for client in clients:
            client.link.sendall(b"\x30" + _length(len(packet)) + packet)

    def said(self, kind: str, since: int = 0) -> list[bytes]:
        """Return what was published on topics of one kind by connections from number ``since`` on."""
        return [
            text for number, topic, text in self.published if number >= since and topic.endswith(f"/{kind}")
        ]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # it was closed
            while True:
                raw, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(raw,), daemon=True).start()

    def _serve(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError):
            client = self._connect(TlsLink(self._tls.wrap_socket(raw, server_side=True)))
            while True:
                self._take(client, *_packet(client.link))

    def _connect(self, link: TlsLink) -> Client:
        _, body = _packet(link)
        start = 11 + body[10]  # after the properties, of which the client has fewer than 128 bytes
        size = int.from_bytes(body[start : start + 2], "big")
        name = body[start + 2 : start + 2 + size].decode()
        with self._lock:
            self.connects += 1
            client = Client(self.connects, link)
            former, self._clients[name] = self._clients.get(name), client
        link.sendall(b"\x20\x03\x00\x00\x00")  # accepted, no session present
        if former:
            with contextlib.suppress(OSError):
                former.link.sendall(bytes([0xE0, 2, TAKEN_OVER, 0]))
                former.link.close()
        return client

    def _take(self, client: Client, first: int, body: bytes) -> None:
        if first >> 4 == 8:
            self._subscribe(client, body)
        elif first >> 4 == 3:
            self._publish(client, first, body)
        elif first >> 4 == 12:
            client.link.sendall(b"\xd0\x00")
        elif first >> 4 == 14:
            raise EOFError

    def _subscribe(self, client: Client, body: bytes) -> None:
        start = 3 + body[2]
        size = int.from_bytes(body[start : start + 2], "big")
        topic = body[start + 2 : start + 2 + size].decode()
        code = self.answer(client.number, topic)
        self.subscribed.append((client.number, topic, code))
        if code == GRANTED:
            client.heard.add(topic)
        if code is not None:
            client.link.sendall(bytes([0x90, 4, body[0], body[1], 0, code]))

    def _publish(self, client: Client, first: int, body: bytes) -> None:
        size = int.from_bytes(body[:2], "big")
        topic, start = body[2 : 2 + size].decode(), 2 + size
        if first >> 1 & 3:
            client.link.sendall(bytes([0x40, 2, body[start], body[start + 1]]))
            start += 2
        payload = body[start + 1 + body[start] :]
        self.published.append((client.number, topic, payload))
        self.deliver(topic, payload)


def _certificate(folder: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private_key = folder / "broker.pem", folder / "broker.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private_key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return certificate, private_key


def _packet(link: TlsLink) -> tuple[int, bytes]:
    first = _exactly(link, 1)[0]
    length = shift = 0
    while True:
        byte = _exactly(link, 1)[0]
        length |= (byte & 127) << shift
        shift += 7
        if not byte & 128:
            return first, _exactly(link, length)


def _length(count: int) -> bytes:
    encoded = b""
    while True:
        count, digit = divmod(count, 128)
        encoded += bytes([digit | (128 if count else 0)])
        if not count:
            return encoded


def _exactly(link: TlsLink, count: int) -> bytes:
    found = b""
    while len(found) < count:
        piece = link.recv(count - len(found))
        if not piece:
            raise EOFError
        found += piece
    return found
