"""The command `python -m tenure_evidence verify BUNDLE [--key VKEY_OR_FILE] [--json]`.

Exits 0 when the bundle is good, 1 when it is not, 2 when the file or the key cannot be used.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tenure_evidence import bundle, keys, notes
from tenure_evidence.report import Report
from tenure_evidence.verify import verify

GOOD, BAD, UNUSABLE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Runs the command and gives the exit code."""
    parser = argparse.ArgumentParser(
        prog="tenure_evidence", description="Verifies what Tenure proves, offline."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("verify", help="verify the bundle of a run")
    command.add_argument("bundle", type=Path, help="the file")
    command.add_argument("--key", help="the key you trust: a verifier key, or a file with one")
    command.add_argument("--json", action="store_true", help="print for programs")
    options = parser.parse_args(arguments)
    try:
        key = None if options.key is None else key_from(options.key)
        # One byte more than is allowed, so that the limit shows without reading it all.
        with options.bundle.open("rb") as file:
            data = file.read(bundle.FILE_BYTES_MAX + 1)
    except (OSError, notes.NoteInvalid, UnicodeDecodeError) as error:
        print(f"cannot be verified: {error}", file=sys.stderr)
        return UNUSABLE
    report = verify(data, key)
    if options.json:
        print(json.dumps(as_json(report), indent=2))
    else:
        print("\n".join(sentences(report)))
    return exit_code(report)


def key_from(text: str) -> str:
    """A verifier key given as such or as the file it is in; the first one in the file.

    Raises NoteInvalid or OSError.
    """
    try:
        return notes.VerifierKey.parse(text.strip()).text
    except notes.NoteInvalid:
        if not Path(text).exists():
            raise
    found = keys.parse_all(Path(text).read_text(encoding="utf-8").splitlines())
    if not found:
        raise notes.NoteInvalid(f"no verifier key is in {text}")
    return found[0].text


def exit_code(report: Report) -> int:
    """0 good, 1 bad, 2 unusable."""
    if not report.usable:
        return UNUSABLE
    return GOOD if report.ok else BAD


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs."""
    first = report.first_bad
    return {
        "ok": report.ok,
        "first_bad_entry": None
        if first is None
        else {"position": first.position, "index": first.index},
        "reason": report.findings[0].reason if report.findings else "",
        "findings": [
            {
                "what": finding.what,
                "position": finding.position,
                "index": finding.index,
                "reason": finding.reason,
            }
            for finding in report.findings
        ],
        "findings_left_out": report.findings_left_out,
        "tenant": report.tenant,
        "run": report.run,
        "end": report.end,
        "entries": report.entries,
        "events": report.events,
        "log_size": report.log_size,
        "key": report.key,
        "key_from_bundle": report.key_from_bundle,
    }


def sentences(report: Report) -> list[str]:
    """The report for people, a sentence a line."""
    lines = [finding.sentence for finding in report.findings]
    if not report.usable:
        return [_shown(f"cannot be verified: {line}") for line in lines]
    if report.findings_left_out:
        lines.append(f"and {report.findings_left_out} findings more")
    if report.ok:
        end = report.end or "still open"
        lines.append(
            f"good: run {report.run} of tenant {report.tenant}, {end}: {report.events} events in "
            f"{report.entries} entries of a log of {report.log_size}"
        )
    else:
        named = "no single entry can be named" if report.first_bad is None else "see above"
        lines.append(f"bad: first bad entry: {named}")
    source = "the one that was given"
    if report.key_from_bundle:
        source = "taken from the bundle itself; compare it with the one you know"
    if report.key:
        lines.append(f"key: {source}: {report.key}")
    return [_shown(line) for line in lines]


def _shown(line: str) -> str:
    # The file may come from a stranger: nothing in it may steer the terminal.
    return "".join(character if character.isprintable() else "?" for character in line)[:1000]


if __name__ == "__main__":
    sys.exit(main())
