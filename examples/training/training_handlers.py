"""Handlers of the training: gradient descent over a few points, with checkpoints."""

from __future__ import annotations

import random
from typing import Any

from tenure_agent import TaskContext

STEPS = 400
RATE = 0.05


def make_measurements(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Points near the line y = 3x + 2: the same for the same seed."""
    draw = random.Random(given["seed"])
    places = [number / 25 for number in range(50)]
    return {"points": [[x, 3 * x + 2 + draw.uniform(-0.1, 0.1)] for x in places]}


def fit_epoch(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Goes a few hundred steps down. The second epoch is disturbed half-way, once, on purpose."""
    asked = given["given"]
    previous = asked.get("previous") or {"slope": 0.0, "offset": 0.0, "epochs": 0}
    start = ctx.checkpoint or {"step": 0, "slope": previous["slope"], "offset": previous["offset"]}
    slope, offset, points = start["slope"], start["offset"], asked["points"]
    for step in range(start["step"], STEPS):
        ctx.raise_if_cancelled()
        slopes = sum((slope * x + offset - y) * x for x, y in points) / len(points)
        offsets = sum(slope * x + offset - y for x, y in points) / len(points)
        slope, offset = slope - RATE * slopes / 10, offset - RATE * offsets / 10
        if (step + 1) % 100 == 0:
            ctx.progress((step + 1) / STEPS, f"y = {slope:.3f}x + {offset:.3f}")
            ctx.save_checkpoint({"step": step + 1, "slope": slope, "offset": offset})
        if previous["epochs"] == 1 and ctx.attempt == 1 and step == STEPS // 2:
            raise ConnectionError("the machine is taken away")
    error = sum((slope * x + offset - y) ** 2 for x, y in points) / len(points)
    epochs = previous["epochs"] + 1
    return {"slope": slope, "offset": offset, "error": error, "epochs": epochs}


def report_model(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Says what came out."""
    model = given["model"]
    line = f"y = {model['slope']:.2f}x + {model['offset']:.2f}"
    return {"sentence": f"{line} after {model['epochs']} epochs, error {model['error']:.4f}"}
