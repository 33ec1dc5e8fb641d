"""Values that many requests carry."""

from __future__ import annotations

import uuid
from datetime import datetime

from google.protobuf import timestamp_pb2

#: So many things are asked for at once.
PAGE_SIZE = 1000


def new_request_id() -> str:
    """An id that makes a repeat of one mutation safe."""
    return uuid.uuid4().hex


def timestamp(moment: datetime) -> timestamp_pb2.Timestamp:
    """A moment as the contract has it; one without a time zone is UTC."""
    stamp = timestamp_pb2.Timestamp()
    stamp.FromDatetime(moment)
    return stamp
