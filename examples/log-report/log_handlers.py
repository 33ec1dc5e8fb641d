"""Handlers of the log report: what each kind of task does, in plain Python.

Files lie in one folder for the whole run, `place.folder_of` says which. What tasks tell each other
is small: counts and names, never the logs themselves.
"""

from __future__ import annotations

import asyncio
import gzip
import html
import random
from collections import Counter
from typing import Any

import place

from tenure_agent import NonRetryable, TaskContext

LINES = 6000
PATHS = ("/", "/search", "/cart", "/checkout", "/login", "/api/items", "/static/app.js")
WEIGHTS = (30, 20, 8, 3, 6, 18, 15)
DAY = "23/Nov/2025"
OWNERS = {"eu": "Ada", "us": "Grace"}
BAR_WIDTH, CHART_HEIGHT = 24, 160


def write_log(ctx: TaskContext, task_input: dict[str, Any]) -> dict[str, Any]:
    """Writes the access log of one host for one day: always the same for the same host."""
    host = task_input["host"]
    source = random.Random(host)
    folder = place.folder_of(ctx.run_input, ctx.run_id)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    seconds = sorted(source.randrange(86400) for _ in range(LINES))
    lines = []
    for number, second in enumerate(seconds):
        if number % 1000 == 0:
            ctx.raise_if_cancelled()
            ctx.progress(number / LINES, f"{number:,} lines")
        time = f"{DAY}:{second // 3600:02d}:{second // 60 % 60:02d}:{second % 60:02d} +0000"
        path = source.choices(PATHS, WEIGHTS)[0]
        status = 500 if source.random() < 0.004 else 404 if source.random() < 0.02 else 200
        size, milliseconds = source.randrange(200, 20_000), round(source.expovariate(1 / 40))
        address = f"10.{source.randrange(256)}.{source.randrange(256)}.{source.randrange(256)}"
        request = f"GET {path} HTTP/1.1"
        lines.append(f'{address} - - [{time}] "{request}" {status} {size} {milliseconds}\n')
    name = f"logs/{host}.log"
    (folder / name).write_text("".join(lines), encoding="ascii")
    return {"file": name, "lines": LINES}


async def look_up_owners(ctx: TaskContext, _input: None) -> dict[str, str]:
    """Asks an inventory who owns a region. The inventory is down at first: a retry gets it."""
    await asyncio.sleep(0)  # where a real one would wait for its network
    if ctx.attempt == 1:
        raise ConnectionError("the inventory does not answer (on purpose: see attempt 2)")
    return OWNERS


def count_requests(ctx: TaskContext, _input: None) -> dict[str, Any]:
    """Reads one compressed log and counts what is in it."""
    (archive,) = ctx.upstream.values()
    hours, paths, statuses = [0] * 24, Counter[str](), Counter[str]()
    slowest, lines, size = 0, 0, 0
    folder = place.folder_of(ctx.run_input, ctx.run_id)
    with gzip.open(folder / archive["file"], "rt", encoding="ascii") as stream:
        for line in stream:
            words = line.split()
            hours[int(words[3].split(":")[1])] += 1
            paths[words[6]] += 1
            statuses[words[8]] += 1
            size += int(words[9])
            slowest = max(slowest, int(words[10]))
            lines += 1
    return {
        "lines": lines,
        "bytes": size,
        "hours": hours,
        "paths": dict(paths),
        "statuses": dict(statuses),
        "slowest_ms": slowest,
    }


def merge_counts(ctx: TaskContext, _input: Any) -> dict[str, Any]:
    """Adds up the counts of all tasks it depends on."""
    parts = list(ctx.upstream.values())
    paths, statuses = Counter[str](), Counter[str]()
    for part in parts:
        paths.update(part["paths"])
        statuses.update(part["statuses"])
    return {
        "lines": sum(part["lines"] for part in parts),
        "bytes": sum(part["bytes"] for part in parts),
        "hours": [sum(counts) for counts in zip(*(part["hours"] for part in parts), strict=True)],
        "paths": dict(paths.most_common()),
        "statuses": dict(sorted(statuses.items())),
        "slowest_ms": max(part["slowest_ms"] for part in parts),
    }


def draw_chart(ctx: TaskContext, task_input: dict[str, Any]) -> dict[str, str]:
    """Draws requests by hour as SVG."""
    (counts,) = ctx.upstream.values()
    highest = max(counts["hours"])
    bars = []
    for hour, count in enumerate(counts["hours"]):
        height = round(CHART_HEIGHT * count / highest)
        x, y = hour * BAR_WIDTH, CHART_HEIGHT - height
        bars.append(
            f'<rect x="{x + 2}" y="{y}" width="{BAR_WIDTH - 4}" height="{height}"/>'
            f'<text x="{x + 12}" y="{CHART_HEIGHT + 16}">{hour}</text>'
        )
    view = f"0 0 {24 * BAR_WIDTH} {CHART_HEIGHT + 24}"
    style = "rect{fill:#4068c8}text{font:11px sans-serif;text-anchor:middle}"
    name = f"{task_input['title']}.svg"
    (place.folder_of(ctx.run_input, ctx.run_id) / name).write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">'
        f"<style>{style}</style>{''.join(bars)}</svg>\n",
        encoding="utf-8",
    )
    return {"file": name}


def write_report(ctx: TaskContext, _input: None) -> dict[str, Any]:
    """Puts counts, owners and charts onto one page."""
    folder = place.folder_of(ctx.run_input, ctx.run_id)
    total, owners = ctx.upstream["total"], ctx.upstream["owners"]
    sections = []
    for region, owner in sorted(owners.items()):
        counts = ctx.upstream[f"region-{region}"]
        chart = (folder / ctx.upstream[f"chart-{region}"]["file"]).read_text(encoding="utf-8")
        rows = "".join(
            f"<tr><td>{html.escape(path)}<td>{count:,}" for path, count in counts["paths"].items()
        )
        sections.append(
            f"<h2>{region}, owned by {html.escape(owner)}</h2>"
            f"<p>{counts['lines']:,} requests, slowest {counts['slowest_ms']:,} ms</p>"
            f"{chart}<table>{rows}</table>"
        )
    statuses = ", ".join(f"{count:,} × {status}" for status, count in total["statuses"].items())
    page = (
        "<!doctype html><meta charset=utf-8><title>Log report</title>"
        "<style>body{font-family:sans-serif;max-width:44em;margin:2em auto}</style>"
        f"<h1>{total['lines']:,} requests, {total['bytes']:,} bytes</h1><p>{statuses}</p>"
        f"{''.join(sections)}\n"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")
    return {"file": "report.html", "lines": total["lines"]}


def check_report(ctx: TaskContext, _input: None) -> dict[str, Any]:
    """Compares what was written at the beginning with what was counted at the end."""
    report, sums = ctx.upstream["report"], ctx.upstream["checksums"]
    written = sum(entry["lines"] for key, entry in ctx.upstream.items() if key.startswith("write-"))
    if written != report["lines"]:
        raise NonRetryable("LINES_LOST", f"{written} lines written, {report['lines']} counted")
    folder = str(place.folder_of(ctx.run_input, ctx.run_id))
    return {"folder": folder, "lines": written, "report_sha256": sums["report.html"]}
