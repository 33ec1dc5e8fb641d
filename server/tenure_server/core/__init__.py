"""The rules of Tenure as pure values and functions.

No clock, no input or output, no async, no randomness: ``now`` and random bytes are arguments, and
what is to be kept leaves as rows of a journal. So every rule can be tested by a table and the whole
engine simulated under a seed.

The packages, each of which knows only those under it:

    seeing          what people ask
    desks           who decides on a tenant's runs and leases
    progress        how a run goes on
    leasing         between a ready task and an agent
    runs            one run in memory
    ledger          what is written down
    scheduling      when runs are started
    definitions     what authors write
    expressions     CEL

Time is a whole number of microseconds since the Unix epoch (``…_us``) everywhere below ``rpc``.
"""
