"""A coordinator's SQLite file as it lies there: its logs, checkpoints and keys, and its records.

Read-only and offline, in one snapshot, with the standard library's driver. What is in the file is
not believed: `records` and `audit` judge it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

from tenure_evidence.packing import unpacked

#: Columns of an entry in the order of `Stored`.
_ENTRIES = """
SELECT e.entry_index, e.entry, e.items, n.hash,
       e.at_us, e.kind, e.principal, e.correlation_id, e.standing
FROM evidence_entries e LEFT JOIN evidence_nodes n
  ON n.tenant_id = e.tenant_id AND n.level = 0 AND n.position = e.entry_index
WHERE e.tenant_id = ? ORDER BY e.entry_index
"""
_LOGS = """
SELECT tenant_id FROM evidence_heads WHERE size > 0
UNION SELECT DISTINCT tenant_id FROM evidence_entries
UNION SELECT DISTINCT tenant_id FROM evidence_checkpoints
UNION SELECT tenant_id FROM tenants
ORDER BY 1
"""


class DatabaseInvalid(ValueError):  # noqa: N818 - a finding about a file, not an error of the program
    """A file cannot be read as a coordinator's database, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An entry's row; nothing of it is verified."""

    index: int
    entry: bytes
    #: The items as a JSON array; None: there are none.
    items: bytes | None
    #: The stored hash of the leaf; None: it is missing.
    leaf: bytes | None
    #: at_us, kind, principal, correlation_id, standing: what the entry says too, for searching.
    columns: tuple[Any, ...]


class Database:
    """The file, open. Use it as a context manager, or call `close`."""

    def __init__(self, path: Path) -> None:
        """Raises DatabaseInvalid, or OSError when there is no such file."""
        path.stat()
        # Without a log beside it nobody writes, and nothing may be left behind in the folder.
        quiet = not path.with_name(path.name + "-wal").exists()
        mode = "mode=ro&immutable=1" if quiet else "mode=ro"
        self._database = sqlite3.connect(
            f"file:{quote(str(path.absolute()))}?{mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            self._database.execute("PRAGMA query_only = ON")
            self._database.execute("BEGIN")
            self._database.execute("SELECT size FROM evidence_heads LIMIT 1").fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            self._database.close()
            raise DatabaseInvalid(f"is not a coordinator's database: {error}") from None

    def close(self) -> None:
        """Closes the file."""
        self._database.close()

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def logs(self) -> list[str]:
        """The tenants that have a log; the empty name stands for the installation's own."""
        try:
            return [str(row[0]) for row in self.rows(_LOGS)]
        except sqlite3.Error as error:
            raise DatabaseInvalid(f"cannot be read: {error}") from None

    def keys(self) -> tuple[str, tuple[str, ...]]:
        """The root's verifier key, empty when there is none, and the certificates after it."""
        try:
            rows = self.rows("SELECT text FROM signing_keys ORDER BY number")
            texts = [str(row[0]) for row in rows]
        except sqlite3.Error as error:
            raise DatabaseInvalid(f"cannot be read: {error}") from None
        return (texts[0], tuple(texts[1:])) if texts else ("", ())

    def checkpoints(self, log: str) -> list[str]:
        """The signed notes that were kept, by size."""
        sql = "SELECT note FROM evidence_checkpoints WHERE tenant_id = ? ORDER BY size"
        try:
            return [str(row[0]) for row in self.rows(sql, log)]
        except sqlite3.Error as error:
            raise DatabaseInvalid(f"cannot be read: {error}") from None

    def size(self, log: str) -> int:
        """How many entries the log has, as its head says."""
        sql = "SELECT size FROM evidence_heads WHERE tenant_id = ?"
        found = self.row(sql, log)
        return int(found[0]) if found else 0

    def entries(self, log: str) -> Iterator[Stored]:
        """The entries by number. Raises sqlite3.Error where the file is damaged."""
        for index, entry, items, leaf, *columns in self.rows(_ENTRIES, log):
            yield Stored(
                index=int(index),
                entry=_bytes(entry) or b"",
                items=_array(_bytes(items)),
                leaf=_bytes(leaf),
                columns=tuple(columns),
            )

    def rows(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """The rows of a query. Raises sqlite3.Error where the file is damaged."""
        try:
            with closing(self._database.execute(sql, values)) as cursor:
                yield from cursor
        except UnicodeDecodeError as error:
            # The driver stumbles over a damaged name in its own message.
            raise sqlite3.DatabaseError(f"what is no text is in the file: {error}") from None

    def row(self, sql: str, *values: Any) -> tuple[Any, ...] | None:
        """The first row of a query, or None. Raises sqlite3.Error likewise."""
        return next(self.rows(sql, *values), None)


def _array(stored: bytes | None) -> bytes | None:
    """The items as an array. What is damaged stays as it is, for the audit to find."""
    try:
        return None if stored is None else unpacked(stored)
    except (ValueError, AttributeError):
        return stored


def _bytes(value: Any) -> bytes | None:
    # Whoever changes a file by hand may leave any type in a column.
    return value.encode(errors="replace") if isinstance(value, str) else value
