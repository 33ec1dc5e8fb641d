"""A tenant's desk: it decides on runs and leases, under law, pauses and interventions.

Each knows what is left of it:

    law, poison, pauses  <  grants, dues, interventions  <  desk  <  fairness
"""
