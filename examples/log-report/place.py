"""Where the files of one run lie; shared by the handlers and the commands of this example."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any


def folder_of(run_input: Any, run_id: str) -> Path:
    """The folder that the run's input names, or one of the run's own among temporary files."""
    if isinstance(run_input, dict) and "folder" in run_input:
        return Path(run_input["folder"])
    return Path(tempfile.gettempdir(), f"tenure-log-report-{run_id}")
