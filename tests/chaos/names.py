"""What an answer names of tenants' own things: the fields that the contract marks, at any depth."""

from __future__ import annotations

from functools import lru_cache

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from tenure_server.rpc.owned import Owned, Walker

#: Names that mean something only inside of one tenant cannot be foreign by themselves.
_LOCAL = {Owned.WORKFLOW}


@lru_cache(maxsize=256)
def _walker(message: Descriptor) -> Walker:
    return Walker(message)


def names_in(message: Message) -> list[tuple[str, str]]:
    """The names as (what, id)."""
    found = _walker(message.DESCRIPTOR).mentions(message)
    return [(owned.name, value) for _, owned, value in found if owned not in _LOCAL]
