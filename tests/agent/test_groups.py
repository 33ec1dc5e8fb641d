"""Process groups of a killed agent: ended by its next life, and nobody else's with them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.conftest import AgentProcess, WriteConfig, wait_for_end
from tests.agent.fake_coordinator import FakeCoordinator, new_lease

from tenure_agent import groups
from tenure_agent.groups import Groups
from tenure_agent.spool import SpoolError

Spawn = Callable[..., Awaitable[AgentProcess]]
Sleeper = subprocess.Popen[bytes]


@pytest.fixture
def sleepers() -> Iterator[list[Sleeper]]:
    """Three processes, each the leader of a group of its own."""
    made = [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(3)]
    yield made
    for it in made:
        it.kill()
        it.wait()


def killed_after(directory: Path, *pids: int) -> Groups:
    """What a process that is killed leaves: its file, with these groups in it."""
    left = Groups(directory)
    for pid in pids:
        left.add(pid)
    return left


async def test_commands_of_a_killed_agent_end_when_it_is_started_again(
    coordinator: FakeCoordinator, spawn_agent: Spawn, write_config: WriteConfig, tmp_path: Path
) -> None:
    """The whole group of each that still ran, before the next life takes a lease.

    It is recorded by the time its stdin ends.
    """
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = f"cat > /dev/null; sleep 60 & echo $$ $! > {fifo}; wait"
    path = write_config(
        coordinator.address, kinds=f"[[command]]\nkind='it'\nargv=['sh', '-c', '{script}']\n"
    )
    coordinator.offer(new_lease("t", "it"))
    first = await spawn_agent(path)
    async with asyncio.timeout(60):
        group = [int(word) for word in (await asyncio.to_thread(fifo.read_text)).split()]
    await first.kill()
    for pid in group:
        os.kill(pid, 0)
    second = await spawn_agent(path, "--log-format", "json")
    for pid in group:
        await wait_for_end(pid)
    await coordinator.until(lambda: len(coordinator.hellos) == 2)
    second.process.send_signal(signal.SIGTERM)
    assert await second.exit_code() == 0
    assert "process group of an earlier agent process is killed" in await second.log()
    assert not (path.parent / "spool" / "groups").exists()


async def test_only_groups_that_still_run_are_ended(
    tmp_path: Path, sleepers: list[Sleeper]
) -> None:
    first, second, third = sleepers
    left = killed_after(tmp_path, first.pid, second.pid)
    left.discard(first.pid)
    left.add(third.pid)
    size = (tmp_path / "groups").stat().st_size
    Groups(tmp_path).close()
    assert (second.wait(10), third.wait(10)) == (-signal.SIGKILL, -signal.SIGKILL)
    assert first.poll() is None
    assert size == len(groups.MAGIC) + 36 + 2 * groups.RECORD.size, "places are used again"


@pytest.mark.parametrize("change", ["start", "boot", "torn", "foreign"])
def test_a_stranger_with_a_pid_of_old_is_left_alone(
    tmp_path: Path, sleepers: list[Sleeper], change: str
) -> None:
    """Another start, another boot, half a record, or not a file of ours."""
    it = sleepers[0]
    killed_after(tmp_path, it.pid)
    path = tmp_path / "groups"
    data = bytearray(path.read_bytes())
    match change:
        case "start":
            data[-8] ^= 1
        case "boot":
            data[len(groups.MAGIC)] ^= 1
        case "torn":
            del data[-1]
        case _:
            data[0] ^= 1
    path.write_bytes(data)
    Groups(tmp_path).close()
    assert it.poll() is None
    assert not path.exists()


def test_a_process_that_leads_no_group_is_left_alone(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as it:
        killed_after(tmp_path, it.pid)
        Groups(tmp_path).close()
        assert it.poll() is None
        it.kill()


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpoolError, match=r"spool .*/groups: No such file or directory"):
        Groups(tmp_path / "none")
