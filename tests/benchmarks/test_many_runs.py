"""The runs that a benchmark writes are those it says, and its filters mean what they say."""

from __future__ import annotations

from pathlib import Path

from benchmarks.installation import TENANT
from benchmarks.many_runs import Told
from benchmarks.scenarios import listing

from benchmarks import many_runs
from tenure_server.core.definitions.definition import WorkflowDefinition, WorkflowTask
from tenure_server.core.ledger import records
from tenure_server.core.seeing.filters import RunFilter
from tenure_server.rpc import seeing
from tenure_server.store.acts import Acts
from tenure_server.store.database import open_store
from tenure_server.store.run_search import RunSearch

COUNT = 3_000


def prepared(url: str) -> None:
    """A store with a tenant and the two workflows, which no coordinator has."""
    store = open_store(url, holder="first", address="first:1")
    tenant = records.Tenant(
        tenant_id=TENANT, display_name="", max_leases=1, weight=1, create_us=many_runs.BEGIN_US
    )

    def act(acts: Acts) -> None:
        acts.create_tenant(tenant)
        for name in (listing.WORKFLOW, listing.RARE_WORKFLOW):
            tasks = (WorkflowTask(key="a", kind="none"),)
            made = WorkflowDefinition(name=name, tasks=tasks)
            acts.register_workflow(
                TENANT, name, made.digest(), made.canonical(), 1, 0, "k", tenant.create_us
            )

    store.writer().act({}, act)
    store.close()


def test_a_benchmark_of_lists_knows_what_it_lists(tmp_path: Path) -> None:
    """Every run is there, and each filter finds just the runs that it is said to mean."""
    url = f"sqlite://{tmp_path}/tenure.db"
    prepared(url)
    many_runs.write(url, TENANT, listing.WORKFLOW, listing.RARE_WORKFLOW, COUNT)
    store = open_store(url, holder="second", address="second:1")
    search = RunSearch(store, TENANT)
    everything = [Told(number) for number in range(COUNT - 1, -1, -1)]
    with store.reading():
        found = search.page(RunFilter(), None, COUNT).runs
        assert [run.run_id for run in found] == [told.run_id(TENANT) for told in everything]
        for question in listing.questions(COUNT):
            page = search.page(seeing.run_filter(question.wanted), None, COUNT)
            meant = [told.run_id(TENANT) for told in everything if question.means(told)]
            assert [run.run_id for run in page.runs] == meant, question.words
            assert bool(meant) == ("no run has" not in question.words), question.words
    store.close()
