"""TOML files, read strictly: every value has a type, and a key that nobody asked for is refused."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_SIZE = re.compile(r"([0-9]{1,12}) ?(B|KiB|MiB|GiB)")
_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


class ConfigError(ValueError):
    """The configuration cannot be used; the message says where and why."""


def read(path: Path) -> dict[str, Any]:
    """Reads a file as TOML. Raises ConfigError."""
    path = path.absolute()
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text: {error.reason}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


class Table:
    """One table of the file; remembers which keys were asked for, so that others are refused."""

    def __init__(self, path: Path, name: str, content: Mapping[str, Any]) -> None:
        self.path = path
        self.name = name
        self._content = content
        self._known: list[str] = []

    def refuse(self, key: str, reason: str) -> ConfigError:
        """Makes the error for one key of this table."""
        where = f"[{self.name}] {key}" if self.name else key
        return ConfigError(f"{self.path}: {where}: {reason}")

    def value(self, key: str, kind: type, expected: str, *, required: bool = False) -> Any:
        """The value of a key, None when it is absent. Booleans never pass as numbers."""
        self._known.append(key)
        if key not in self._content:
            if required:
                raise self.refuse(key, "is missing" + self._near(key, self._content))
            return None
        value = self._content[key]
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.refuse(key, f"must be {expected}, not {describe(value)}")
        return value

    def text(self, key: str, *, required: bool = False) -> str | None:
        """A string that is not empty."""
        value: str | None = self.value(key, str, "a string", required=required)
        if value == "":
            raise self.refuse(key, "must not be empty")
        return value

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...] | None:
        """A list of strings."""
        value = self.value(key, list, "a list of strings", required=required)
        if value is None:
            return None
        for entry in value:
            if not isinstance(entry, str):
                raise self.refuse(key, f"must be a list of strings, not with {describe(entry)}")
        return tuple(value)

    def seconds(self, key: str, default: float) -> float:
        """A span of time from 0 to one day."""
        value: float | None = self.value(key, float, "a number of seconds")
        if value is None:
            return default
        if not 0 <= value <= 86400:
            raise self.refuse(key, "must be from 0 to 86400 seconds")
        return value

    def size(self, key: str, default: int) -> int:
        """A number of bytes, or a text such as `256KiB`."""
        self._known.append(key)
        value = self._content.get(key, default)
        if isinstance(value, str) and (match := _SIZE.fullmatch(value)):
            value = int(match[1]) * _UNITS[match[2]]
        if type(value) is not int or value < 0:
            raise self.refuse(key, f'must be a size such as "256KiB", not {describe(value)}')
        return value

    def file(self, key: str) -> Path | None:
        """A path, relative to the file's folder, of something that exists."""
        value = self.text(key)
        if value is None:
            return None
        target = self.path.parent / Path(value).expanduser()
        if not target.is_file():
            raise self.refuse(key, f"no such file: {target}")
        return target

    def table(self, key: str, *, required: bool = False) -> Table:
        """A table inside this one; empty when it is absent."""
        content = self.value(key, dict, f"a table: [{key}]", required=required)
        return Table(self.path, key, content or {})

    def tables(self, key: str) -> list[Table]:
        """A list of tables, named by their place."""
        content = self.value(key, list, f"a list of tables: [[{key}]]") or []
        for entry in content:
            if not isinstance(entry, dict):
                raise self.refuse(key, f"must be a list of tables: [[{key}]]")
        return [Table(self.path, f"{key} #{i}", entry) for i, entry in enumerate(content, 1)]

    def finish(self) -> None:
        """Refuses keys that nobody asked for."""
        for key in self._content:
            if key in self._known:
                continue
            hint = self._near(key, self._known) or f"; known: {', '.join(self._known)}"
            what = "unknown key" if self.name else "unknown table or key"
            raise self.refuse(key, what + hint)

    @staticmethod
    def _near(key: str, others: Iterable[str]) -> str:
        """Asks whether another key was meant, when one is near."""
        near = difflib.get_close_matches(key, list(others), n=1)
        return f"; did you mean {near[0]!r}?" if near else ""


def describe(value: object) -> str:
    """Says what a TOML value is, in words."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f"the string {value!r}"
        case int() | float():
            return f"the number {value}"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return f"a {type(value).__name__}"
