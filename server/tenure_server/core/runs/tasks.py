"""What is known of a task under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tenure_server.core.definitions.payloads import Payload
from tenure_server.core.ledger.lifecycle import Failure


@dataclass(slots=True)
class TaskFacts:
    """What is known of a task that was leased and has not ended."""

    attempt: int = 0
    term: int = 0
    lost: int = 0
    agent: str = ""
    holder: str = ""
    token_hash: bytes = b""
    lease_us: int | None = None
    retry_us: int | None = None
    #: Digest of the result under this term. Empty: none came yet.
    result_hash: bytes = b""
    failure: Failure | None = None
    checkpoint: Payload | None = None
    #: What the kinds of activity keep of a task, JSON; each key belongs to one of them.
    detail: dict[str, Any] | None = None

    def keep(self, **values: Any) -> None:
        """Adds to the detail, beside what others keep there."""
        self.detail = {**(self.detail or {}), **values}
