"""A coordinator that neither judges nor proves, to measure what that costs the others.

`python -m benchmarks.unproven serve …` takes what `tenure-server serve` takes. It is no way to run
Tenure: nobody can verify what it did.
"""

from __future__ import annotations

import dataclasses

from tenure_constitution.article import Constitution
from tenure_server.app import Coordinator
from tenure_server.cli import main
from tenure_server.engine.settings import Settings


class Unproven(Coordinator):
    """A coordinator without constitution and evidence."""

    def settings(self) -> Settings:
        """The same as every coordinator's, but for the evidence."""
        return dataclasses.replace(super().settings(), evidence=False)

    async def platform(self) -> Constitution:
        """No article at all: there is nothing to judge by."""
        return Constitution()


if __name__ == "__main__":
    main(obj=Unproven)
