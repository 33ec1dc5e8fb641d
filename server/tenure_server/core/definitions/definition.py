"""Workflow definitions: a named graph of tasks, checked once, identified by a digest.

What is declared are the values of `declared` and `features`; what may be wrong with it stands in
`rules`, and the bytes that the digest is made over in `form`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from itertools import islice

from tenure_server.core import errors
from tenure_server.core.definitions import form, rules
from tenure_server.core.definitions.declared import Declared
from tenure_server.core.definitions.declared import WorkflowTask as WorkflowTask
from tenure_server.core.definitions.declared_texts import expressions
from tenure_server.core.definitions.expression_checks import check_expressions
from tenure_server.core.definitions.feature_rules import DAY_US as DAY_US
from tenure_server.core.definitions.feature_rules import NAME as NAME
from tenure_server.core.definitions.feature_rules import input_problem as input_problem
from tenure_server.core.definitions.features import NO_RETRY as NO_RETRY
from tenure_server.core.definitions.features import RetryPolicy as RetryPolicy
from tenure_server.core.definitions.graph import NO_NEEDS, Graph
from tenure_server.core.definitions.needs import needs_of
from tenure_server.core.definitions.payloads import PAYLOAD_BYTES_MAX as PAYLOAD_BYTES_MAX
from tenure_server.core.definitions.payloads import Payload as Payload
from tenure_server.core.definitions.payloads import payload_problem as payload_problem
from tenure_server.core.definitions.rules import ATTEMPT_TIMEOUT_MAX_US as ATTEMPT_TIMEOUT_MAX_US
from tenure_server.core.definitions.rules import DEPENDENCIES_MAX as DEPENDENCIES_MAX
from tenure_server.core.definitions.rules import TASKS_MAX as TASKS_MAX

_VIOLATIONS_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkflowDefinition(Declared):
    """A graph of tasks as its author declared it. Call `check` before anything else."""

    def check(self) -> Graph:
        """Checks everything that does not need the world around, and gives the graph.

        Raises FieldsInvalid naming every bad field (the first twenty), or GraphInvalid for
        duplicate keys, unknown dependencies and cycles.
        """
        violations = rules.first_violations(self, _VIOLATIONS_MAX)
        if violations:
            raise errors.FieldsInvalid(violations)
        graph = self.graph()
        bad = check_expressions(
            expressions(self),
            graph,
            frozenset(n for n, task in enumerate(self.tasks) if task.for_each is not None),
        )
        if violations := list(islice(bad, _VIOLATIONS_MAX)):
            raise errors.FieldsInvalid(violations)
        return graph

    def graph(self) -> Graph:
        """The graph alone, of a definition that was checked when it was registered."""
        graph = Graph.build(
            [(task.key, task.depends_on) for task in self.tasks],
            frozenset(number for number, task in enumerate(self.tasks) if task.is_special),
        )
        needs = needs_of(self, graph.index, graph.upstream)
        limited = any(task.is_limited for task in self.tasks)
        if needs is NO_NEEDS and not limited:
            return graph
        return replace(graph, needs=needs, limited=limited)

    def canonical(self) -> bytes:
        """The bytes that the digest is made over and that the store keeps."""
        return form.write(self)

    def digest(self) -> str:
        """The identity of this definition, such as ``sha256:9f86…``."""
        return digest_of(self.canonical())


def digest_of(canonical: bytes) -> str:
    """The digest of canonical bytes."""
    return "sha256:" + hashlib.sha256(canonical).hexdigest()


def parse(canonical: bytes) -> WorkflowDefinition:
    """Reads a definition back from its canonical bytes."""
    return WorkflowDefinition(**form.read(canonical))
