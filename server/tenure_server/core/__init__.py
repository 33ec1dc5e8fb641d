"""The rules of Tenure as pure values and functions.

No clock, no input or output, no async, no randomness: ``now`` and random bytes are arguments, and
what is to be kept leaves as rows of a journal. So every rule can be tested by a table and the whole
engine simulated under a seed.

Time is a whole number of microseconds since the Unix epoch (``…_us``) everywhere below ``rpc``.
"""
