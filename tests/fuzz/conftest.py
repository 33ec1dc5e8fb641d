"""The installations of the tests on the wire."""

from tests.wire.conftest import any_store, install

__all__ = ["any_store", "install"]
