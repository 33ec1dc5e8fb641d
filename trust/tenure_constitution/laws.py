"""The words of the constitution, numbered as in the contract: laws, dimensions, points, effects."""

from __future__ import annotations

import enum
from typing import Self


class Word(enum.IntEnum):
    """A number of the contract that knows what it means, in one sentence."""

    sentence: str

    def __new__(cls, number: int, sentence: str = "") -> Self:
        """Keeps the sentence beside the number, so that ``Law(1)`` finds its member."""
        member = int.__new__(cls, number)
        member._value_ = number
        member.sentence = sentence
        return member

    @property
    def word(self) -> str:
        """The member as files write it, such as ``tenant_isolation``."""
        return self.name.lower()


class Law(Word):
    """One of the five laws that every article belongs to."""

    VERIFIABILITY = 1, "Every act has evidence that a stranger can verify."
    PRECEDENCE = 2, "Graphs are acyclic, order is kept, platform articles stand above a tenant's."
    PROVENANCE = 3, "Nothing is an orphan: all names its tenant, principal, cause and definition."
    REPRODUCIBILITY = 4, "Definitions and constitutions never change, and a run records its own."
    INTEGRITY = 5, "Results are fenced, payloads have digests, the chain is unbroken."


class Perspective(Word):
    """From which side an article looks at an act."""

    TENANT_ISOLATION = 1, "Nothing of one tenant reaches another."
    SECURITY_BOUNDARY = 2, "Who may do what, where."
    RESOURCE_CONSTRAINT = 3, "How much of what there is an act may take."


class Point(Word):
    """Where in the life of an act an article applies."""

    CALL = 1, "Every call of an RPC, and every message of an inbound stream."
    REGISTER = 2, "The registration of a definition."
    START = 3, "The start of a run."
    LEASE = 4, "The lease of a task to an agent."
    SETTLE = 5, "The result of an attempt."


class Effect(Word):
    """What follows when an article does not hold. There is none that allows."""

    DENY = 1, "The act does not happen."
    WARN = 2, "The act happens, and the objection is kept and told."


class Dimension(Word):
    """What a workflow can say of itself, in thirteen parts."""

    IDENTITY = 1, "Who or what it is."
    INTENT = 2, "What it is for."
    STAKEHOLDERS = 3, "Whom it concerns."
    CONTEXT = 4, "What it is part of."
    SCOPE = 5, "What it touches."
    TIME = 6, "When, how long, until when."
    SPACE = 7, "Where it may run and its data may lie."
    MODALITY = 8, "In which way it works: by hand, in batch, by model."
    STATE = 9, "What it keeps between attempts and runs."
    SCALE = 10, "How large it is."
    RISK = 11, "What can go wrong, and what is done about it."
    EVIDENCE = 12, "What is kept as proof."
    ETHICS = 13, "What it means for people: data classes, consent, fairness."


class Coverage(Word):
    """How a dimension stands."""

    COVERED = 1, "Declared by the definition."
    DERIVED = 2, "Not declared, but told from other facts."
    MISSING = 3, "Neither."


class VerdictResult(Word):
    """What the constitution says of one act; the larger, the stricter."""

    ALLOW = 1, "No article objects."
    WARN = 2, "An article objects, none denies."
    DENY = 3, "An article denies, or cannot be evaluated."
