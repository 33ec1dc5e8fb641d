"""Digests of payloads: what was given, and what came of it.

Made from digests of 32 bytes, so that nobody needs the payloads themselves once they were seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from tenure_evidence.canonical import framed_hash, hash_text

#: Of an agent that is given nothing, as most tasks of a large fan-out are.
NOTHING_GIVEN = framed_hash()


def payload_digest(data: bytes, content_type: str) -> bytes:
    """The digest of a payload: its bytes and its media type. Gives 32 bytes."""
    return framed_hash(data, content_type.encode())


def payload_text(data: bytes, content_type: str | None) -> str:
    """The digest of a stored payload as items have it."""
    return hash_text(payload_digest(data, content_type or ""))


def given_digest(
    task_input: bytes | None,
    run_input: bytes | None,
    upstream: Sequence[tuple[str, bytes]],
    checkpoint: bytes | None,
) -> bytes:
    """The digest of everything an agent is given, from raw digests. Gives 32 bytes.

    `upstream` has the key and the output's digest of each upstream task that has an output, in
    whatever order.
    """
    if task_input is None and run_input is None and not upstream and checkpoint is None:
        return NOTHING_GIVEN
    parts: list[bytes] = []
    if task_input is not None:
        parts += (b"input", task_input)
    if run_input is not None:
        parts += (b"run", run_input)
    for key, output in sorted(upstream):
        parts += (b"upstream", key.encode(), output)
    if checkpoint is not None:
        parts += (b"checkpoint", checkpoint)
    return framed_hash(*parts)


def success_digest(output: bytes | None) -> bytes:
    """The digest of a result that worked, from its output's raw digest. Gives 32 bytes."""
    return framed_hash(b"success") if output is None else framed_hash(b"success", output)


def failure_digest(code: str, message: str) -> bytes:
    """The digest of a result that failed. Gives 32 bytes."""
    return framed_hash(b"failure", code.encode(), message.encode())


def stopped_digest() -> bytes:
    """The digest of the result of an attempt that was stopped. Gives 32 bytes."""
    return framed_hash(b"stopped")


def constitution_digest(platform: bytes, tenant: bytes) -> bytes:
    """The digest of the constitution in force, from the canonical bytes of both parts.

    `tenant` is empty where a tenant added nothing. Gives 32 bytes.
    """
    return framed_hash(platform, tenant)
