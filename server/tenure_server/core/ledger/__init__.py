"""What is written down: the states of runs and tasks, rows of decisions, and items of evidence.

Each knows what is left of it:

    lifecycle  <  items  <  journal     what decisions leave behind
    lifecycle  <  records               what the store gives back
"""
