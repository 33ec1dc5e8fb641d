"""HTTP/2 frame by frame, as RFC 9113 says they look, and as it says they must not."""

from __future__ import annotations

import random
from collections.abc import Iterator

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, END_HEADERS, ACK = 1, 4, 1
#: The largest frame that may be sent unless the other side says more.
FRAME_BYTES = 16_384


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame whose length is true."""
    return lying(len(payload), kind, flags, stream, payload)


def lying(length: int, kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One frame that says another length."""
    head = length.to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big")
    return head + payload


def block(**headers: str) -> bytes:
    """The headers of a call, as HPACK's literals that nobody remembers."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/tenure.v1.Runs/ListRuns",
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return b"".join(_literal(name, value) for name, value in fields.items())


def _literal(name: str, value: str) -> bytes:
    return b"\0" + _text(name) + _text(value)


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) < 127:
        return bytes([len(raw)]) + raw
    rest, number = len(raw) - 127, [127]
    while rest >= 128:
        number.append(rest % 128 + 128)
        rest //= 128
    return bytes([*number, rest]) + raw


def call(stream: int, flags: int = END_HEADERS, **headers: str) -> bytes:
    """The frame that begins a call."""
    return frame(HEADERS, flags, stream, block(**headers))


def message(raw: bytes = b"", *, compressed: int = 0, length: int = -1) -> bytes:
    """A message of gRPC, with a prefix that may lie."""
    return bytes([compressed]) + (len(raw) if length < 0 else length).to_bytes(4, "big") + raw


def broken() -> Iterator[tuple[str, bytes]]:
    """What breaks a rule of HTTP/2, of HPACK or of gRPC, or is allowed and far too much."""
    yield from _frames()
    yield from _floods()
    yield from _calls()
    for seed in range(20):
        dice = random.Random(seed)
        yield f"frames at random, {seed}", b"".join(_any_frame(dice) for _ in range(50))


def _frames() -> Iterator[tuple[str, bytes]]:
    yield "a frame that never comes", lying((1 << 24) - 1, DATA, 0, 1, b"")
    yield "a frame of more than is allowed", frame(DATA, 0, 1, bytes(FRAME_BYTES + 1))
    yield "data on a stream that nobody opened", frame(DATA, 0, 7, b"data")
    yield "headers on no stream", call(0)
    yield "headers on a stream of the server", call(2)
    yield "a stream with a lower number", call(5) + call(3)
    yield "settings on a stream", frame(SETTINGS, 0, 1)
    yield "settings of five bytes", frame(SETTINGS, 0, 0, bytes(5))
    yield "settings with a window too large", frame(SETTINGS, 0, 0, b"\0\4\xff\xff\xff\xff")
    yield "settings with frames too small", frame(SETTINGS, 0, 0, b"\0\5\0\0\0\1")
    yield "a window that grows by nothing", frame(WINDOW, 0, 0, bytes(4))
    yield "a window that grows too far", frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff") * 2
    yield "a ping of seven bytes", frame(PING, 0, 0, bytes(7))
    yield "the end of a stream that never was", frame(RST, 0, 9, bytes(4))
    yield "a promise from a client", frame(PUSH, END_HEADERS, 1, bytes(4) + block())
    yield "a continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, block())
    yield "data amid headers", call(1, flags=0) + frame(DATA, 0, 1, b"data")
    yield "a stream that depends on itself", frame(PRIORITY, 0, 1, b"\0\0\0\1\0") + call(1)
    yield "a call after goodbye", frame(GOAWAY, 0, 0, bytes(8)) + call(1)
    yield "a kind of frame that is not known", frame(200, 255, 1, bytes(100))
    for name, junk in (
        ("index nought", b"\x80"),
        ("a number without an end", b"\xff" * 40),
        ("a table far too large", b"\x3f\xff\xff\xff\x7f"),
        ("an entry that is not there", b"\xfe"),
        ("a text longer than all", b"\0\x7f\xff\x7fabc"),
        ("no Huffman code", b"\0\x84\xff\xff\xff\xff\x84\xff\xff\xff\xff"),
    ):
        yield f"headers with {name}", frame(HEADERS, END_HEADERS, 1, junk)


def _floods() -> Iterator[tuple[str, bytes]]:
    piece = _literal("x-a", "a" * 8000)
    more = b"".join(frame(CONTINUATION, 0, 1, piece) for _ in range(500))
    yield "headers without an end", call(1, flags=0) + more
    yield "many headers", frame(HEADERS, END_HEADERS, 1, block() + _literal("x-a", "b") * 2000)
    yield "a flood of settings", frame(SETTINGS, 0, 0, b"\0\3\0\0\0\1") * 2000
    yield "a flood of pings", frame(PING, 0, 0, bytes(8)) * 2000
    yield "a flood of nothing", call(1) + frame(DATA, 0, 1) * 5000
    resets = (call(n) + frame(RST, 0, n, b"\0\0\0\x08") for n in range(1, 2000, 2))
    yield "calls that are taken back at once", b"".join(resets)
    yield "calls that are never made", b"".join(call(n) for n in range(1, 2400, 2))


def _calls() -> Iterator[tuple[str, bytes]]:
    for name, raw in (
        ("is compressed, it says, and does not say how", message(b"abc", compressed=1)),
        ("has a flag that there is not", message(b"abc", compressed=77)),
        ("has four gigabytes, it says", message(b"abc", length=(1 << 32) - 1)),
        ("is shorter than it says", message(b"abc", length=10)),
        ("has half a prefix", b"\0\0"),
        ("is followed by another", message() * 3),
        ("is missing", b""),
    ):
        yield f"a message that {name}", call(1) + frame(DATA, END_STREAM, 1, raw)
    for name, value in (
        ("grpc_encoding", "rot13"),
        ("grpc_timeout", "soon"),
        ("grpc_timeout", "99999999999999H"),
        ("content_type", "text/html"),
        ("te", "cakes"),
        ("grpc_status", "0"),
        ("grpc_trace_bin", "!!!"),
        ("authorization", "Bearer \x01"),
        ("x_correlation_id", "a" * 7000),
        ("UPPER", "case"),
        (":path", "/"),
        (":path", "tenure.v1.Runs/ListRuns"),
        (":method", "GET"),
        (":status", "200"),
    ):
        begin = frame(HEADERS, END_HEADERS, 1, block(**{name: value}))
        yield f"a call with {name} {value[:20]!r}", begin + frame(DATA, END_STREAM, 1, message())


def _any_frame(dice: random.Random) -> bytes:
    payload = dice.randbytes(dice.choice([0, 1, 4, 5, 8, 9, 100]))
    if dice.random() < 0.3:
        return call(dice.randrange(1, 50, 2), dice.choice([0, 1, 4, 5]))
    length = len(payload) if dice.random() < 0.9 else dice.randrange(1 << 14)
    kind, flags = dice.randrange(12), dice.randrange(256)
    return lying(length, kind, flags, dice.choice([0, 1, 2, 3, 1 << 31]), payload)
