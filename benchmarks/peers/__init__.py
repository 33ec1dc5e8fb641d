"""Tenure beside what its users would pick instead: the same work, in one run, on one machine.

``python -m benchmarks.peers`` (`make bench-peers`) measures each peer of ``catalogue`` that can run
here against Tenure, in rounds that alternate, and prints the ratios. The peers are no dependencies:
they live in ``.venv-peers``, and what runs there is a program of ``programs`` for each, as child
processes that ``adapter`` speaks to in lines of JSON. How to add one is told in ``adapter``.
"""
