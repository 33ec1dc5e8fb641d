"""One run: its graph and what was added to it, where its tasks stand, its data and its history.

Each knows what is left of it:

    gates, triggers, extensions, tasks, outputs  <  rows, live  <  restoring, history, run_data
"""
