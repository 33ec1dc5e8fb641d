"""Handlers of the sales: lines of text, cleaned rows, a table in SQLite."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from tenure_agent import TaskContext

SHOP = ZoneInfo("Europe/Vienna")


def extract_day(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Reads the lines that the till wrote on the day before: here, always the same for a day."""
    fired = datetime.fromisoformat(given["fired"]).astimezone(SHOP)
    day = (fired.date() - timedelta(days=1)).isoformat()
    seed = hashlib.sha256(day.encode()).digest()
    lines = [f"{day};item-{byte % 7};{byte % 9};{1 + byte / 10:.2f}" for byte in seed]
    # A till that stutters writes a line twice, and one that jams writes half of one.
    return {"day": day, "lines": [*lines, lines[0], lines[1][:9]]}


def clean_day(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Leaves out what is torn, repeated or empty, and turns prices into cents."""
    rows, seen = [], set()
    for number, line in enumerate(given["lines"]):
        parts = line.split(";")
        if len(parts) != 4 or line in seen or parts[2] == "0":
            continue
        seen.add(line)
        rows.append([number, parts[1], int(parts[2]), round(float(parts[3]) * 100)])
    return {"rows": rows, "dropped": len(given["lines"]) - len(rows)}


def load_day(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Puts a day in place of what the table had of it, in one transaction."""
    database = sqlite3.connect(Path(given["folder"]) / "sales.db")
    with contextlib.closing(database), database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS sales (day, number, item, count, cents, "
            "PRIMARY KEY (day, number))"
        )
        database.execute("DELETE FROM sales WHERE day = ?", (given["day"],))
        rows = [(given["day"], *row) for row in given["rows"]]
        database.executemany("INSERT INTO sales VALUES (?, ?, ?, ?, ?)", rows)
    return {"rows": len(rows), "total": sum(row[3] * row[4] for row in rows)}
