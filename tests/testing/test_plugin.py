"""The fixtures work in somebody else's tests."""

from __future__ import annotations

import importlib.metadata

import pytest

pytest_plugins = ["pytester"]

THEIRS = """
from datetime import timedelta

TEXT = '''
name: month
tasks:
  - {key: wait, timer: {delay: 30d}}
  - {key: send, kind: send, depends_on: [wait]}
'''

async def test_in_the_loop(tenure_environment, tmp_path):
    (tmp_path / "month.yaml").write_text(TEXT)
    run = await tenure_environment.run(tmp_path / "month.yaml", handlers={"send": "sent"})
    assert run.output("send") == "sent"

def test_without_a_loop(tenure_run, tmp_path):
    (tmp_path / "month.yaml").write_text(TEXT)
    run = tenure_run(tmp_path / "month.yaml", handlers={"send": "sent"})
    assert run.took == timedelta(days=30)
"""


def test_a_test_of_somebody_else_asks_for_a_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_theirs=THEIRS)
    installed = importlib.metadata.entry_points(group="pytest11", name="tenure")
    plugin = () if installed else ("-p", "tenure_client.pytest_plugin")
    result = pytester.runpytest_subprocess(
        "-p", "no:cacheprovider", "-o", "asyncio_mode=auto", *plugin
    )
    result.assert_outcomes(passed=2)
