"""Evidence that a stranger can check: forms, trees, signatures, and what follows from them.

This package is what both sides of a proof share. The coordinator writes with it; an agent checks
with it the mandate of a lease; and whoever is handed a bundle verifies it with nothing else than
this package and one public key. Therefore it imports nothing of the coordinator, of the client or
of gRPC: the standard library, `orjson` for the canonical form, `cryptography` for Ed25519.

::

    __main__   records  results   the command; a database's records, against its log
       |          |
    verify      audit  database   a bundle, from the whole to the report; a whole log; the file
       |          |
    entries       |               the entries of a bundle: each by itself, then in order
       |          |
    sequence   report  salvage    what may follow what; findings; what a damaged file still says
       |          |       |
    bundle     mandate            the file; the right to execute a task
       |          |
     keys      signing            certificates and their chain; private keys (writers only)
       |          |
       +--notes---+               verifier keys, signed notes, checkpoints (C2SP)
            |
    tree   digests   rows         RFC 6962; payloads, results, and what an agent is given; what
            |                     rows mean and how items are repeated in them
        canonical                 the one spelling of each statement

Aside stands `shown`: text of others made safe to show, for all that write to terminals and logs.

Three rules hold everywhere:

- **What is hashed is what is stored.** Nothing is parsed and written again on the way to a hash.
- **One spelling.** Base64, hexadecimal, JSON and notes are refused when they could be written
  another way, so that no change to a bundle goes unseen, not even one that would mean the same.
- **Signatures first decide what to believe, then the trees decide where the fault is.** A verifier
  goes on after the first fault, so that it can name the first bad entry.

The format is written down in docs/evidence-format.md.
"""
