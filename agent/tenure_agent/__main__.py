"""Runs the agent: `python -m tenure_agent`."""

from tenure_agent.daemon import main

main()
