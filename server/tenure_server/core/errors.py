"""The refusals: what Tenure can say no with, as data.

    Refusal
    ├── CredentialMissing · CredentialInvalid      who calls is not known
    ├── RoleMissing · NotApprover                  who calls may not do this
    ├── TenantNotChosen · FieldsInvalid · GraphInvalid · MetadataInvalid · PageTokenInvalid
    ├── NotFound                                   not there, or not the caller's: the same words
    ├── AlreadyExists · RequestIdReused
    ├── RunClosed · RunStands · VersionsDiffer · AgentReplaced · RunsOpen
    ├── CallDenied · ActDenied                     the constitution says no
    ├── DefinitionChanged                          what is stored is not what was registered
    ├── Quarantined                                the tenant is stopped until somebody has looked
    ├── QuotaExceeded
    └── SeatElsewhere · StoreUnavailable · RunChanged · Overloaded · Stopping   worth another try

A refusal holds names and numbers, never rich objects. ``rpc.status`` alone turns it into a gRPC
status. Messages are lower case, without a final period; what varies also stands in ``facts``.
"""

from __future__ import annotations

from collections.abc import Sequence

from tenure_server.core.evidence import Objection


class Refusal(Exception):  # noqa: N818 - a refusal is an answer, not a fault
    """The reason why an act does not happen; nothing was changed by it."""

    def __init__(self, message: str, **facts: str) -> None:
        super().__init__(message)
        self.message = message
        #: What varies in the message, for programs.
        self.facts = facts


class CredentialMissing(Refusal):
    """no credential"""


class CredentialInvalid(Refusal):
    """The credential is unknown, expired or revoked; which of them is not told."""


class RoleMissing(Refusal):
    """None of the principal's roles may do this."""


class TenantNotChosen(Refusal):
    """The principal acts for several tenants and named none."""


class FieldsInvalid(Refusal):
    """Fields break their rules."""

    def __init__(self, violations: Sequence[tuple[str, str]]) -> None:
        #: Pairs of field path and reason, such as ``("tasks[3].key", "is empty")``.
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{field}: {reason}" for field, reason in violations[:5]))


class GraphInvalid(FieldsInvalid):
    """The tasks do not form an acyclic graph."""


class MetadataInvalid(Refusal):
    """Metadata of the call cannot be read."""


class PageTokenInvalid(Refusal):
    """A page token that was not given to this caller for this list."""


class NotFound(Refusal):
    """No such thing in the caller's tenant. Another tenant's thing gets the very same words."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"no such {kind}: {name}", kind=kind, name=name)


class AlreadyExists(Refusal):
    """The id is taken."""


class RequestIdReused(Refusal):
    """The ``request_id`` was used for another content."""


class RunClosed(Refusal):
    """The run has ended."""


class RunStands(Refusal):
    """The run or the task is not in a state that allows it."""


class VersionsDiffer(Refusal):
    """What a run has done and begun does not fit into another version of its workflow."""

    def __init__(self, what: str, obstacles: Sequence[tuple[str, str, str]], **facts: str) -> None:
        #: Kind, subject (a task, or the run), and why; the first of them is what people are told.
        self.obstacles = tuple(obstacles)
        _, subject, why = self.obstacles[0]
        more = len(self.obstacles) - 1
        rest = f"; and {more} more" if more else ""
        super().__init__(f"{what}: {subject}: {why}{rest}", **facts)


class NotApprover(Refusal):
    """It is not for the caller to decide this."""


class AgentReplaced(Refusal):
    """Another process took over under the same agent name."""


class Denied(Refusal):
    """Articles of the constitution deny it."""

    def __init__(self, objections: Sequence[Objection]) -> None:
        #: Those that deny; the first of them is what people are told.
        self.objections = tuple(one for one in objections if one.denies)
        first = self.objections[0]
        words = first.members()
        super().__init__(
            first.sentence,
            law=words["law"],
            article=words["id"],
            perspective=words["perspective"],
        )


class CallDenied(Denied):
    """The call itself, or a message of a stream."""


class ActDenied(Denied):
    """What the call would do: register a definition, start a run."""


class DefinitionChanged(Refusal):
    """A stored definition does not have its digest any more."""


class RunsOpen(Refusal):
    """The tenant has runs that have not ended."""


class Quarantined(Refusal):
    """The tenant's evidence is not as it was written, so nothing is added to it."""

    def __init__(self, tenant_id: str, finding: str) -> None:
        whose = f"tenant {tenant_id} is" if tenant_id else "the installation is"
        super().__init__(
            f"{whose} stopped, because its record is broken: {finding}; audit the log, restore "
            "what was changed, and start the coordinator again",
            tenant_id=tenant_id,
            finding=finding,
        )


class QuotaExceeded(Refusal):
    """A limit of the tenant is reached."""

    def __init__(self, subject: str, limit: int, message: str) -> None:
        super().__init__(message, subject=subject, limit=str(limit))
        self.subject = subject


class SeatElsewhere(Refusal):
    """Another coordinator decides for the tenant."""

    def __init__(self, tenant_id: str, holder: str) -> None:
        super().__init__(f"another coordinator holds the seat of tenant {tenant_id}", holder=holder)


class StoreUnavailable(Refusal):
    """The store could not commit; nothing was changed."""


class RunChanged(StoreUnavailable):
    """What was read of the run is not how it stands any more; nothing was changed."""


class Overloaded(Refusal):
    """The tenant asks for more at once than is served; nothing was changed."""


class Stopping(Refusal):
    """The coordinator is stopping."""
