"""Databases that older versions left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.compatibility.frozen import KINDS, VERSIONS, Frozen


@pytest.fixture(params=[f"{version}-{kind}" for version in VERSIONS for kind in KINDS])
def frozen(request: pytest.FixtureRequest) -> Frozen:
    """Each store that was frozen."""
    version, _, kind = request.param.partition("-")
    return Frozen(version, kind)


@pytest.fixture(params=KINDS)
def oldest(request: pytest.FixtureRequest) -> Frozen:
    """The store of the first version, on each database."""
    return Frozen("foundation", request.param)


@pytest.fixture
def restored(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[[Frozen], str]:
    """Makes a database with what is in a frozen store, and gives its URL."""
    numbers = iter(range(100))

    def restore(store: Frozen) -> str:
        if store.kind == "sqlite":
            folder = tmp_path / f"store-{next(numbers)}"
            folder.mkdir()
            url = f"sqlite://{folder}/tenure.db"
        else:
            url = request.getfixturevalue("postgres_url_factory")(bare=True)
        store.restore(url)
        return url

    return restore
