"""What makes a mutation safe to repeat: its request id, and the digest of what it asks."""

from __future__ import annotations

import hashlib
from typing import Any

from tenure_server.core.ledger import records


def repeatable(message: Any, method: str) -> records.Request | None:
    """The identity of a mutation, None when its caller gave no `request_id`."""
    request_id: str = message.request_id
    if not request_id:
        return None
    # The id is taken out for a moment: copying a definition of megabytes would cost more.
    message.ClearField("request_id")
    content = message.SerializeToString(deterministic=True)
    message.request_id = request_id
    return records.Request(
        request_id=request_id, method=method, digest=hashlib.sha256(content).digest()
    )
