"""The agent: a daemon that pulls leases from a coordinator and executes them on its host.

Floors, imports run down only::

    daemon                         wiring, signals, logging; ``main``
    link                           one stream after the other: connect, hello, read, write, back off
    workbench                      leases come in, results go out; outlives every line
    doubts · renewals              room that nobody knows of · what handlers said, for renewals
    runner                         executes attempts, whatever their handlers do
    handlers · outbox              kinds, what they stand for · results until they are acknowledged
    commands · workers · threads   programs · processes of functions · threads
    isolated · children            one worker process · what all processes have in common
    groups · spool                 the disk: process groups that run · results
    functions · frames             how functions are found and called · what workers say
    holding · slots · mandates     pure: leases and how long to trust them · free room and credits
                                   · whether a coordinator may give them
    config · toml · context · payloads · deadlines · alarm · logs

Four things carry the design:

- **What outlives a line is kept apart from the line.** ``link`` may lose its stream at any
  moment; ``workbench`` then goes on working, and tells the next stream what it holds.
- **A lease is trusted for less time than it was given,** counted from the moment it was asked
  for. When that time is over the work stops: it will be somebody else's.
- **What may crash runs elsewhere.** A command and a function with ``process = true`` have a
  process of their own (``worker``), which ends alone, and which ends with the agent.
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
