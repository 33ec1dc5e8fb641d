"""What the agent and a worker process say to each other, in frames over two pipes.

::

    frame  = length of the body (4 bytes) tag (1 byte) body

The worker's side begins with a greeting, since what Python runs at its start may print: all that
comes before it is passed over.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator

from tenure_agent.payloads import PAYLOAD_BYTES_MAX

GREETING = b"\nTNRWRK1\n"
HEADER = struct.Struct("<IB")
#: What a worker may say in one frame beside a payload: a failure with its stack, a log line.
REPORT_EXTRA_BYTES = PAYLOAD_BYTES_MAX + 64 * 1024
#: The most that a worker takes in one frame: a lease with all that is upstream of it.
ORDER_BYTES_MAX = 1024 * 1024 * 1024


class Tag(enum.IntEnum):
    """What a frame is about. Only BEGIN goes to the worker."""

    #: Execute an attempt: the function's name, a space, the most bytes of its output, a line feed,
    #: a serialized LeaseBatch of one.
    BEGIN = 1
    #: It can take its first attempt.
    READY = 2
    #: Its function is about to be called.
    BEGUN = 3
    #: JSON: the fraction and the message.
    PROGRESS = 4
    #: JSON: the checkpoint itself.
    CHECKPOINT = 5
    #: JSON: a log line's fields.
    LOG = 6
    #: JSON: the output itself. Ends the attempt, as do the next two.
    OUTPUT = 7
    #: No output.
    NOTHING = 8
    #: JSON: code, message, non_retryable, trace.
    FAILURE = 9


class FrameError(ValueError):
    """What came is not a frame."""


def pack(tag: Tag, body: bytes) -> bytes:
    """Makes a frame."""
    return HEADER.pack(len(body), tag) + body


class Frames:
    """Takes bytes as they come and gives whole frames."""

    def __init__(self, *, bytes_max: int, greeting: bytes = b"") -> None:
        self._data = bytearray()
        self.bytes_max = bytes_max
        self._greeting = greeting

    def feed(self, data: bytes) -> Iterator[tuple[Tag, bytes]]:
        """Gives the frames that are whole by now. Raises FrameError."""
        self._data += data
        if self._greeting and not self._greeted():
            return
        while len(self._data) >= HEADER.size:
            length, number = HEADER.unpack_from(self._data)
            if length > self.bytes_max:
                raise FrameError(f"a frame of {length} bytes, of at most {self.bytes_max}")
            if len(self._data) < HEADER.size + length:
                return
            try:
                tag = Tag(number)
            except ValueError as error:
                raise FrameError(f"no frame has tag {number}") from error
            body = bytes(self._data[HEADER.size : HEADER.size + length])
            del self._data[: HEADER.size + length]
            yield tag, body

    def _greeted(self) -> bool:
        """Drops what came before the greeting, and the greeting."""
        at = self._data.find(self._greeting)
        if at < 0:
            del self._data[: -len(self._greeting)]
            return False
        del self._data[: at + len(self._greeting)]
        self._greeting = b""
        return True
