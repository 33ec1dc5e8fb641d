"""The one writer: transactions that assert the seats they were decided under."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TypeVar

import peewee

from tenure_server.core.evidence import Draft
from tenure_server.core.ledger import journal
from tenure_server.store.acts import Acts
from tenure_server.store.backend import Backend, Database
from tenure_server.store.errors import StoreConflict, StoreFailed
from tenure_server.store.ledger import Ledger, Sign, unsigned
from tenure_server.store.schedule_writes import write_schedules

T = TypeVar("T")
#: Every row begins with its tenant.
_TENANT_OF = itemgetter(0)


class Writer:
    """Writes, one transaction at a time, from one thread at a time.

    Every method raises StoreFailed when the database cannot do it, and then opens a new connection
    at its next call. Whatever is raised, nothing was written; StoreFailed tells of the one
    exception.
    """

    def __init__(self, backend: Backend, holder: str, address: str, sign: Sign = unsigned) -> None:
        self._backend = backend
        self._ledger = Ledger(backend, sign)
        self._database = backend.writing
        self._holder = holder
        self._address = address

    def commit(self, changes: journal.Changes) -> None:
        """Writes everything in one transaction, if all the seats are still held.

        At most one row a task and one change a run. Raises SeatLost, or StoreConflict when a task
        or run is not in a state and term that the change may follow, or a key of a new row is
        taken; and LookupError for rows of a tenant whose seat is not among the seats.
        """
        _check_tenants(changes)
        with self._appending(), self.transaction():
            pages = self._ledger.pages(changes)
            self._backend.journal.write(changes, pages, self._holder)
            if changes.schedules:
                write_schedules(self._database, changes)
        self._ledger.keep(pages)

    def act(
        self, tenants: Mapping[str, int], work: Callable[[Acts], T], drafts: Sequence[Draft] = ()
    ) -> T:
        """Does a rare thing in a transaction of its own, if the seats (tenant to term) are held.

        Its evidence is written after it: `work` may still say what the act names. Raises SeatLost,
        and whatever `work` raises.
        """
        with self._appending(), self.transaction():
            self._backend.journal.check_seats(tenants, self._holder)
            clock_us = self._backend.clock_us
            acts = Acts(self._database, self._holder, self._address, clock_us)
            result = work(acts)
            pages = self._ledger.pages_of(drafts, tenants)
            if drafts:
                self._backend.journal.write_pages(pages)
        self._ledger.keep(pages)
        if acts.erased:
            # Whoever comes by such a name again begins a log of its own.
            self._ledger.forget()
        return result

    @contextlib.contextmanager
    def _appending(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._ledger.forget()
            raise

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Database]:
        """A transaction: committed at the end, rolled back when anything is raised."""
        try:
            self._database.connect(reuse_if_open=True)
            self._database.execute_sql(self._backend.begin)
            yield self._database
            self._database.execute_sql("COMMIT")
        except peewee.IntegrityError as error:
            self._roll_back()
            raise StoreConflict(f"a row breaks a rule of its table: {error}") from error
        except (peewee.ProgrammingError, peewee.DataError):
            # A mistake of ours, which a new connection would not mend.
            self._roll_back()
            raise
        except peewee.DatabaseError as error:
            self._disconnect()
            raise StoreFailed(f"the transaction did not happen: {error}") from error
        except peewee.InterfaceError as error:
            self._disconnect()
            raise StoreFailed(f"the connection cannot be used: {error}") from error
        except BaseException:
            self._roll_back()
            raise

    def _roll_back(self) -> None:
        try:
            self._database.execute_sql("ROLLBACK")
        except peewee.PeeweeException:
            # Nothing is open any more, or the line is dead: a new connection is right for both.
            self._disconnect()

    def _disconnect(self) -> None:
        # Closing rolls back. It may fail on a dead line, and then there is nothing left to close.
        with contextlib.suppress(peewee.PeeweeException):
            self._database.close()


def _check_tenants(changes: journal.Changes) -> None:
    tenants: set[str] = set()
    for written in (
        changes.runs,
        changes.runs_moved,
        changes.tasks_moved,
        changes.run_changes,
        changes.terms,
        changes.tasks,
        changes.events,
        changes.requests,
    ):
        tenants.update(map(_TENANT_OF, written))
    tenants.update(change.tenant_id for change in changes.schedules)
    if strangers := tenants - changes.seats.keys():
        raise LookupError(f"rows of {', '.join(sorted(strangers))} without a seat to assert")
