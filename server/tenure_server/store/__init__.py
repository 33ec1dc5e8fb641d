"""The record: tables, and the only code that speaks to a database.

The database is the truth and a log of what was decided; the engine decides in memory. So there are
two kinds of access, and they share nothing but the tables:

- *Writing* (`writer`): one connection, one thread, one transaction at a time. `Writer.commit` takes
  all that was decided since the last commit and writes it with a handful of statements whose text
  was built at the start (`hot_queries`, and a journal for each database). Every row is a
  compare-and-set on state and term; every transaction asserts the seats (`seats`) under which it
  was decided, so whoever lost one can change nothing. `Writer.act` is for what is rare: `acts`,
  with Peewee's models.
- *Reading* (`reads`): any thread, read-only connections. `TenantReads` is bound to one tenant and
  adds it to every query by itself. The queries are constants (`tenant_queries`) with slots for
  values (`statements`).

Nothing here is repaired after a failure: the caller throws away what it remembers and reads again.

SQLite and PostgreSQL differ in a few places only, behind `backend`: how a connection is made, what
keeps others out (a lock on the file, or the seats alone), whose clock counts, and how many rows
travel at once. Everything else, the tests too, is the same for both.
"""
