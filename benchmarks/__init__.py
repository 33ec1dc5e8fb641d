"""Tenure's figures: speed, cost and memory, printed only after the results were verified.

``python -m benchmarks`` runs ``scenarios`` against an ``installation`` of real processes (one
coordinator, one agent) that lives in a temporary directory. A scenario drives it through ``load``
with the definitions of ``workload``, has what happened checked by ``verification``, and gives
``results``. ``calibration`` tells what the machine itself is worth at that moment, because the
same program gives half or double the figures on another machine or another day.
"""
