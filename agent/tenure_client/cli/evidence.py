"""`tenure evidence`: what was done and refused, and the proof that nobody changed it."""

from __future__ import annotations

import contextlib
import os
import uuid
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click

from tenure.v1 import evidence_pb2
from tenure_client.cli import (
    auditing,
    evidence_tables,
    options,
    output,
    proving,
    run_names,
    session,
)
from tenure_client.client import Client
from tenure_evidence import __main__ as verifier

_FILE = click.Path(dir_okay=False, path_type=Path)
_OUT = options.NewFile()
_SINCE = click.option(
    "--since-index", type=click.IntRange(min=0), help="Only entries from this number on."
)


@click.group(cls=options.Group)
def evidence() -> None:
    """List, export, verify and audit what was done and refused.

    The log is that of the tenant; with an operator's key (--as operator) it is the
    installation's own. `verify`, and `audit --database`, need no coordinator and no key.
    """


@evidence.command(name="list")
@click.option("--kind", default="", help="Only this kind, such as run.start.")
@click.option("--principal", default="", help="Only acts of this API key, by its id.")
@click.option("--correlation", default="", help="Only what belongs to this correlation id.")
@click.option("--run", "run_id", metavar="RUN", help="Only acts by which something happened to it.")
@click.option("--refused", is_flag=True, help="Only refusals.")
@_SINCE
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@click.pass_context
def list_(
    context: click.Context,
    kind: str,
    principal: str,
    correlation: str,
    run_id: str | None,
    refused: bool,
    since_index: int | None,
    limit: int,
) -> None:
    """List entries by number."""

    async def act(client: Client) -> list[evidence_pb2.EvidenceEntry]:
        found: list[evidence_pb2.EvidenceEntry] = []
        entries = client.evidence.entries(
            from_index=since_index or 0,
            kind=kind,
            principal=principal,
            correlation_id=correlation,
            run_id="" if run_id is None else await run_names.resolve(client, run_id),
            refused_only=refused,
            page_size=min(limit, 1000),
        )
        async with aclosing(entries):
            async for entry in entries:
                found.append(entry)
                if len(found) == limit:
                    break
        return found

    found = session.of(context).run(act)
    evidence_tables.show_entries(found, json=session.wants_json(context))


@evidence.command()
@click.argument("index", type=click.IntRange(min=0))
@proving.ROOT_KEY
@click.pass_context
def show(context: click.Context, index: int, root_key: str | None) -> None:
    """Show an entry, and verify it here.

    The entry number INDEX with its items; its proof is verified on this side.
    """
    key, json = proving.trusted(root_key), session.wants_json(context)

    async def act(client: Client) -> None:
        chain = await proving.chain_from(client, key)
        signed = await client.evidence.checkpoint()
        checkpoint = proving.checkpoint_of(signed.checkpoint, chain)
        # Asked for first: of an entry that is not there, no page would say so.
        proof = await client.evidence.inclusion_proof(index, size=checkpoint.size)
        entries = client.evidence.entries(from_index=index, with_items=True, page_size=1)
        async with aclosing(entries):
            items = list((await anext(entries)).items)
        value = proving.entry_of(proof, items, checkpoint, index)
        values = [evidence_tables.item_value(item) for item in items]
        if not json:
            proven = f"verified: in the log of {checkpoint.size} entries that was signed"
            evidence_tables.show_entry(value, values, proven)
            return
        output.document(
            {
                "entry": value,
                "items": values,
                "proof": [step.hex() for step in proof.proof],
                "size": checkpoint.size,
                "checkpoint": signed.checkpoint,
                "verified": True,
            }
        )

    session.of(context).run(act)


@evidence.command()
@click.option("--out", type=_OUT, help="Write the note into this file instead.")
@proving.ROOT_KEY
@click.pass_context
def checkpoint(context: click.Context, out: Path | None, root_key: str | None) -> None:
    """Write a signed checkpoint to publish.

    The log is signed as it stands. Whoever keeps the note elsewhere can tell later whether the
    log was rolled back or rewritten: tenure evidence audit --from-file FILE
    """
    key = proving.trusted(root_key)

    async def act(client: Client) -> evidence_pb2.GetCheckpointResponse:
        chain = await proving.chain_from(client, key)
        signed = await client.evidence.checkpoint()
        proving.checkpoint_of(signed.checkpoint, chain)
        return signed

    signed = session.of(context).run(act)
    if out is not None:
        _write_whole(out, signed.checkpoint)
    if session.wants_json(context):
        where = None if out is None else str(out)
        facts = {"checkpoint": signed.checkpoint, "size": signed.size, "file": where}
        output.document(facts)
    elif out is None:
        click.echo(signed.checkpoint, nl=False)
    else:
        click.echo(f"{out}: the log of {signed.size} entries")


