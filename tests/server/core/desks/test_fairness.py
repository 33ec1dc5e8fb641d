"""Where tenants compete, each gets its share, at once, and nothing is left idle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.server.core.world import START_US, WORK, World, task

from tenure_server.core.desks import fairness
from tenure_server.core.leasing.leases import AgentSlots, Lease


class Rivals:
    """Some tenants with much work, and one agent for all."""

    def __init__(self, *, slots: int, **weights: int) -> None:
        self.worlds = {
            name: World(tenant=name, weight=weight, max_leases=10_000)
            for name, weight in weights.items()
        }
        self.agent = AgentSlots("host", "key-1", WORK, slots, slots)

    def flood(self, *names: str, tasks: int = 500) -> None:
        """Gives tenants work."""
        for name in names:
            self.worlds[name].start(*[task(f"t{at}") for at in range(tasks)])

    def grant(self, at_most: int = 10_000) -> list[Lease]:
        """Grants what can be granted."""
        self.agent.credits = self.agent.slots
        desks = [world.desk for world in self.worlds.values()]
        return fairness.grant(desks, self.agent, START_US, at_most=at_most)

    def held(self) -> dict[str, int]:
        """How many leases each tenant holds."""
        return {name: len(world.desk.leases) for name, world in self.worlds.items()}

    def finish(self, name: str, count: int) -> None:
        """Ends the oldest leases of a tenant."""
        world = self.worlds[name]
        for lease in list(world.desk.leases.values())[:count]:
            world.settle(lease)


def owners(leases: list[Lease]) -> list[str]:
    """Whose leases these are."""
    return [lease.run.tenant_id for lease in leases]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [
        ({"a": 1, "b": 1}, {"a": 60, "b": 60}),
        ({"a": 1, "b": 2}, {"a": 40, "b": 80}),
        ({"a": 1, "b": 2, "c": 3}, {"a": 20, "b": 40, "c": 60}),
    ],
)
def test_shares_follow_weights(weights: dict[str, int], shares: dict[str, int]) -> None:
    rivals = Rivals(slots=120, **weights)
    rivals.flood(*weights)
    assert len(rivals.grant()) == 120
    assert rivals.held() == pytest.approx(shares, abs=1)


def test_shares_follow_weights_while_leases_come_and_go() -> None:
    rivals = Rivals(slots=30, a=1, b=2)
    rivals.flood("a", "b")
    served = {"a": 0, "b": 0}
    rivals.grant()
    for _ in range(40):
        for name, count in rivals.held().items():
            rivals.finish(name, count // 2)
        for owner in owners(rivals.grant()):
            served[owner] += 1
        assert rivals.held() == pytest.approx({"a": 10, "b": 20}, abs=1)
    assert served["b"] == pytest.approx(2 * served["a"], rel=0.1)


def test_a_newcomer_gets_every_freed_slot_until_it_holds_its_share() -> None:
    rivals = Rivals(slots=10, flood=1, small=1)
    rivals.flood("flood")
    assert len(rivals.grant()) == 10
    rivals.flood("small")
    for expected in range(1, 6):
        rivals.finish("flood", 1)
        assert owners(rivals.grant()) == ["small"]
        assert rivals.held()["small"] == expected
    rivals.finish("flood", 1)
    assert owners(rivals.grant()) == ["flood"]


def test_what_one_does_not_use_another_gets() -> None:
    rivals = Rivals(slots=100, a=1, b=1000, c=1)
    rivals.flood("a")
    rivals.flood("b", tasks=3)
    assert len(rivals.grant()) == 100
    assert rivals.held() == {"a": 97, "b": 3, "c": 0}


def test_a_tenant_at_its_limit_leaves_the_rest_to_others() -> None:
    rivals = Rivals(slots=100, a=1, b=1)
    rivals.worlds["a"] = World(tenant="a", max_leases=5)
    rivals.flood("a", "b")
    assert len(rivals.grant()) == 100
    assert rivals.held() == {"a": 5, "b": 95}


def test_equals_take_turns_at_a_single_slot() -> None:
    rivals = Rivals(slots=1, a=1, b=1, c=1)
    rivals.flood("a", "b", "c")
    turns = []
    for _ in range(12):
        [owner] = owners(rivals.grant())
        turns.append(owner)
        rivals.finish(owner, 1)
    for at in range(0, 12, 3):
        assert sorted(turns[at : at + 3]) == ["a", "b", "c"]


def test_who_was_away_does_not_come_back_with_a_row_of_turns() -> None:
    rivals = Rivals(slots=1, busy=1, away=1)
    rivals.flood("busy")
    for _ in range(50):
        rivals.grant()
        rivals.finish("busy", 1)
    rivals.flood("away")
    turns = []
    for _ in range(8):
        [owner] = owners(rivals.grant())
        turns.append(owner)
        rivals.finish(owner, 1)
    assert turns.count("busy") >= 3


def test_an_agent_without_room_gets_nothing() -> None:
    rivals = Rivals(slots=0, a=1, b=1)
    rivals.flood("a", "b")
    assert not rivals.grant()
    rivals.agent.slots = 5
    assert not rivals.grant(at_most=0)
    assert len(rivals.grant(at_most=3)) == 3


@given(
    weights=st.lists(st.integers(1, 10), min_size=2, max_size=5),
    work=st.lists(st.integers(0, 30), min_size=5, max_size=5),
    limits=st.lists(st.integers(0, 20), min_size=5, max_size=5),
    slots=st.integers(0, 40),
)
def test_shares_are_max_min_fair_and_nothing_is_left_idle(
    weights: list[int], work: list[int], limits: list[int], slots: int
) -> None:
    rivals = Rivals(slots=slots)
    for number, weight in enumerate(weights):
        name = f"t{number}"
        rivals.worlds[name] = World(tenant=name, weight=weight, max_leases=limits[number])
        if work[number]:
            rivals.flood(name, tasks=work[number])
    rivals.grant()
    held = list(rivals.held().values())
    wanted = [min(one, limit) for one, limit in zip(work, limits, strict=True)][: len(weights)]
    assert sum(held) == min(slots, sum(wanted))
    for number, weight in enumerate(weights):
        if held[number] == wanted[number]:
            continue
        # Who wants more is one lease, at most, behind anybody's share.
        mine = (held[number] + 1) / weight
        assert all(held[at] / weights[at] <= mine for at in range(len(weights)))
