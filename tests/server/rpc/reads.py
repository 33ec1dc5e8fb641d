"""What the store is asked for each call: the statements, not their number alone.

Two paths that ask the same cannot be told apart by a clock, and no machine is too busy to see that.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import peewee
import pytest
import structlog

from tenure_server import app
from tenure_server.engine.readers import Readers
from tenure_server.engine.settings import Settings
from tenure_server.store.database import Store

#: Longer than any test: what is known of a key is not read again in the middle of a call.
_KEY_US = 10**12


class Reads:
    """Notes every statement by the correlation id of the call that it is run for.

    Make it before the coordinator, whose parts keep its methods.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._by_call: dict[str, list[str]] = defaultdict(list)
        self._thread = threading.local()
        read, rows, settings = Readers.read, Store.rows, app.Coordinator.settings

        async def noted_read(
            readers: Readers, work: Callable[..., Any], *args: Any, **kw: Any
        ) -> Any:
            tie = structlog.contextvars.get_contextvars().get("correlation_id", "")

            def run() -> Any:
                self._thread.tie = tie
                try:
                    return work(*args, **kw)
                finally:
                    self._thread.tie = ""

            return await read(readers, run)

        def noted_rows(
            store: Store, query: peewee.Node, values: Mapping[str, Any], needs: str = ""
        ) -> list[tuple[Any, ...]]:
            tie = getattr(self._thread, "tie", "")
            self._by_call[tie].append(store._statements.of(query).sql)
            return rows(store, query, values, needs)

        def patient(coordinator: app.Coordinator) -> Settings:
            return replace(settings(coordinator), key_us=_KEY_US)

        monkeypatch.setattr(Readers, "read", noted_read)
        monkeypatch.setattr(Store, "rows", noted_rows)
        monkeypatch.setattr(app.Coordinator, "settings", patient)

    def taken(self, correlation_id: str) -> tuple[str, ...]:
        """What was asked for a call since this was asked last."""
        return tuple(self._by_call.pop(correlation_id, ()))
