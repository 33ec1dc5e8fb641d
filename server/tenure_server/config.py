"""What a coordinator can be told: flags and environment, as one frozen value that makes sense."""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

LEASE_SECONDS_MIN = 1.0
LEASE_SECONDS_MAX = 3600.0
LEASE_SECONDS_DEFAULT = 30.0
ACCEPT_SECONDS_MIN = 0.1
ACCEPT_SECONDS_DEFAULT = 5.0
SEAT_SECONDS_MIN = 1.0
SEAT_SECONDS_MAX = 60.0
SEAT_SECONDS_DEFAULT = 6.0
DAYS_MAX = 36_500.0
LISTEN_DEFAULT = "127.0.0.1:7233"
TENANT_DEFAULT = "dev"
#: As in the contract.
_TENANT = re.compile(r"[a-z][a-z0-9-]{0,39}")
#: What the installation's own log is called in decision ids.
RESERVED_TENANT = "installation"


class ConfigError(ValueError):
    """The configuration makes no sense. The message is one line for the operator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """What the coordinator proves itself with, and whom it trusts. PEM bytes."""

    cert: bytes
    key: bytes
    #: When set, clients must show a certificate that this authority signed.
    client_ca: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """How one coordinator runs. Make it with `Config.checked`."""

    store: str
    listen: str
    #: Where others reach this coordinator; empty for the address it listens on.
    address: str = ""
    lease_seconds: float = LEASE_SECONDS_DEFAULT
    accept_seconds: float = ACCEPT_SECONDS_DEFAULT
    seat_seconds: float = SEAT_SECONDS_DEFAULT
    tls: TlsFiles | None = None
    #: The platform's constitution; None for the one that is shipped.
    constitution: Path | None = None
    ready_file: Path | None = None
    #: How long payloads of runs that have ended are kept, and the runs. 0: for ever.
    keep_payloads_days: float = 0.0
    keep_runs_days: float = 0.0
    #: The private key of evidence. None: beside the SQLite file.
    signing_key: Path | None = None
    bootstrap_file: Path | None = None
    bootstrap_tenant: str = TENANT_DEFAULT
    exit_with_stdin: bool = False
    #: For tests of workflows: time stands still, and jumps as it is told on this Unix socket.
    skip_time: Path | None = None
    log_format: Literal["json", "console"] = "console"
    log_level: str = "info"

    @classmethod
    def checked(
        cls,
        *,
        store: str,
        listen: str,
        address: str,
        lease_seconds: float,
        accept_seconds: float,
        seat_seconds: float,
        tls_cert: Path | None,
        tls_key: Path | None,
        tls_client_ca: Path | None,
        constitution: Path | None,
        keep_payloads_days: float,
        keep_runs_days: float,
        signing_key: Path | None,
        ready_file: Path | None,
        bootstrap: Path | None,
        bootstrap_tenant: str,
        exit_with_stdin: bool,
        log_format: Literal["json", "console"],
        log_level: str,
        skip_time: Path | None = None,
    ) -> Self:
        """Checks everything and reads the TLS files. Raises ConfigError."""
        _check_span("--lease-seconds", lease_seconds, LEASE_SECONDS_MIN, LEASE_SECONDS_MAX)
        _check_span("--accept-seconds", accept_seconds, ACCEPT_SECONDS_MIN, LEASE_SECONDS_MAX)
        _check_span("--seat-seconds", seat_seconds, SEAT_SECONDS_MIN, SEAT_SECONDS_MAX)
        _check_span("--keep-payloads-days", keep_payloads_days, 0.0, DAYS_MAX)
        _check_span("--keep-runs-days", keep_runs_days, 0.0, DAYS_MAX)
        tls = _read_tls(tls_cert, tls_key, tls_client_ca)
        host = _check_address("--listen", listen, port_min=0)
        if address:
            _check_address("--address", address, port_min=1)
        elif host in ("", "0.0.0.0", "::", "*"):
            raise ConfigError(f"--address is required, because --listen {listen} has no one host")
        for name, path in (
            ("--signing-key", signing_key),
            ("--ready-file", ready_file),
            ("--bootstrap", bootstrap),
            ("--skip-time", skip_time),
        ):
            if path is not None and not path.absolute().parent.is_dir():
                raise ConfigError(f"{name}: there is no directory {path.absolute().parent}")
        if not _TENANT.fullmatch(bootstrap_tenant) or bootstrap_tenant == RESERVED_TENANT:
            raise ConfigError(
                "--bootstrap-tenant must begin with a lower-case letter and have at most 40 "
                "lower-case letters, digits and hyphens, and not be the installation itself: "
                f"{bootstrap_tenant!r}"
            )
        store = _checked_store(store)
        if skip_time is not None:
            _check_throw_away(store, host)
        if signing_key is None and not store.startswith("sqlite:"):
            raise ConfigError(
                "--signing-key is required with PostgreSQL: every coordinator of the store needs "
                "the same key file"
            )
        return cls(
            store=store,
            listen=listen,
            address=address,
            lease_seconds=lease_seconds,
            accept_seconds=accept_seconds,
            seat_seconds=seat_seconds,
            tls=tls,
            constitution=constitution,
            keep_payloads_days=keep_payloads_days,
            keep_runs_days=keep_runs_days,
            signing_key=signing_key,
            ready_file=ready_file,
            bootstrap_file=bootstrap,
            bootstrap_tenant=bootstrap_tenant,
            exit_with_stdin=exit_with_stdin,
            log_format=log_format,
            log_level=log_level,
            skip_time=skip_time,
        )

    @property
    def in_the_clear(self) -> bool:
        """Whether keys can be read on the network: no TLS, and callers on other machines."""
        host = self.listen.rpartition(":")[0].strip("[]")
        return self.tls is None and not _is_loopback(host)

    def advertised(self, port: int) -> str:
        """Where others reach this coordinator, once its port is known."""
        if self.address:
            return self.address
        host = self.listen.rpartition(":")[0]
        return f"{host}:{port}"


def _check_span(flag: str, seconds: float, least: float, most: float) -> None:
    if not least <= seconds <= most:
        raise ConfigError(f"{flag} must lie between {least:g} and {most:g}")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_throw_away(store: str, host: str) -> None:
    """Raises ConfigError where wrong times could harm anybody: real data, or other callers."""
    if not _is_loopback(host):
        raise ConfigError("--skip-time is for tests: --listen must be a loopback address")
    if not store.startswith("sqlite:"):
        raise ConfigError("--skip-time is for tests: --store must be a new SQLite file")
    file = Path(store.removeprefix("sqlite://"))
    if file.exists():
        raise ConfigError(f"--skip-time is for tests: --store must be a new file, {file} exists")


def _checked_store(url: str) -> str:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in ("sqlite", "postgresql", "postgres"):
        raise ConfigError(
            "--store must read sqlite:///absolute/path/to/file or postgresql://…, "
            f"not {scheme if separator else url!r}"
        )
    return url


def _check_address(flag: str, address: str, *, port_min: int) -> str:
    """The host of a `host:port`. Raises ConfigError."""
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or not port_min <= int(port) <= 65535:
        raise ConfigError(f"{flag} must read host:port, such as {LISTEN_DEFAULT}, not {address!r}")
    bare = host
    if host.startswith("[") and host.endswith("]"):
        bare = host[1:-1]
        try:
            ipaddress.IPv6Address(bare)
        except ValueError:
            raise ConfigError(f"{flag}: {host} is no IPv6 address") from None
    elif ":" in host:
        raise ConfigError(f"{flag}: an IPv6 address stands in brackets, such as [::1]:7233")
    return bare


def _read_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    if cert is None and key is None:
        if client_ca is not None:
            raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key beside it")
        return None
    if cert is None or key is None:
        raise ConfigError("--tls-cert and --tls-key come together")
    files = TlsFiles(
        cert=_read_pem("--tls-cert", cert, "CERTIFICATE"),
        key=_read_pem("--tls-key", key, "PRIVATE KEY"),
        client_ca=(
            None if client_ca is None else _read_pem("--tls-client-ca", client_ca, "CERTIFICATE")
        ),
    )
    try:
        # With a word for keys that need one: otherwise OpenSSL asks for it at the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, lambda: "none")
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"--tls-key: {key} is not the key of {cert}") from None
        reason = error.reason or error
        raise ConfigError(f"--tls-cert {cert} and --tls-key {key} do not load: {reason}") from None
    return files


def _read_pem(flag: str, path: Path, kind: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag}: cannot read {path}: {error.strerror}") from None
    if b"-----BEGIN " not in content or f"{kind}-----".encode() not in content:
        raise ConfigError(f"{flag}: {path} holds no PEM {kind.lower()}")
    return content
