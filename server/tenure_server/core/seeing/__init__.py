"""What people ask: which runs there are, why a task does not run, how two runs differ."""
