"""Servers between a client and Swift: a TLS proxy, and an HTTP proxy."""

import contextlib
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
BLOCK = 65536


def write_certificate(file: Path, *, name: str = HOST, days: int = 1) -> Path:
    """Write a self-signed certificate for `name`, valid for `days`, and its key into `file`."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "swiftfs test")])
    end = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    try:
        names: list[x509.GeneralName] = [x509.IPAddress(ipaddress.ip_address(name))]
    except ValueError:
        names = [x509.DNSName(name)]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(end - datetime.timedelta(days=3))
        .not_valid_after(end)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))
    return file


class Proxy:
    """A server on loopback that forwards connections to `port`; `with` starts and stops it.

    With a `certificate` it is a TLS proxy and, if `says_https`, changes the storage URL of a login to https;
    without one it is an HTTP proxy.
    """

    def __init__(self, port: int, certificate: Path | None = None) -> None:
        self.connections = 0
        self.says_https = True
        self._port = port
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._listener = socket.create_server((HOST, 0))
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        """The URL at which it listens."""
        scheme = "https" if self._context else "http"
        return f"{scheme}://{HOST}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "Proxy":
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(client,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if self._context:
                client = self._context.wrap_socket(client, server_side=True)
            stack.enter_context(self._kept(client))
            server = stack.enter_context(self._kept(socket.create_connection((HOST, self._port))))
            answers = threading.Thread(target=self._pass, args=(server, client))
            answers.start()
            stack.callback(answers.join)
            self._pass(client, server)

    @contextlib.contextmanager
    def _kept(self, connection: socket.socket) -> Iterator[socket.socket]:
        self._open.add(connection)
        try:
            yield connection
        finally:
            self._open.discard(connection)
            connection.close()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        """Forward bytes until one side ends; then end both, so that the opposite direction ends too."""
        with contextlib.suppress(OSError):
            while block := source.recv(BLOCK):
                target.sendall(self._changed(block))
        for side in (source, target):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _changed(self, block: bytes) -> bytes:
        if self._context and self.says_https:
            return block.replace(b"Storage-Url: http:", b"Storage-Url: https:")
        method, _, rest = block.partition(b" ")
        if rest.startswith(b"http://"):  # clients send a proxy the whole URL (RFC 9112, 3.2.2)
            url, space, more = rest.partition(b" ")
            parts = urlsplit(url.decode())
            path = f"{parts.path}?{parts.query}" if parts.query else parts.path
            return method + b" " + path.encode() + space + more
        return block
