"""Handlers of the picture: strips are drawn in parallel, then put together.

Here tasks hand their results on as outputs, not as files. A strip saves how far it came, so that
its next attempt goes on from there; strip 3 needs that, because its first attempt fails half-way.
"""

from __future__ import annotations

import base64
import hashlib
import struct
import tempfile
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

from tenure_agent import TaskContext

WIDTH, HEIGHT = 480, 320
DEPTH_MAX = 80
ROWS_BETWEEN_CHECKPOINTS = 10
FAILING_STRIP, FAILING_ROW = 3, 20


def draw_strip(ctx: TaskContext, task_input: dict[str, int]) -> dict[str, Any]:
    """Draws some rows, going on where an earlier attempt of the same strip stopped."""
    rows = task_input["rows"]
    saved = ctx.checkpoint or {"rows": 0, "pixels": ""}
    pixels = bytearray(_unpacked(saved["pixels"]))
    for row in range(saved["rows"], rows):
        ctx.raise_if_cancelled()
        if row % ROWS_BETWEEN_CHECKPOINTS == 0 and row > saved["rows"]:
            ctx.save_checkpoint({"rows": row, "pixels": _packed(pixels)})
            ctx.progress(row / rows, f"row {row} of {rows}")
        if ctx.attempt == 1 and (task_input["strip"], row) == (FAILING_STRIP, FAILING_ROW):
            raise RuntimeError("the power went off (on purpose: attempt 2 goes on from here)")
        pixels += _row(task_input["strip"] * rows + row)
    return {"pixels": _packed(pixels), "resumed_at": saved["rows"]}


def assemble(ctx: TaskContext, _input: None) -> dict[str, Any]:
    """Puts the strips together in their order and writes the picture as PNG."""
    strips = [ctx.upstream[f"strip-{number}"] for number in range(len(ctx.upstream))]
    pixels = b"".join(_unpacked(strip["pixels"]) for strip in strips)
    folder = Path((ctx.run_input or {}).get("folder", tempfile.gettempdir()))
    target = folder / f"mandelbrot-{ctx.run_id}.png"
    target.write_bytes(_png(pixels))
    return {"file": str(target), "pixels_sha256": hashlib.sha256(pixels).hexdigest()}


def measure(ctx: TaskContext, _input: None) -> dict[str, Any]:
    """Tells how much of the picture lies inside the set, and how many strips were resumed."""
    strips = list(ctx.upstream.values())
    shades: Counter[int] = Counter()
    for strip in strips:
        shades.update(_unpacked(strip["pixels"]))
    return {
        "pixels": sum(shades.values()),
        "inside": shades[0],
        "resumed_strips": sum(strip["resumed_at"] > 0 for strip in strips),
    }


def _row(y: int) -> bytes:
    """One row of pixels: 0 inside the set, else the lighter the sooner a point escapes."""
    imaginary = (y / HEIGHT - 0.5) * 2.4
    shades = bytearray(WIDTH)
    for x in range(WIDTH):
        point = complex((x / WIDTH - 0.7) * 3.4, imaginary)
        value = 0j
        for depth in range(DEPTH_MAX):
            value = value * value + point
            if value.real * value.real + value.imag * value.imag > 4:
                shades[x] = 255 - depth * 3
                break
    return bytes(shades)


def _png(pixels: bytes) -> bytes:
    """A grey picture, 8 bits a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        checksum = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", checksum)

    rows = b"".join(b"\0" + pixels[start : start + WIDTH] for start in range(0, len(pixels), WIDTH))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 0, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _packed(pixels: bytes | bytearray) -> str:
    return base64.b64encode(zlib.compress(pixels)).decode("ascii")


def _unpacked(text: str) -> bytes:
    return zlib.decompress(base64.b64decode(text)) if text else b""
