"""Functions for worker processes, as the source of a module, with all that they can do to one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tests.agent.trial import Trial

from tenure_agent.holding import Key

HANDLERS = """
import asyncio, collections, ctypes, itertools, os, signal, subprocess, sys, time
import structlog, tenure_agent

print("printed at import")
kept = []

def same(ctx, value):
    return value


def who(ctx, value):
    return os.getpid()

def report(ctx, value):
    ctx.progress(0.5, "half way")
    ctx.save_checkpoint({"done": 1})
    names = ("run_id", "task_key", "attempt", "tenant_id", "workflow", "correlation_id")
    facts = {name: getattr(ctx, name) for name in names}
    return [value, ctx.run_input, ctx.upstream, ctx.checkpoint, ctx.cancelled, facts]

async def report_async(ctx, value):
    await asyncio.sleep(0)
    return report(ctx, value)

def fail(ctx, value):
    match value:
        case "value": raise ValueError("no")
        case "final": raise tenure_agent.NonRetryable("BAD", "never")
        case "leave": raise SystemExit(3)
        case "exit": os._exit(4)
        case "exit well": os._exit(0)
        case "talk": print("last words"); os._exit(5)
        case "kill": os.kill(os.getpid(), signal.SIGKILL)
        case "object": return object()
        case "large": return "x" * (2**20 + 1)
        case "surrogate": raise ValueError("\\ud800")

async def fail_async(ctx, value):
    return fail(ctx, value)

def segfault(ctx, value):
    ctypes.string_at(0)

def save_and_die(ctx, value):
    ctx.save_checkpoint("saved")
    os._exit(1)

def until_told(ctx, value):
    ctx.progress(0.1, str(os.getpid()))
    while not ctx.cancelled:
        time.sleep(0.005)
    if value == "raise":
        ctx.raise_if_cancelled()
    return "saw it"

async def until_cancelled(ctx, value):
    ctx.progress(0.1, str(os.getpid()))
    await asyncio.Event().wait()

def deaf(ctx, value):
    child = subprocess.Popen(["sleep", "60"])
    ctx.progress(0.1, f"{os.getpid()} {child.pid}")
    while True:
        time.sleep(60)

def hog(ctx, value):
    ctx.save_checkpoint(os.getpid())
    collections.deque(itertools.repeat(1), maxlen=0)

def talk(ctx, value):
    print("by print")
    os.write(1, b"by write\\n")
    subprocess.run(["echo", "by a child"])
    print("on stderr", file=sys.stderr)
    sys.stdout.write("without an end")
    return sys.stdin.read()

def shout(ctx, value):
    for _ in range(200):
        print("x" * 10_000)
    return "done"

def log(ctx, value):
    ctx.logger.warning("by context", more=1)
    structlog.get_logger("lib").error("by structlog")
    ctx.logger.warning("y" * 1_000_000)

def keep(ctx, value):
    kept.append(ctx)

def speak_for_another(ctx, value):
    kept[0].save_checkpoint("stale")
    kept[0].progress(0.9)
    ctx.progress(0.2)

def write_everywhere(ctx, value):
    for fd in range(3, 20):
        try:
            os.write(fd, b"\\xff" * 64)
        except OSError:
            pass
    time.sleep(60)

def fork(ctx, value):
    pid = os.fork()
    if pid == 0:
        ctx.logger.warning("by a fork")
        os._exit(0)
    os.waitpid(pid, 0)
    return "done"

def steal_signal(ctx, value):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    return os.getpid()
"""

StartIsolated = Callable[..., Trial]


async def until_it_speaks(it: Trial, key: Key) -> None:
    """Waits for the first word of an attempt."""
    async with asyncio.timeout(60):
        while all(spoken != key for spoken, _ in it.words):
            it.spoke.clear()
            await it.spoke.wait()
