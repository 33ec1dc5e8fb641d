"""The peers that are measured, with the settings they are given and the reasons for them.

Settings are those that gave the best durable figure when they were tried; where a default was
changed, it was changed in the peer's favour. All are told to write through to disk, as Tenure does.
"""

from __future__ import annotations

from benchmarks.peers import services
from benchmarks.peers.adapter import Peer

_DBOS = {
    "2 worker processes": "more than one was faster, and the machine it was tried on has 2 cores",
    "no concurrency cap": "a cap of 32 a worker was slower",
    "polling each 0.1 s": "the default of 1 s sets the latency of queued work; it costs idle CPU",
    "enqueue in transactions of 500": "one transaction each is many times slower",
}

PEERS = {
    "dbos-sqlite": Peer(
        name="DBOS, SQLite",
        program="dbos_program",
        package="dbos",
        service=services.sqlite,
        beside="sqlite",
        workers=2,
        tasks=1000,
        chains=200,
        settings=_DBOS
        | {"journal_mode WAL, synchronous FULL": "WAL is not the default; it is 1.5 times faster"},
    ),
    "dbos-postgresql": Peer(
        name="DBOS, PostgreSQL",
        program="dbos_program",
        package="dbos",
        service=services.postgresql,
        beside="postgresql",
        workers=2,
        tasks=2000,
        chains=200,
        settings=_DBOS | {"fsync and synchronous_commit on": "durable; PostgreSQL's defaults"},
    ),
    "procrastinate": Peer(
        name="Procrastinate, PostgreSQL",
        program="procrastinate_program",
        package="procrastinate",
        service=services.postgresql,
        beside="postgresql",
        workers=2,
        tasks=2000,
        chains=500,
        settings={
            "2 worker processes of 10 jobs at a time": "async tasks; one process was slower",
            "LISTEN and NOTIFY": "the default; polling would only be slower",
            "1,000 jobs with one statement": "its batch_defer, the quickest way to submit",
            "each step defers the next": "it has no workflows, and passes no results",
            "fsync and synchronous_commit on": "durable; PostgreSQL's defaults",
        },
    ),
    "dramatiq": Peer(
        name="Dramatiq, Redis",
        program="dramatiq_program",
        package="dramatiq",
        service=services.redis,
        beside="sqlite",
        workers=1,
        tasks=5000,
        chains=1000,
        settings={
            "2 processes of 4 threads": "for 2 cores; its default is a process a core, 8 threads",
            "appendonly yes, appendfsync always": "else Redis acknowledges what a crash can lose",
            "results in Redis": "without them nobody knows what was done",
            "chains as pipelines": "its own way to pass a result on",
        },
    ),
    "huey": Peer(
        name="Huey, SQLite",
        program="huey_program",
        package="huey",
        service=services.folder_only,
        beside="sqlite",
        workers=1,
        tasks=5000,
        chains=1000,
        settings={
            "2 threads in 1 process": "no-op tasks: more threads wait for the same file lock",
            "journal_mode WAL, synchronous FULL": "what was acknowledged survives a power loss",
            "polling each 0.01 to 0.1 s": "the default backs off to 10 s when idle",
            "chains as pipelines": "its own way to pass a result on",
        },
    ),
    "prefect": Peer(
        name="Prefect, SQLite",
        program="prefect_program",
        package="prefect",
        service=services.prefect,
        beside="sqlite",
        workers=0,
        tasks=100,
        chains=25,
        settings={
            "one flow in the client's process": "tasks handed to serving workers were slower",
            "8 threads": "its ThreadPoolTaskRunner; no-op tasks wait for the server, not the CPU",
            "results persisted, no caching": "else a step's result dies with the process",
            "no logs to the server, no analytics": "work that nothing is compared with",
            "synchronous NORMAL": "no setting changes it: a power loss may cost the last commits",
            "done when its server says so": "that is told by events, after the flow has returned",
        },
    ),
}
