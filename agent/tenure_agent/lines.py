"""What is due to one coordinator on its stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from tenure.v1 import agents_pb2
from tenure_agent.holding import Key
from tenure_agent.slots import Share

#: The size at which a message is closed and the rest goes into the next one. One element more may
#: come on top, of at most 1 MiB and a little.
MESSAGE_BYTES = 3 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Line:
    """One stream, from its welcome to its end, as the workbench sees it."""

    share: Share
    lease_seconds: float
    accept_within_seconds: float
    accepts: list[agents_pb2.LeaseRef] = field(default_factory=list)
    renewals: deque[agents_pb2.Renewal] = field(default_factory=deque)
    returns: list[agents_pb2.LeaseRef] = field(default_factory=list)
    #: Results of an earlier process: of tenants that may be served here or not.
    strays: deque[agents_pb2.Result] = field(default_factory=deque)
    draining_told: bool = False
    #: Set when there may be something to say.
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def tenants(self) -> set[str]:
        """The tenants that are served on it."""
        return self.share.tenants

    def say_renewals(self, said: agents_pb2.WorkRequest) -> int:
        """Puts renewals into a message as far as they fit. Gives the room that is left, in bytes,
        which may be nothing or less.
        """
        room = MESSAGE_BYTES
        while self.renewals and room > 0:
            renewal = self.renewals.popleft()
            room -= renewal.ByteSize()
            said.renewals.append(renewal)
        return room

    def say_strays(
        self, said: agents_pb2.WorkRequest, room: int, wanted: Callable[[Key], bool]
    ) -> int:
        """Puts strays that are wanted still into a message. Gives the room that is left."""
        while self.strays and room > 0:
            stray = self.strays.popleft()
            lease = stray.lease
            if wanted((lease.run_id, lease.task_key, lease.term)):
                room -= stray.ByteSize()
                said.results.append(stray)
        return room
