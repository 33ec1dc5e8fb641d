"""Between a ready task and an agent: queues, limits, placement, leases, and when they are over.

Each knows what is left of it:

    leases, buckets, ready  <  placing, limits  <  live_leases
    alarms  <  timeouts  <  live_leases
"""
