"""CEL expressions: what a text reads, what it may cost at most, and what it comes to.

Each knows what is left of it:

    words, reads  <  parts  <  reading  <  costs, results  <  evaluation
"""
