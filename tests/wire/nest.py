"""What a finished `tenure dev run` leaves behind, for tests of evidence: bundle and database."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.wire.test_examples import TENURE, environment

#: Words that only payloads have in them.
INPUT_TEXT, OUTPUT_TEXT = "plover-egg-of-the-run", "nest-of-the-plover"

HANDLERS = f'''
def look(ctx, input):
    return "{OUTPUT_TEXT}"

def stumble(ctx, input):
    if ctx.attempt == 1:
        raise ValueError("first time")
    return len(ctx.upstream["look"])
'''
AGENT = """
[[python]]
kind = "look"
function = "handlers:look"
[[python]]
kind = "stumble"
function = "handlers:stumble"
"""
WORKFLOW = """
name: nest
output: {seen: tasks.look.output}
tasks:
  - {key: look, kind: look}
  - {key: stumble, kind: stumble, depends_on: [look], retry: {max_attempts: 2, initial_delay: 10ms}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a finished `tenure dev run` has left behind."""

    report: dict[str, Any]
    bundle: Path
    data: Path

    @property
    def database(self) -> Path:
        return self.data / "tenure.db"


def run_in(folder: Path) -> Kept:
    """Runs the workflow to its end; one task fails its first attempt."""
    (folder / "handlers.py").write_text(HANDLERS)
    (folder / "agent.toml").write_text(AGENT)
    (folder / "nest.yaml").write_text(WORKFLOW)
    bundle, data = folder / "run.bundle.json", folder / "data"
    command = [*TENURE, "dev", "run", str(folder / "nest.yaml"), "--json"]
    command += ["--bundle", str(bundle), "--data", str(data)]
    command += ["--input", json.dumps({"text": INPUT_TEXT})]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Kept(report=json.loads(done.stdout), bundle=bundle, data=data)
