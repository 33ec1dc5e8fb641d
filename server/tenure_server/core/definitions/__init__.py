"""Definitions of workflows: their parts as values, the rules they must keep, and their graph.

Each knows what is left of it:

    payloads  <  features  <  declared  <  form, rules, needs, expression_checks  <  definition
"""
