"""HTML from values: what is not markup already is escaped, so nothing of others is obeyed."""

from __future__ import annotations

import html
from collections.abc import Iterable

from tenure_evidence.shown import clean

_VOID = frozenset({"meta", "br", "rect", "line"})


class Markup(str):
    """HTML that was made here. Any other text is shown as it is."""

    __slots__ = ()


Content = str | int | Iterable["Content"]


def element(tag: str, *content: Content, **attributes: str | float | None) -> Markup:
    """Makes an element; attributes that are None are left out, `class_` is `class`."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_attribute(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID and not content:
        return Markup(f"<{tag}{written}>" if tag in ("meta", "br") else f"<{tag}{written}/>")
    return Markup(f"<{tag}{written}>{join(content)}</{tag}>")


def join(content: Content) -> Markup:
    """Makes markup of one thing after the other."""
    match content:
        case Markup():
            return content
        case str():
            return Markup(html.escape(clean(content)))
        case int():
            return Markup(f"{content:,}")
        case _:
            return Markup("".join(join(item) for item in content))


def table(columns: Iterable[str], rows: Iterable[Iterable[Content]], *, empty: str) -> Markup:
    """Makes a table; columns whose title ends in `#` hold numbers. `empty` stands for no rows."""
    titles = list(columns)
    classes = ["number" if title.endswith("#") else None for title in titles]
    body = [
        element(
            "tr",
            [element("td", item, class_=kind) for item, kind in zip(row, classes, strict=True)],
        )
        for row in rows
    ]
    if not body:
        return element("p", empty, class_="quiet")
    head = [
        element("th", title.removesuffix("#"), class_=kind, scope="col")
        for title, kind in zip(titles, classes, strict=True)
    ]
    parts = (element("thead", element("tr", head)), element("tbody", body))
    return element("div", element("table", parts), class_="scroll")


def _attribute(value: str | float) -> str:
    if isinstance(value, str):
        return html.escape(clean(value), quote=True)
    return f"{value:.2f}".rstrip("0").rstrip(".")
