"""What stands between a ready task and its lease, beside slots and its workflow, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tenure_server.core.definitions.features import Strategy

#: Labels of an agent, as pairs.
LabelSet = frozenset[tuple[str, str]]
#: Holder and name of an agent.
AgentName = tuple[str, str]
#: What a limit is kept by: a text that an expression gave, or the task that gives none.
KeyName = tuple[str, ...]
#: What waiting buckets wait for: a workflow's name, or a key of concurrency or rate.
Hold = str | KeyName

NO_LABELS: LabelSet = frozenset()
#: For tasks that weigh more than the tenant may hold at all.
TENANT_HOLD: Hold = ("tenant",)


class Lane(NamedTuple):
    """Which agents come into question for a task that declares more than its kind."""

    kind: str
    weight: int = 1
    required: LabelSet = NO_LABELS
    preferred: LabelSet = NO_LABELS
    #: The agent that is preferred because it last executed a task of the run.
    sticky: AgentName | None = None


@dataclass(slots=True, eq=False, kw_only=True)
class Gate:
    """The limits of one task of one run, its keys worked out."""

    weight: int = 1
    key: KeyName | None = None
    limit: int = 0
    strategy: Strategy = Strategy.QUEUE
    rate: KeyName | None = None
    count: int = 0
    per_us: int = 0
    required: LabelSet = NO_LABELS
    preferred: LabelSet = NO_LABELS
    sticky: bool = False

    def lane(self, kind: str, last_agent: AgentName | None) -> str | Lane:
        """The lane of its tasks; the kind alone when any agent of the kind will do."""
        sticky = last_agent if self.sticky else None
        if self.weight == 1 and not self.required and not self.preferred and sticky is None:
            return kind
        return Lane(kind, self.weight, self.required, self.preferred, sticky)

    @property
    def key_hold(self) -> Hold:
        """What tasks wait for whose key is full."""
        return ("concurrency", *(self.key or ()))

    @property
    def rate_hold(self) -> Hold:
        """What tasks wait for whose rate is used up."""
        return ("rate", *(self.rate or ()))
