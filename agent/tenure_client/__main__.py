"""Lets `python -m tenure_client` be the `tenure` command."""

from tenure_client.cli import app

app.main()
