"""Measured children: what they used is read from the kernel, and they start in plain sight."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from benchmarks.processes import Child, ProcessError

from benchmarks import processes


def test_cpu_time_is_user_and_system_time_whatever_the_program_is_called() -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    stat = f"42 (a (b) c) S 1 1 1 0 -1 4194304 900 0 0 0 {3 * ticks} {2 * ticks} 7 7 20 0 5 0 99"
    assert processes.cpu_seconds(stat) == 5


def test_cpu_time_of_this_process_is_what_it_says_itself() -> None:
    mine = processes.cpu_seconds(Path("/proc/self/stat").read_text())
    assert mine == pytest.approx(time.process_time(), abs=0.2)


async def test_a_child_that_does_not_start_says_why(tmp_path: Path) -> None:
    child = Child("coordinator", tmp_path)
    child.spawn("tenure_server", "serve", "--no-such-flag")
    with pytest.raises(ProcessError, match=r"(?s)coordinator did not start.*--no-such-flag"):
        await asyncio.wait_for(child.ready(), 30)
    child.kill()
    assert not child.alive


def test_a_child_that_was_never_started_has_no_figures(tmp_path: Path) -> None:
    with pytest.raises(ProcessError, match="the agent was not started"):
        Child("agent", tmp_path).cpu_seconds()
