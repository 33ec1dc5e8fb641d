"""The root of the `tenure` command: its commands, its errors and its exit codes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from tenure_client.cli import options

OK = 0
FAILED = 1
BAD_INPUT = 2
UNREACHABLE = 3
DENIED = 4
NOT_FOUND = 5
INTERRUPTED = 130

#: Refusals of the constitution: an article says why, and evidence is what people ask for next.
_DENIALS = ("CALL_DENIED", "ACT_DENIED")

EPILOG = """\b
Exit codes
  0    it worked
  1    the run failed or was cancelled, or the coordinator refused; a workflow that is checked is
       denied, a constitution that is tried would decide otherwise
  2    bad usage, a bad file, or a value that the coordinator calls invalid
  3    no coordinator could be reached, or it cannot work now
  4    not authenticated or not permitted
  5    not found
  130  interrupted by Ctrl-C

\b
Every option above may also stand after the command. Environment variables carry the same
names: TENURE_ADDRESS, TENURE_KEY, TENURE_KEY_FILE, TENURE_CREDENTIALS, TENURE_TENANT,
TENURE_TLS_CA, TENURE_TLS_CERT, TENURE_TLS_KEY.
"""

#: Each command: the module and the name it has there, and its line of help.
COMMANDS = {
    "dev": ("dev", "dev", "Start coordinator and agent, or run a workflow file at once."),
    "workflow": ("workflows", "workflow", "Register, validate, list and show workflows."),
    "run": ("runs", "run", "Start, list, find, show, compare, watch, cancel and mend runs."),
    "event": ("run_waits", "event", "Publish events that runs wait for or begin with."),
    "logs": ("runs", "logs", "Show what happened in a run, line by line."),
    "schedule": (
        "schedules",
        "schedule",
        "Start runs by themselves: by cron, interval or date.",
    ),
    "constitution": (
        "constitution",
        "constitution",
        "Set, show and try the rules, check by them, and report.",
    ),
    "evidence": (
        "evidence",
        "evidence",
        "List, export, verify and audit what was done and refused.",
    ),
    "agents": ("agents", "agents", "List the agents that serve the tenant."),
    "tenants": ("tenants", "tenants", "Make, list, show, change and erase tenants."),
    "keys": ("keys", "keys", "Make, list and revoke API keys."),
    "whoami": ("keys", "whoami", "Show the key in use, its roles and tenants."),
}


class Root(click.Group):
    """Knows its commands by name, and loads the module of the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(
            importlib.import_module(f"tenure_client.cli.{module}"), name
        )
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


@click.group(cls=Root, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tenure", prog_name="tenure")
@options.connection(hidden=False)
def root() -> None:
    """Talks to a Tenure coordinator: workflows, runs, agents, tenants and keys."""


def invoke(arguments: Sequence[str]) -> int:
    """Executes a command line and gives its exit code; errors go to stderr, one line each."""
    try:
        result = root.main(args=list(arguments), prog_name="tenure", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return BAD_INPUT
    except click.ClickException as error:
        print(f"error: {_usage(error)}", file=sys.stderr)
        return BAD_INPUT
    except (KeyboardInterrupt, click.Abort):
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output has enough; a second complaint at exit would be noise.
        sys.stdout = None
        return FAILED
    except Exception as error:
        if "--debug" in arguments:
            raise
        message, code = explain(error)
        print(f"error: {message}", file=sys.stderr)
        return code
    return result if isinstance(result, int) else OK


def _usage(error: click.ClickException) -> str:
    """Writes a fault of the command line on one line, with the way to help where that helps."""
    message = " ".join(error.format_message().split()).removesuffix(".")
    context = getattr(error, "ctx", None)
    # What commands refuse themselves says enough; click's own refusals want the list of options.
    if context is None or type(error) is click.UsageError:
        return message
    return f"{message} (see `{context.command_path} --help`)"


def explain(error: Exception) -> tuple[str, int]:
    """Turns an error into a line for people and an exit code."""
    # Imported here: when these were not needed before, no error of theirs can have happened.
    from tenure_client.channel import ChannelError
    from tenure_client.cli.proving import ProofError
    from tenure_client.errors import TenureError
    from tenure_client.graph import DefinitionError
    from tenure_client.payload import PayloadError
    from tenure_client.workflow_file import WorkflowFileError

    match error:
        case TenureError():
            return explain_refusal(error)
        case ChannelError() | DefinitionError() | PayloadError() | WorkflowFileError():
            return str(error), BAD_INPUT
        case ProofError():
            return str(error), FAILED
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            return f"{where}{(error.strerror or str(error)).lower()}", FAILED
        case _:
            kind = type(error).__name__
            return f"unexpected {kind}: {error} (--debug shows where it happened)", FAILED


def explain_refusal(error: Any) -> tuple[str, int]:
    """Turns a failed call into a line and an exit code."""
    import grpc

    code = grpc.StatusCode
    if error.reason in _DENIALS:
        return explain_denial(error), DENIED if error.code is code.PERMISSION_DENIED else FAILED
    if error.reason == "VERSIONS_DIFFER":
        # The first of what stands against it is in the message already.
        more = [f"{one.subject}: {one.description}" for one in error.objections[1:]]
        return "\n  ".join([error.message, *more]), FAILED
    match error.code:
        case code.UNAVAILABLE if not error.reason:
            return f"no coordinator could be reached: {error}", UNREACHABLE
        case code.UNAVAILABLE:
            return str(error), UNREACHABLE
        case code.DEADLINE_EXCEEDED:
            return "the coordinator did not answer in time", UNREACHABLE
        case code.UNAUTHENTICATED | code.PERMISSION_DENIED:
            return str(error), DENIED
        case code.NOT_FOUND:
            return str(error), NOT_FOUND
        case code.INVALID_ARGUMENT:
            return str(error), BAD_INPUT
        case code.INTERNAL if error.correlation_id:
            return f"{error} (correlation id {error.correlation_id})", FAILED
        case _:
            return str(error), FAILED


def explain_denial(error: Any) -> str:
    """Says which articles deny an act, and where the evidence lies, each on a line."""
    lines = [error.message]
    told = [one.description for one in error.objections]
    lines += [text for text in told if text not in error.message]
    log, _, number = error.decision.rpartition("/")
    if log == "installation":
        lines.append(f"see: entry {number} in the log of the installation")
    elif number:
        lines.append(f"see: tenure evidence show {number}")
    return "\n  ".join(lines)


def main() -> None:
    """The entry point of the `tenure` script."""
    sys.exit(invoke(sys.argv[1:]))
