"""A command: compresses the log that the task before it wrote. JSON on stdin, JSON on stdout."""

import gzip
import json
import sys

import place

task = json.load(sys.stdin)
folder = place.folder_of(task["run_input"], task["run_id"])
(log,) = task["upstream"].values()
content = (folder / log["file"]).read_bytes()
# Without a time in its header the archive is the same whenever it is made.
packed = gzip.compress(content, mtime=0)
name = f"{log['file']}.gz"
(folder / name).write_bytes(packed)
print(f"{len(content):,} bytes became {len(packed):,}", file=sys.stderr)
json.dump({"file": name, "bytes": len(packed)}, sys.stdout)
