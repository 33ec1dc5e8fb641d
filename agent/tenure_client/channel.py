"""The way to a coordinator: address, TLS, call metadata and the channel itself.

Agents and clients open their channels here and nowhere else, so that limits and keepalive are the
same on every line.
"""

import os

# Must stand before the first import of grpc: its fork handlers crash children that are spawned
# while calls are under way. grpc reads the variable once, when it is loaded.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
KEEPALIVE_SECONDS = 20
KEEPALIVE_TIMEOUT_SECONDS = 10
RECONNECT_SECONDS_MAX = 5


class ChannelError(ValueError):
    """The endpoint or the credentials cannot be used as they are; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for TLS, each in PEM form.

    Without `ca` the system's roots are trusted. `cert` and `key` come together and make it
    mutual TLS.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises ChannelError when one cannot be read or its partner lacks."""
        if (self.cert is None) != (self.key is None):
            raise ChannelError("tls: a certificate and a key must be given together")
        return grpc.ssl_channel_credentials(
            root_certificates=_read_pem("ca", self.ca),
            private_key=_read_pem("key", self.key),
            certificate_chain=_read_pem("cert", self.cert),
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a coordinator listens (`host:port`, `[v6]:port`, `unix:/path`) and how to trust it."""

    address: str
    tls: Tls | None = None


def open_channel(endpoint: Endpoint) -> grpc.aio.Channel:
    """Opens a channel; the connection itself is made with the first call.

    Raises ChannelError for an address without a port and for TLS files that cannot be read.
    """
    check_address(endpoint.address)
    options: list[tuple[str, int]] = [
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 1000),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_SECONDS_MAX * 1000),
    ]
    if _is_local(endpoint.address):
        # A proxy in the environment must not swallow calls to this very host.
        options.append(("grpc.enable_http_proxy", 0))
    if endpoint.tls is None:
        return grpc.aio.insecure_channel(endpoint.address, options=options)
    return grpc.aio.secure_channel(endpoint.address, endpoint.tls.credentials(), options=options)


def metadata(
    key: str, *, tenant: str | None = None, correlation_id: str | None = None
) -> tuple[tuple[str, str], ...]:
    """Gives the metadata of a call: the key, the tenant to act in, the id that ties calls together.

    Raises ChannelError for a value that no metadata can carry; the message never shows the key.
    """
    pairs = [("authorization", f"Bearer {key}")]
    if tenant is not None:
        pairs.append(("x-tenure-tenant", tenant))
    if correlation_id is not None:
        pairs.append(("x-correlation-id", correlation_id))
    for name, value in pairs:
        if not (value.isascii() and value.isprintable()):
            raise ChannelError(f"{name}: only printable ASCII characters can be sent")
    return tuple(pairs)


def check_address(address: str) -> None:
    """Raises ChannelError unless the address has a host and a port, or names a unix socket."""
    if address.startswith("unix:"):
        return
    host, separator, port = address.rpartition(":")
    host = host.rpartition("/")[2]
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ChannelError(f"address {address!r}: must read host:port, such as 127.0.0.1:7233")


def _is_local(address: str) -> bool:
    """Tells whether an address stays on this host."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].rpartition("/")[2].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _read_pem(what: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise ChannelError(f"tls {what}: cannot read {path}: {error.strerror}") from error
