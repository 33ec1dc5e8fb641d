"""Compares what runs came to with what their last events say of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tenure_evidence import digests
from tenure_evidence.database import Database

_OUTPUTS = """
SELECT run_id, output, output_type FROM workflow_runs WHERE tenant_id = ? AND output IS NOT NULL
"""
_COLUMN = "SELECT 1 FROM pragma_table_info('workflow_runs') WHERE name = 'output'"


class Outcomes:
    """Hears the items of one log, then compares the runs."""

    def __init__(self, database: Database, log: str) -> None:
        self._database = database
        self._log = log
        #: By run: the entry of its end, and the digest of its output.
        self._said: dict[str, tuple[int, str]] = {}
        self.payloads_pruned = 0

    def hear(self, index: int, item: Mapping[str, Any]) -> None:
        """Takes an item of the log, in order: a run that was reopened ends again."""
        match item:
            case {"kind": "run.succeeded", "run": str(run), "output": str(digest)}:
                self._said[run] = (index, digest)
            case {"kind": "run.reopened", "run": str(run)}:
                self._said.pop(run, None)

    def problems(self) -> Iterator[tuple[int | None, str]]:
        """Gives entry and reason for each output that is not the one that was there.

        Raises sqlite3.Error where the file is damaged.
        """
        # A file of a version before there were such outputs.
        stored = self._database.rows(_OUTPUTS, self._log) if self._has_outputs() else iter(())
        for run, data, content_type in stored:
            index, digest = self._said.pop(run, (None, ""))
            if digest != digests.payload_text(data, content_type):
                yield index, f"the output of run {run} is not the one that was there"
        self.payloads_pruned = len(self._said)

    def _has_outputs(self) -> bool:
        return self._database.row(_COLUMN) is not None