@evidence.command()
@click.argument("run_id", metavar="RUN")
@click.option("-o", "--out", type=_OUT, help="Default: <run id>.bundle.json here.")
@proving.ROOT_KEY
@click.pass_context
def export(context: click.Context, run_id: str, out: Path | None, root_key: str | None) -> int:
    """Write the bundle of RUN into a file, and verify it.

    One file that proves what became of the run, to whoever has it: tenure evidence verify FILE
    """
    key, json = proving.trusted(root_key), session.wants_json(context)

    async def act(client: Client) -> dict[str, Any]:
        full_id = await run_names.resolve(client, run_id)
        path = out or Path(f"{full_id}.bundle.json")
        chain = await proving.chain_from(client, key)
        with auditing.progress(f"run {full_id}", None, json=json, unit="bytes") as shown:
            size = await client.evidence.export_run(full_id, path, taken=shown)
        good, text = proving.bundle_verdict(path, chain)
        return {
            "run_id": full_id,
            "bundle": str(path),
            "bytes": size,
            "verified": good,
            "result": text,
        }

    facts = session.of(context).run(act)
    if json:
        output.document(facts)
    else:
        word = "verified" if facts["verified"] else "BAD"
        click.echo(f"{facts['bundle']}: {facts['bytes']} bytes, {word}: {facts['result']}")
    return 0 if facts["verified"] else 1


@evidence.command()
@click.argument("bundle", type=_FILE)
@click.option(
    "--key",
    metavar="VKEY|FILE",
    help="The key you trust. Default: the root in the bundle; compare it with the one you know.",
)
@click.pass_context
def verify(context: click.Context, bundle: Path, key: str | None) -> int:
    """Verify a bundle offline, with nothing but the file.

    \b
    Exit codes
      0  it is good
      1  it is not; the first bad entry is named
      2  the file or the key cannot be used
    """
    arguments = ["verify"]
    if key is not None:
        arguments.append(f"--key={key}")
    if session.wants_json(context):
        arguments.append("--json")
    return verifier.main([*arguments, "--", str(bundle)])


@evidence.command()
@click.option(
    "--from-file",
    "files",
    type=_FILE,
    multiple=True,
    metavar="CHECKPOINT",
    help="A checkpoint that was published earlier; may come again.",
)
@click.option(
    "--database", type=_FILE, help="Read this SQLite file instead, offline, with its records."
)
@proving.ROOT_KEY
@click.pass_context
def audit(
    context: click.Context, files: tuple[Path, ...], database: Path | None, root_key: str | None
) -> int:
    """Audit a whole log.

    Every entry, the tree over them, and every checkpoint that was signed. With --database also
    the definitions, runs, events and results in the file, of all tenants or of --tenant.

    \b
    Exit codes
      0  it is good
      1  it is not; the first bad entry is named
      2  a file or a key cannot be used
    """
    key, json = proving.trusted(root_key), session.wants_json(context)
    published = [proving.note_in(path) for path in files]
    if database is None:
        audited = session.of(context).run(
            lambda client: auditing.over_service(client, published, key, json=json)
        )
    else:
        given, environment = options.given(context)
        tenant = (environment | given).get("tenant")
        audited = auditing.over_database(database, tenant, published, key, json=json)
    return auditing.show(audited, json=json)


@evidence.command()
@_SINCE
@click.pass_context
def watch(context: click.Context, since_index: int | None) -> None:
    """Show new entries as they come.

    One on each line, once it is committed, until Ctrl-C.
    """
    json = session.wants_json(context)

    async def act(client: Client) -> None:
        start = since_index
        if start is None:
            start = (await client.evidence.checkpoint()).size
        async with aclosing(client.evidence.watch(from_index=start)) as entries:
            async for entry in entries:
                if json:
                    output.line(evidence_tables.said_by(entry))
                else:
                    click.echo(evidence_tables.line(entry))

    session.of(context).run(act)


@evidence.command()
@click.pass_context
def keys(context: click.Context) -> None:
    """Show the installation's public keys.

    The root first, then the certificates of the keys after it. Note the root down where the
    operator cannot change it: with it bundles and logs are verified.
    """
    json = session.wants_json(context)

    async def act(client: Client) -> None:
        given = await client.evidence.signing_keys()
        chain = proving.chain_of(given.root_key, given.certificates, None)
        if json:
            output.document(
                {
                    "root_key": given.root_key,
                    "certificates": list(given.certificates),
                    "newest_key": chain.newest.text,
                }
            )
            return
        click.echo(given.root_key)
        for certificate in given.certificates:
            click.echo(f"\n{certificate}", nl=False)

    session.of(context).run(act)


def _write_whole(path: Path, text: str) -> None:
    """Writes a file that appears as a whole or not at all."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
