"""Loads the plugin also where only the source tree is there, without an installed entry point."""

from __future__ import annotations

import importlib.metadata

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Loads the plugin unless its entry point has."""
    installed = importlib.metadata.entry_points(group="pytest11", name="tenure")
    name = "tenure_client.pytest_plugin"
    if not installed and not config.pluginmanager.has_plugin(name):
        config.pluginmanager.import_plugin(name)
