"""`tenure run list|search|count|compare|explain`: what is asked for, and what people see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from tests.client.conftest import AT, OTHER_RUN_ID, RUN_ID, Script, Tenure, run_in
from tests.client.test_cli import LATER

from tenure.v1 import runs_pb2


def test_every_option_goes_into_the_filter(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ListRuns", runs_pb2.ListRunsResponse())
    done = tenure(
        *("run", "list", "--workflow", "etl", "--state", "FAILED", "--state", "cancelled"),
        *("--label", "env=prod", "--label", "team", "--label", "note=a=b", "--label", "empty="),
        *("--created-since", "2026-07-14", "--created-until", "2026-07-15T09:30+02:00"),
        *("--ended-since", "1h", "--text", "timed out", "--oldest-first", "--limit", "7"),
    )
    assert (done.code, done.out) == (0, "no runs\n")
    [request] = far_script.requests("ListRuns")
    assert request.page_size == 7
    assert request.order == runs_pb2.RUN_ORDER_OLDEST_FIRST
    wanted = request.filter
    assert wanted.workflow == "etl"
    assert list(wanted.states) == [runs_pb2.RUN_STATE_FAILED, runs_pb2.RUN_STATE_CANCELLED]
    assert dict(wanted.labels) == {"env": "prod", "note": "a=b", "empty": ""}
    assert list(wanted.label_keys) == ["team"]
    assert wanted.text == "timed out"
    created = wanted.created
    assert created.from_time.ToDatetime(tzinfo=UTC) == datetime(2026, 7, 14, tzinfo=UTC)
    assert created.until_time.ToDatetime(tzinfo=UTC) == datetime(2026, 7, 15, 7, 30, tzinfo=UTC)
    ago = datetime.now(UTC) - wanted.ended.from_time.ToDatetime(tzinfo=UTC)
    assert timedelta(hours=1) <= ago < timedelta(hours=1, minutes=5)
    assert not wanted.ended.HasField("until_time")


def test_without_options_all_runs_are_meant(far_script: Script, tenure: Tenure) -> None:
    far_script.on("ListRuns", runs_pb2.ListRunsResponse())
    tenure("run", "list")
    [request] = far_script.requests("ListRuns")
    assert request.filter == runs_pb2.RunFilter()
    assert request.order == runs_pb2.RUN_ORDER_UNSPECIFIED


def test_a_list_goes_through_pages_that_are_short_or_empty(
    far_script: Script, tenure: Tenure
) -> None:
    far_script.on(
        "ListRuns",
        runs_pb2.ListRunsResponse(next_page_token="one"),
        runs_pb2.ListRunsResponse(runs=[run_in("FAILED")], next_page_token="two"),
        runs_pb2.ListRunsResponse(runs=[run_in("FAILED"), run_in("FAILED")]),
    )
    assert len(tenure("run", "search", "timed out", "--json").json()) == 3
    requests = far_script.requests("ListRuns")
    assert [each.page_token for each in requests] == ["", "one", "two"]
    assert {each.filter.text for each in requests} == {"timed out"}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--label", "=prod"), "--label: must read WORD or WORD=TEXT"),
        (("--label", "env=a", "--label", "env=b"), "--label: no run has two values of 'env'"),
        (("--state", "asleep"), "'asleep' is not one of"),
        (("--created-since", "tomorrow"), "--created-since: must be a date"),
        (("--ended-until", "2026-13-01"), "--ended-until: must be a date"),
    ],
)
def test_bad_options_are_refused_before_anybody_is_asked(
    far_script: Script, tenure: Tenure, options: tuple[str, ...], complaint: str
) -> None:
    for verb in ("list", "count"):
        done = tenure("run", verb, *options)
        assert done.code == 2
        assert complaint in done.err
    assert far_script.requests("ListRuns") == []


def test_counts_say_where_they_stopped(far_script: Script, tenure: Tenure) -> None:
    counts = [
        runs_pb2.RunStateCount(state=runs_pb2.RUN_STATE_RUNNING, count=3),
        runs_pb2.RunStateCount(state=runs_pb2.RUN_STATE_SUCCEEDED, count=10_000, more=True),
        runs_pb2.RunStateCount(state=runs_pb2.RUN_STATE_FAILED),
    ]
    answer = runs_pb2.CountRunsResponse(counts=counts, total=10_003, more=True)
    far_script.on("CountRuns", answer)
    done = tenure("run", "count", "--label", "env")
    assert [line.split(maxsplit=1) for line in done.out.splitlines()[2:]] == [
        ["RUNNING", "3"],
        ["SUCCEEDED", "10000 or more"],
        ["all", "10003 or more"],
    ]
    [request] = far_script.requests("CountRuns")
    assert list(request.filter.label_keys) == ["env"]
    found = tenure("run", "count", "--json").json()
    assert (found["total"], found["more"]) == (10_003, True)


def test_a_count_of_nothing_says_so(far_script: Script, tenure: Tenure) -> None:
    far_script.on("CountRuns", runs_pb2.CountRunsResponse())
    assert tenure("run", "count").out == "no runs\n"


def comparison() -> runs_pb2.CompareRunsResponse:
    """Two runs that differ in their inputs, their states, and two tasks."""
    state = runs_pb2.TaskState.Value
    took = Duration(seconds=2)
    left, right = (
        run_in(word, create_time=AT, end_time=LATER, tasks=runs_pb2.TaskCounts(total=3))
        for word in ("SUCCEEDED", "FAILED")
    )
    right.run_id = OTHER_RUN_ID
    side = runs_pb2.TaskSide
    return runs_pb2.CompareRunsResponse(
        left=left,
        right=right,
        left_input_digest="sha256:" + "a" * 64,
        differences=[runs_pb2.RUN_DIFFERENCE_INPUT, runs_pb2.RUN_DIFFERENCE_STATE],
        tasks=[
            runs_pb2.TaskComparison(
                key="load",
                left=side(state=state("TASK_STATE_SUCCEEDED"), attempt=1, duration=took),
                right=side(state=state("TASK_STATE_FAILED"), attempt=3, failure_code="TIMED_OUT"),
                differences=[
                    runs_pb2.TASK_DIFFERENCE_STATE,
                    runs_pb2.TASK_DIFFERENCE_ATTEMPTS,
                ],
            ),
            runs_pb2.TaskComparison(
                key="\x1b[31mnew",
                right=side(state=state("TASK_STATE_UPSTREAM_FAILED")),
                differences=[runs_pb2.TASK_DIFFERENCE_MISSING],
            ),
        ],
        differing_tasks=2,
        first_differing_task="load",
    )


def test_a_comparison_is_a_table_of_what_differs(far_script: Script, tenure: Tenure) -> None:
    far_script.on("CompareRuns", comparison())
    done = tenure("run", "compare", RUN_ID, OTHER_RUN_ID)
    assert done.code == 0
    lines = done.out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in lines if line.strip()}
    assert rows["run"] == [RUN_ID, OTHER_RUN_ID]
    assert rows["state"] == ["SUCCEEDED", "FAILED", "differs"]
    assert rows["input"] == ["sha256:" + "a" * 16, "differs"]
    assert "2 of 3 tasks differ; they first went apart at load" in lines
    assert rows["load"] == [
        *("SUCCEEDED", "FAILED", "in", "3", "attempts:", "TIMED_OUT", "2.0", "s", "-"),
        *("state,", "attempts"),
    ]
    assert rows["\\x1b[31mnew"] == ["-", "UPSTREAM_FAILED", "-", "-", "missing"]
    [request] = far_script.requests("CompareRuns")
    assert (request.left_run_id, request.right_run_id) == (RUN_ID, OTHER_RUN_ID)
    assert request.differing_only


def test_a_comparison_is_one_document_for_programs(far_script: Script, tenure: Tenure) -> None:
    far_script.on("CompareRuns", comparison())
    found = tenure("run", "compare", RUN_ID, OTHER_RUN_ID, "--all", "--json").json()
    assert found["differences"] == ["INPUT", "STATE"]
    assert found["tasks"][0]["differences"] == ["STATE", "ATTEMPTS"]
    assert found["tasks"][1]["left"] is None
    [request] = far_script.requests("CompareRuns")
    assert not request.differing_only


def test_runs_that_are_alike_are_said_to_be(far_script: Script, tenure: Tenure) -> None:
    alike = run_in("SUCCEEDED", create_time=AT, end_time=LATER, tasks=runs_pb2.TaskCounts(total=3))
    far_script.on("CompareRuns", runs_pb2.CompareRunsResponse(left=alike, right=alike))
    done = tenure("run", "compare", RUN_ID, RUN_ID)
    assert done.out.splitlines()[-1] == "0 of 3 tasks differ"
    assert "differs" not in done.out


def explanation(key: str, *sentences: str) -> runs_pb2.TaskExplanation:
    """A task that waits for something."""
    return runs_pb2.TaskExplanation(
        task_key=key,
        state=runs_pb2.TASK_STATE_READY,
        hindrances=[
            runs_pb2.Hindrance(kind=runs_pb2.HINDRANCE_KIND_NO_AGENT, sentence=sentence)
            for sentence in sentences
        ],
    )


def test_an_explanation_has_a_line_for_each_reason(far_script: Script, tenure: Tenure) -> None:
    pages = [
        runs_pb2.ExplainRunResponse(tasks=[explanation("a", "one", "two")], next_page_token="more"),
        runs_pb2.ExplainRunResponse(tasks=[explanation("b")]),
    ]
    far_script.on("ExplainRun", *pages)
    done = tenure("run", "explain", RUN_ID, "a", "b")
    title, _, *lines = [line.split() for line in done.out.splitlines()]
    assert title == ["TASK", "STATE", "WHY"]
    assert lines == [
        ["a", "READY", "one"],
        ["two"],
        ["b", "READY", "-"],
    ]
    first, second = far_script.requests("ExplainRun")
    assert list(first.task_keys) == ["a", "b"]
    assert (first.page_token, second.page_token) == ("", "more")


def test_an_explanation_stops_at_its_limit_and_says_so(far_script: Script, tenure: Tenure) -> None:
    page = runs_pb2.ExplainRunResponse(tasks=[explanation("a", "one"), explanation("b", "two")])
    far_script.on("ExplainRun", page)
    done = tenure("run", "explain", RUN_ID, "--limit", "1")
    assert done.err == "and more tasks than these 1; see --limit\n"
    assert "two" not in done.out
    far_script.on("ExplainRun", page)
    [task] = tenure("run", "explain", RUN_ID, "--limit", "1", "--json").json()
    assert (task["task_key"], task["hindrances"][0]["kind"]) == ("a", "NO_AGENT")


@pytest.mark.parametrize("name", ["workflow", "parent", "text"])
def test_nothing_is_meant_by_an_option_that_is_empty(
    far_script: Script, tenure: Tenure, name: str
) -> None:
    """Such as a variable that is not set: in bulk all the others would be meant as well."""
    for words in (("list",), ("count",), ("bulk", "cancel", "--state", "failed", "--yes")):
        done = tenure("run", *words, f"--{name}", "")
        assert (done.code, done.err, far_script.heard) == (2, f"error: --{name}: is empty\n", [])
