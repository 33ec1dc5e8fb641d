"""How long an evaluation takes, told in the seconds of one machine, whatever machine this is.

An article that a desk's `constitution check` lets through must be admitted by the coordinator too,
though one of them is slower, or busy. So what is measured is divided by how much longer a known
evaluation takes here than it took there.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from tenure_constitution import bounds, cel, facts
from tenure_constitution.facts import Labels
from tenure_constitution.laws import Point

#: What the known evaluation takes on the machine whose seconds are told.
KNOWN_SECONDS = 0.0004
#: A machine that is slower than that is told its own time, in part: what stalls nobody there could
#: stall somebody here. 5 ms become 20 at most, where 50 are promised.
SLOWNESS_MAX = 4.0
#: How often the best of three is looked at: a machine is no slower than it was at its best.
LOOKS = 16
#: The known evaluation: a loop, look-ups and a pattern, which is what costly articles are made of.
_KNOWN = (
    "workflow.labels.filter(k, workflow.labels[k].matches('(a|b)*a[ab][ab]c') || k == 'x').size()"
    " >= 0"
)


class Stopwatch:
    """Measures evaluations by the processor's time: what else the machine has to do is left out."""

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        """Looks how slow this machine is now, which takes some 20 ms. The clock counts seconds."""
        self._clock = clock
        self._slowness = 1.0
        known = _known()
        took = min(self.seconds(known) for _ in range(LOOKS))
        self._slowness = min(took / KNOWN_SECONDS, SLOWNESS_MAX)

    def seconds(self, evaluate: Callable[[], object], least: float = 0.0) -> float:
        """The best of three, in seconds. Nobody asks for it once it is not above the least."""
        best = float("inf")
        for _ in range(3):
            began = self._clock()
            evaluate()
            best = min(best, (self._clock() - began) / self._slowness)
            if best <= least:
                break
        return best


def _known() -> Callable[[], bool]:
    reads = bounds.check(_KNOWN, Point.REGISTER)
    program = cel.CelEvaluator().compile(_KNOWN, Point.REGISTER, reads)
    labels = Labels({f"{number:03}": "abaabbab" * 12 for number in range(facts.ITEMS_MAX)})
    given = {"workflow": {"labels": labels}}
    return lambda: program.holds(given)
