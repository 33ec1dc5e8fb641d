"""Handlers of the document pipeline: find, convert, lead to."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from tenure_agent import NonRetryable, TaskContext

_PAGE = "<!doctype html><meta charset=utf-8><title>{title}</title>\n{body}\n"


def find_documents(ctx: TaskContext, given: Any) -> list[str]:
    """Lists the documents of a folder, in order."""
    found = sorted(str(path) for path in Path(given["source"]).glob("*.md"))
    if not found:
        raise NonRetryable("NO_DOCUMENTS", f"{given['source']} holds no .md files")
    return found


def convert_document(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Writes the page of one document, and says what it is called and how many words it has."""
    path = Path(given["path"])
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise NonRetryable("NOT_TEXT", f"{path.name} is not UTF-8: {error.reason}") from error
    title, parts = path.stem, []
    for block in re.split(r"\n\s*\n", text.strip()):
        if heading := re.fullmatch(r"(#+) (.+)", block):
            level = min(len(heading[1]), 6)
            title = heading[2] if level == 1 else title
            parts.append(f"<h{level}>{html.escape(heading[2])}</h{level}>")
        else:
            parts.append(f"<p>{html.escape(block)}</p>")
    page = Path(given["target"]) / f"{path.stem}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    # Whole or not at all, so that an attempt that is repeated does no harm.
    draft = page.with_suffix(".draft")
    draft.write_text(_PAGE.format(title=html.escape(title), body="\n".join(parts)), "utf-8")
    draft.replace(page)
    return {"title": title, "page": page.name, "words": len(text.split())}


def write_index(ctx: TaskContext, given: Any) -> dict[str, Any]:
    """Writes the page that leads to the others. A document that failed has null in its place."""
    pages = [page for page in given["pages"] if page]
    lines = [
        f'<li><a href="{html.escape(page["page"])}">{html.escape(page["title"])}</a>, '
        f"{page['words']} words"
        for page in pages
    ]
    path = Path(given["target"]) / "index.html"
    path.write_text(_PAGE.format(title="Documents", body="<ul>" + "\n".join(lines)), "utf-8")
    return {"path": str(path), "words": sum(page["words"] for page in pages)}
