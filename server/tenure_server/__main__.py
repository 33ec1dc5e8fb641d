"""Runs the coordinator's command: `python -m tenure_server serve …`."""

from tenure_server.cli import main

if __name__ == "__main__":
    main()
