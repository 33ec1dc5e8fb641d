"""Files that hold constitutions, as commands take them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from tenure_client.errors import TenureError
from tenure_constitution import article
from tenure_constitution.article import Constitution

FILE = click.Path(path_type=Path)


def read(file: Path) -> Constitution:
    """Reads a constitution. Raises click.UsageError for what is none."""
    return _parsed(file, _text_of(file))


def read_text(file: Path) -> str:
    """Gives the text of a constitution, after a look at whether it is one.

    Raises click.UsageError, naming the file and the places in it.
    """
    text = _text_of(file)
    _parsed(file, text)
    return text


@contextmanager
def blamed(file: Path) -> Iterator[None]:
    """Names the file where the coordinator finds fault with its text.

    Raises click.UsageError in place of the refusal.
    """
    try:
        yield
    except TenureError as error:
        if error.reason != "FIELD_INVALID" or not error.fields:
            raise
        places = [f"{name}: {reason}".removeprefix("text: ") for name, reason in error.fields]
        raise click.UsageError(f"{file}: {'; '.join(places)}") from error


def _parsed(file: Path, text: str) -> Constitution:
    try:
        return article.read(text, origin=str(file))
    except article.ConstitutionInvalid as error:
        raise click.UsageError(str(error)) from error


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise click.UsageError(f"{file}: cannot be read: {reason}") from error
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{file}: is not UTF-8 text") from error
