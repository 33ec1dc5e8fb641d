"""A command: writes SHA256SUMS over every file of the run. JSON on stdin, JSON on stdout."""

import hashlib
import json
import sys

import place

task = json.load(sys.stdin)
folder = place.folder_of(task["run_input"], task["run_id"])
files = sorted(
    path for pattern in ("report.html", "*.svg", "logs/*.gz") for path in folder.glob(pattern)
)
sums = {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
}
lines = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
(folder / "SHA256SUMS").write_text(lines, encoding="utf-8")
json.dump(sums, sys.stdout)
