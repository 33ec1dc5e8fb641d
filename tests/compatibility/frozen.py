"""Stores as older versions left them, each killed in the middle of its work; `fill` made them."""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import psycopg

from tenure.v1 import agents_pb2

Kind = Literal["sqlite", "postgresql"]
KINDS: tuple[Kind, ...] = ("sqlite", "postgresql")
STORES = Path(__file__).with_name("stores")
#: Each version by what was new in it, and the commit that was run.
VERSIONS = {"foundation": "6b7df65", "evidence": "8087682", "semantics": "592b506"}


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run, its tasks and its events were, as its coordinator told it then, in JSON."""

    run: dict[str, Any]
    tasks: list[dict[str, Any]]
    events: list[dict[str, Any]]

    @property
    def run_id(self) -> str:
        """The run's id."""
        found: str = self.run["runId"]
        return found

    @property
    def ended(self) -> bool:
        """Whether it had ended."""
        return "endTime" in self.run


@dataclass(frozen=True)
class Frozen:
    """One store."""

    version: str
    kind: Kind

    @property
    def folder(self) -> Path:
        """Where its files are."""
        return STORES / self.version / self.kind

    @cached_property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((self.folder / "facts.json").read_text())
        return facts

    @property
    def secrets(self) -> dict[str, str]:
        """The secrets of its keys, by ``tenant/role``."""
        tenants = self._facts["tenants"].items()
        of_tenants = {
            f"{tenant}/{role}": secret
            for tenant, facts in tenants
            for role, secret in facts["keys"].items()
        }
        return {"operator": self._facts["operator"], **of_tenants}

    def seen(self, tenant: str) -> dict[str, Seen]:
        """The runs of a tenant, by flow."""
        return {flow: Seen(**seen) for flow, seen in self._facts["tenants"][tenant]["runs"].items()}

    def leases(self, tenant: str) -> dict[str, agents_pb2.LeaseRef]:
        """The leases that lived when it was left, by flow."""
        return {
            flow: agents_pb2.LeaseRef(**{**lease, "token": base64.b64decode(lease["token"])})
            for flow, lease in self._facts["tenants"][tenant]["leases"].items()
        }

    def restore(self, url: str) -> None:
        """Puts its tables into an empty database."""
        sql = gzip.decompress((self.folder / "store.sql.gz").read_bytes()).decode()
        if self.kind == "sqlite":
            with closing(sqlite3.connect(url.removeprefix("sqlite://"))) as connection:
                connection.executescript(sql)
        else:
            with psycopg.connect(url, autocommit=True) as database:
                database.execute(sql.encode())

    def signing_key(self, folder: Path) -> Path:
        """Puts its signing key, as far as it had one, into a folder where only we may read it."""
        kept, key = self.folder / "signing-key.json", folder / "signing-key.json"
        if kept.exists():
            key.touch(mode=0o600)
            key.write_bytes(kept.read_bytes())
        return key
