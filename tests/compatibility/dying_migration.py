"""A coordinator that is killed while it migrates: `dying_migration.py URL STATEMENTS`.

It kills itself as `kill -9` does, after so many statements to the database.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

import peewee

from tenure_server.store.database import open_store


def main(url: str, statements: int) -> None:
    """Opens the store; it does not get to the end."""
    database_type: Any = peewee.Database
    execute, left = database_type.execute_sql, statements

    def counted(database: Any, *arguments: Any) -> Any:
        nonlocal left
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return execute(database, *arguments)

    database_type.execute_sql = counted
    open_store(url, holder="dying", address="dying:1")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
