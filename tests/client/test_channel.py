"""Endpoints: what is an address, what is needed for TLS."""

import os
from pathlib import Path

import pytest

from tenure_client import channel


def test_the_fork_handlers_of_grpc_are_off() -> None:
    assert os.environ["GRPC_ENABLE_FORK_SUPPORT"] == "0"


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7233", "[::1]:7233", "dns:///host:1", "unix:/run/t.sock", "h:65535"]
)
async def test_addresses_with_a_port_are_taken(address: str) -> None:
    line = channel.open_channel(channel.Endpoint(address))
    await line.close()


@pytest.mark.parametrize("address", ["", "host", ":7233", "host:", "host:0", "host:65536", "h:x"])
def test_addresses_without_host_or_port_are_refused(address: str) -> None:
    with pytest.raises(channel.ChannelError, match="must read host:port"):
        channel.open_channel(channel.Endpoint(address))


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(channel.ChannelError, match="given together"):
        channel.Tls(cert=Path("cert.pem")).credentials()


def test_a_missing_tls_file_is_named() -> None:
    with pytest.raises(channel.ChannelError, match=r"tls ca: cannot read none\.pem: No such file"):
        channel.Tls(ca=Path("none.pem")).credentials()


def test_metadata_holds_what_is_given_and_nothing_else() -> None:
    assert channel.metadata("k") == (("authorization", "Bearer k"),)
    assert channel.metadata("k", tenant="dev", correlation_id="c") == (
        ("authorization", "Bearer k"),
        ("x-tenure-tenant", "dev"),
        ("x-correlation-id", "c"),
    )
