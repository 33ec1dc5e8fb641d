"""How a run goes on: what follows from the end of a task, and what tasks do without an agent.

Each knows what is left of it, and those left of `consequences` tell it what came of them:

    timers, waits, approvals, children, expansion  <  activities  <  consequences
                                    turns, aftermath, run_limits  <  consequences
"""
