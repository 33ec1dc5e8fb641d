"""The spool: what was appended and not acknowledged comes back, after whatever end."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tenure.v1 import agents_pb2
from tenure_agent import spool as spools
from tenure_agent.holding import Key
from tenure_agent.outbox import key_of
from tenure_agent.spool import Spool, SpoolError


def result(number: int, size: int = 10) -> agents_pb2.Result:
    made = agents_pb2.Result(
        lease=agents_pb2.LeaseRef(run_id="run", task_key=f"t{number}", term=1, token=b"token")
    )
    made.success.output.data = b"x" * size
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "spool"


def segments(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.spool"))


def test_results_come_back_in_order_until_they_are_acknowledged(folder: Path) -> None:
    first = Spool(folder)
    results = [result(number) for number in range(5)]
    first.append(results[:3])
    first.append(results[3:])
    first.acknowledge([key_of(results[1]), ("run", "unknown", 9)])
    first.close()
    second = Spool(folder)
    # Acknowledgements are not written: a segment goes when all of it is acknowledged.
    assert second.left == results
    second.acknowledge([key_of(it) for it in results])
    second.close()
    third = Spool(folder)
    assert third.left == []
    assert third.torn_bytes == 0
    third.close()
    assert segments(folder) == []


def test_only_one_process_may_use_it(folder: Path) -> None:
    first = Spool(folder)
    with pytest.raises(SpoolError, match="is in use by another agent process"):
        Spool(folder)
    first.close()
    Spool(folder).close()


def test_nobody_else_may_read_it(folder: Path) -> None:
    spool = Spool(folder)
    assert folder.stat().st_mode & 0o077 == 0
    assert segments(folder)[0].stat().st_mode & 0o077 == 0
    spool.close()


def test_a_folder_that_cannot_be_made_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpoolError, match=r"spool .*file/spool: Not a directory"):
        Spool(tmp_path / "file" / "spool")


def test_an_acknowledged_segment_is_emptied(folder: Path) -> None:
    spool = Spool(folder)
    big = result(1, spools.TRUNCATE_BYTES)
    spool.append([big])
    spool.acknowledge([key_of(big)])
    assert segments(folder)[0].stat().st_size == len(spools.MAGIC)
    small = result(2)
    spool.append([small])
    spool.acknowledge([key_of(small)])
    spool.compact()
    assert segments(folder)[0].stat().st_size == len(spools.MAGIC)
    spool.close()


def test_full_segments_go_as_they_are_acknowledged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spools, "SEGMENT_BYTES_MAX", 100)
    spool = Spool(folder)
    results = [result(number, 100) for number in range(4)]
    for it in results:
        spool.append([it])
    assert len(segments(folder)) == 4
    spool.acknowledge([key_of(results[2])])
    assert len(segments(folder)) == 3
    spool.close()
    again = Spool(folder)
    assert again.left == [results[0], results[1], results[3]]
    again.close()


@pytest.mark.parametrize("cut", [1, 5, 8, 30])
def test_a_torn_tail_costs_only_the_torn_result(folder: Path, cut: int) -> None:
    spool = Spool(folder)
    spool.append([result(1), result(2)])
    path = segments(folder)[0]
    os.truncate(path, path.stat().st_size - cut)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    spool.close()
    again = Spool(copy)
    assert again.left == [result(1)]
    assert again.torn_bytes > 0
    again.append([result(3)])
    again.close()
    last = Spool(copy)
    assert last.left == [result(1), result(3)]
    last.close()


def test_a_full_disk_takes_nothing_and_harms_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that got half-way is taken back, so that what follows can be read."""
    spool = Spool(folder)
    spool.append([result(1)])
    write = os.write

    def half(fd: int, data: bytes) -> int:
        if len(data) > 20:
            return write(fd, data[:20])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", half)
    with pytest.raises(OSError, match="No space"):
        spool.append([result(2)])
    monkeypatch.setattr(os, "write", write)
    assert len(spool) == 1
    spool.append([result(3)])
    spool.close()
    again = Spool(folder)
    assert again.left == [result(1), result(3)]
    assert again.torn_bytes == 0
    again.close()


class Lives(RuleBasedStateMachine):
    """Appends, acknowledgements, kills and torn tails in any order, against a plain model."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="tenure-spool-"))
        self.generation = 0
        self.number = 0
        #: Appended and not acknowledged: must come back.
        self.owed: dict[Key, agents_pb2.Result] = {}
        #: Every result ever appended: nothing else may come back.
        self.known: dict[Key, agents_pb2.Result] = {}
        self.spool = Spool(self.folder)

    @property
    def folder(self) -> Path:
        return self.root / str(self.generation)

    @rule(count=st.integers(1, 4), size=st.integers(0, 300))
    def append(self, count: int, size: int) -> None:
        results = [result(self.number + offset, size) for offset in range(count)]
        self.number += count
        self.spool.append(results)
        self.owed.update((key_of(it), it) for it in results)
        self.known.update((key_of(it), it) for it in results)

    @rule(data=st.data())
    @precondition(lambda self: self.owed)
    def acknowledge(self, data: st.DataObject) -> None:
        keys = data.draw(st.sets(st.sampled_from(sorted(self.owed)), min_size=1))
        self.spool.acknowledge(keys)
        for key in keys:
            del self.owed[key]

    @rule()
    def acknowledge_all(self) -> None:
        self.spool.acknowledge(list(self.owed))
        self.owed.clear()

    @rule()
    def compact(self) -> None:
        self.spool.compact()

    @rule(garbage=st.binary(max_size=40))
    def killed(self, garbage: bytes) -> None:
        """What a kill leaves: the files as they are, perhaps with the beginning of one more."""
        copy = self.root / str(self.generation + 1)
        shutil.copytree(self.folder, copy)
        self.spool.close()
        self.generation += 1
        with segments(copy)[-1].open("ab") as last:
            # A length that no record has: never mistaken for a whole one.
            last.write(b"\xff\xff\xff\xff" + garbage)
        self._reopened()

    @rule()
    def closed(self) -> None:
        self.spool.close()
        self._reopened()

    def _reopened(self) -> None:
        self.spool = Spool(self.folder)
        left = {key_of(it): it for it in self.spool.left}
        assert len(left) == len(self.spool.left)
        assert all(left.get(key) == it for key, it in self.owed.items())
        assert all(self.known[key] == it for key, it in left.items())
        self.owed = left

    @invariant()
    def counts_what_is_owed(self) -> None:
        assert len(self.spool) == len(self.owed)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.root)


@pytest.fixture(autouse=True)
def _small_segments(request: pytest.FixtureRequest) -> Iterator[None]:
    """The machine rotates often; the other tests do as the agent does."""
    if request.cls is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spools, "SEGMENT_BYTES_MAX", 500)
        patch.setattr(spools, "TRUNCATE_BYTES", 300)
        yield


TestLives = Lives.TestCase
TestLives.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
