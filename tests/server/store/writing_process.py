"""A coordinator that commits as fast as it can and prints what it has committed.

Each commit holds a hundred events, numbered on from the last; what is printed is the last number.
"""

from __future__ import annotations

import os
import sys

from tenure_server.core.ledger import records
from tenure_server.core.ledger.journal import Changes
from tenure_server.store.database import open_store
from tenure_server.store.reads import TenantReads
from tenure_server.store.seats import Seats

TENANT = "acme"
RUN = "run"
EVENTS = 100


def main(url: str) -> None:
    """Commits until it is killed."""
    store = open_store(url, holder=f"writing-{os.getpid()}", address="writing:1")
    # With no time at all, so that the next process can take it over at once.
    seats = {seat.tenant_id: seat.term for seat in Seats(store).take(0, 0)}
    if not seats:
        tenant = records.Tenant(
            tenant_id=TENANT, display_name="", max_leases=1, weight=1, create_us=0
        )
        store.writer().act({}, lambda acts: acts.create_tenant(tenant))
        seats = {TENANT: 1}
        Seats(store).renew(0, 0)
    with store.reading():
        last = TenantReads(store, TENANT).last_sequence(RUN)
    while True:
        numbers = range(last + 1, last + 1 + EVENTS)
        rows = [(TENANT, RUN, n, 0, 1, "", 0, 0, "", "", "x" * 200) for n in numbers]
        store.writer().commit(Changes(seats=seats, events=rows))
        last += EVENTS
        print(last, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
