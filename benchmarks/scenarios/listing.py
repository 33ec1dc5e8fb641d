"""A tenant with a million runs: is a late page as quick as the first, and what do filters cost?

The runs are written straight into the store, see `many_runs`; they are listed over the wire.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks import many_runs
from benchmarks.installation import TENANT, installed
from benchmarks.many_runs import BEGIN_US, STEP_US, Told
from benchmarks.plan import Plan
from benchmarks.results import Figure, at_most, median
from benchmarks.verification import WrongHistoryError
from tenure.v1 import runs_pb2, workflows_pb2
from tenure_client.client import Client
from tenure_client.connection import Connection

NAME = "listing"
RUNS = 1_000_000
PAGE = 1_000
#: What people look at.
PAGE_SHOWN = 100
#: How often each page is asked for in a round.
CALLS = 7
WORKFLOW = "nightly-report"
RARE_WORKFLOW = "quarterly-archive"
#: The time that a filter by end looks at, in runs.
ENDED = 500
_SECONDS_MAX = 60.0

#: A call that is timed, and gives the runs or the count that it found.
_Call = Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Question:
    """A filter, and which runs it means."""

    words: str
    wanted: runs_pb2.RunFilter
    means: Callable[[Told], bool]


async def measure(plan: Plan) -> list[Figure]:
    """Every run is seen once, in order; then pages and filters are timed."""
    count = plan.count(RUNS)
    async with installed(plan.new_store) as house:
        async with Client(house.address, house.key("admin")) as client:
            for name in (WORKFLOW, RARE_WORKFLOW):
                task = workflows_pb2.WorkflowTask(key="a", kind="none")
                await client.register_workflow(
                    workflows_pb2.WorkflowDefinition(name=name, tasks=[task])
                )
        await house.coordinator.stop()
        names = (TENANT, WORKFLOW, RARE_WORKFLOW)
        await asyncio.to_thread(many_runs.write, house.store, *names, count)
        await house.start_coordinator()
        async with aclosing(Lists(house.address, house.key("admin"))) as lists:
            tokens = await lists.walk(count)
            figures = await _pages(plan, lists, tokens)
            figures += await _filters(plan, lists, count)
        await house.coordinator.stop()
    return figures


class Lists:
    """Asks for single pages and counts."""

    def __init__(self, address: str, key: str) -> None:
        self._connection = Connection(
            [address],
            key,
            tenant=None,
            tls=None,
            correlation_id=None,
            retry_seconds=_SECONDS_MAX,
            call_seconds=_SECONDS_MAX,
        )

    async def aclose(self) -> None:
        """Closes the line."""
        await self._connection.close()

    async def page(
        self, size: int, token: str = "", wanted: runs_pb2.RunFilter | None = None
    ) -> runs_pb2.ListRunsResponse:
        """One page."""
        request = runs_pb2.ListRunsRequest(page_size=size, page_token=token, filter=wanted)
        return await self._connection.call(lambda to: to.runs.ListRuns, request)

    async def count(self, wanted: runs_pb2.RunFilter | None) -> runs_pb2.CountRunsResponse:
        """A count."""
        request = runs_pb2.CountRunsRequest(filter=wanted)
        return await self._connection.call(lambda to: to.runs.CountRuns, request)

    async def walk(self, count: int) -> list[str]:
        """Goes through all pages and gives the token of each. Raises WrongHistoryError."""
        tokens, token, number = [], "", count
        while True:
            tokens.append(token)
            page = await self.page(PAGE, token)
            for run in page.runs:
                number -= 1
                if run.run_id != Told(number).run_id(TENANT):
                    raise WrongHistoryError(f"run {run.run_id} is not the one with number {number}")
            token = page.next_page_token
            if not token:
                break
        if number:
            raise WrongHistoryError(f"the pages held all but {number} runs")
        return tokens

    async def verify(self, question: Question, count: int) -> None:
        """Compares what a filter finds with what it means. Raises WrongHistoryError."""
        expected = iter(
            told for number in range(count - 1, -1, -1) if question.means(told := Told(number))
        )
        token, left = "", 3 * PAGE
        while left > 0:
            page = await self.page(PAGE, token, question.wanted)
            for run in page.runs:
                meant = next(expected, None)
                if meant is None or run.run_id != meant.run_id(TENANT):
                    raise WrongHistoryError(f"{question.words}: {run.run_id} is not the next one")
            left -= max(1, len(page.runs))
            token = page.next_page_token
            if not token:
                if next(expected, None) is not None:
                    raise WrongHistoryError(f"{question.words}: runs are missing")
                return


async def _pages(plan: Plan, lists: Lists, tokens: Sequence[str]) -> list[Figure]:
    first, last = [], []
    for _ in range(plan.rounds):
        first.append(await _milliseconds(lambda: lists.page(PAGE)))
        last.append(await _milliseconds(lambda: lists.page(PAGE, tokens[-1])))
    shown = [await _milliseconds(lambda: lists.page(PAGE_SHOWN)) for _ in range(plan.rounds)]
    over = [b - a for a, b in zip(first, last, strict=True)]
    return [
        median(NAME, f"page 1, of {PAGE:,} runs", first, "ms"),
        median(NAME, f"page {len(tokens):,}, of {PAGE:,} runs", last, "ms"),
        median(NAME, "the one over the other", over, "ms", at_most(50)),
        median(NAME, f"page 1, of {PAGE_SHOWN} runs", shown, "ms"),
    ]


async def _filters(plan: Plan, lists: Lists, count: int) -> list[Figure]:
    figures = []
    for question in questions(count):
        await lists.verify(question, count)
        wanted = question.wanted
        took = [
            await _milliseconds(lambda of=wanted: lists.page(PAGE_SHOWN, "", of))  # type: ignore[misc]
            for _ in range(plan.rounds)
        ]
        figures.append(median(NAME, f"by {question.words}", took, "ms"))
    for words, of in (
        ("count of all", None),
        ("count by label", runs_pb2.RunFilter(labels={"env": "prod"})),
    ):
        took = [
            await _milliseconds(lambda of=of: lists.count(of))  # type: ignore[misc]
            for _ in range(plan.rounds)
        ]
        figures.append(median(NAME, words, took, "ms"))
    return figures


def questions(count: int) -> list[Question]:
    """Filters that find much and little, by one index and by what no index knows."""
    middle = Told(count // 2 // many_runs.LABELLED * many_runs.LABELLED)
    batch = middle.labels["batch"]
    begin_us = BEGIN_US + count // 2 * STEP_US
    until_us = begin_us + ENDED * STEP_US
    ended = runs_pb2.TimeRange(from_time=_time(begin_us), until_time=_time(until_us))
    created = runs_pb2.TimeRange(until_time=_time(begin_us + 2 * ENDED * STEP_US))

    def in_time(told: Told) -> bool:
        return begin_us <= told.create_us + STEP_US < until_us

    wanted = runs_pb2.RunFilter
    failed = [runs_pb2.RUN_STATE_FAILED]
    return [
        Question("state", wanted(states=failed), lambda told: told.failed),
        Question("rare workflow", wanted(workflow=RARE_WORKFLOW), lambda told: told.rare),
        Question(
            "label of many",
            wanted(labels={"env": "prod"}),
            lambda told: told.labels.get("env") == "prod",
        ),
        Question(
            "label of few",
            wanted(labels={"batch": batch}),
            lambda told: told.labels.get("batch") == batch,
        ),
        Question(
            "both labels",
            wanted(labels={"batch": batch, "env": "test"}),
            lambda told: told.labels == {"batch": batch, "env": "test"},
        ),
        Question(
            "label and state that no run has",
            wanted(labels={"env": "prod"}, states=failed),
            lambda told: told.labels.get("env") == "prod" and told.failed,
        ),
        Question("words of the reason", wanted(text="timed out"), lambda told: told.failed),
        Question("word of a workflow's name", wanted(text="quarterly"), lambda told: told.rare),
        Question(
            "beginning of an id",
            wanted(text=middle.run_id(TENANT)[:13]),
            lambda told: told.create_us // 1000 == middle.create_us // 1000,
        ),
        Question("time of end", wanted(ended=ended, created=created), in_time),
    ]


def _time(at_us: int) -> Timestamp:
    moment = Timestamp()
    moment.FromMicroseconds(at_us)
    return moment


async def _milliseconds(call: _Call) -> float:
    """The median time of some calls."""
    took = []
    for _ in range(CALLS):
        begin = time.perf_counter()
        await call()
        took.append((time.perf_counter() - begin) * 1000)
    return sorted(took)[CALLS // 2]
