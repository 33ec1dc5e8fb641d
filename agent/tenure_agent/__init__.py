"""The agent: a daemon that pulls leases from a coordinator and executes them on its host.

Floors, imports run down only::

    daemon                     wiring, signals, logging; ``main``
    link                       one stream after the other: connect, hello, read, write, back off
    workbench                  leases come in, results go out; outlives every line
    runner                     executes attempts, whatever their handlers do
    handlers · outbox          kinds and what they stand for · results until they are acknowledged
    commands · threads · spool     processes · threads · the disk
    holding · slots            pure: leases and how long to trust them · free room and credits
    config · context · payloads · deadlines · logs

Three things carry the design:

- **What outlives a line is kept apart from the line.** ``link`` may lose its stream at any
  moment; ``workbench`` then goes on working, and tells the next stream what it holds.
- **A lease is trusted for less time than it was given,** counted from the moment it was asked
  for. When that time is over the work stops: it will be somebody else's.
- **A result is on disk before it is sent, and stays there until an outcome names it.**

This module is also the SDK. Handler authors write ``import tenure_agent`` and find here all
they need, so it is the one package of the house that re-exports names.
"""

import os

# Must stand before the first import of grpc: its fork handlers crash children that are spawned
# while calls are under way. grpc reads the variable once, when it is loaded.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"

from tenure_agent.context import NonRetryable, Stopped, TaskContext

__all__ = ["NonRetryable", "Stopped", "TaskContext"]
