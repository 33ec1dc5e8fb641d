"""The client side of the wire: channel, client library, workflow files and the `tenure` command.

Floors, imports run down only::

    cli              the command: options in, tables, JSON and exit codes out
    client, evidence    every RPC as a typed method; retries, pages, watching
    workflow_file, builder, wfcommons    three ways to the same definition
    payload, errors, channel             data, refusals, the line itself

Nothing here imports the coordinator or the agent: the coordinator is met on the wire only, and
the agent stands on top of `channel`, `payload` and `errors`. Modules are imported as modules
(`from tenure_client import builder`), so that each use names its home.
"""
