"""The `tenure` command.

`app` is the root: it knows each command by name and one line of help, and loads the module of a
noun when it is used, so that `tenure --help` is quick. A noun's module turns options into calls of
the client library and answers into output: tables for people, JSON for programs.

    app        the root, exit codes, errors in one line
    tenants, keys, workflows, runs, agents, constitution, evidence, dev     the nouns
    session    who calls whom: address, key, tenant, TLS
    output     tables, details and JSON; plain: messages of the contract as plain values
    progress   a run while it runs: bars on a terminal, else lines
    proving    what is verified here of the evidence; auditing: a whole log
    embedded   coordinator and agent as children of this process; dev_run, report: one run there
"""
