"""Text of others as it may be shown to people: nothing in it is obeyed by a terminal."""

from __future__ import annotations


def clean(text: str) -> str:
    """Replaces what a terminal would obey instead of show, but for the ends of lines."""
    if text.isprintable():
        return text
    return "".join(
        sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text
    )


def one_line(text: str) -> str:
    """The same, on one line to every reader: some take U+0085 or U+2028 for the end of one."""
    return clean(text).replace("\n", "\\n")
