"""Verifies a bundle offline: every entry by itself, then all of them together, then the file.

Never raises, whatever it is given. It goes on after the first fault, because the signature over the
whole says only that something was changed; the proofs say what.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tenure_evidence import bundle as bundles
from tenure_evidence import keys, salvage, tree
from tenure_evidence.bundle import Bundle, BundleInvalid
from tenure_evidence.canonical import NotCanonical, digest_text, read
from tenure_evidence.entries import Entries
from tenure_evidence.notes import Checkpoint, NoteInvalid, VerifierKey
from tenure_evidence.plan import Plan, plan_of
from tenure_evidence.report import FINDINGS_MAX, Finding, Findings, Report
from tenure_evidence.sequence import Sequence


def verify(data: bytes, trusted_key: str | None = None) -> Report:
    """Verifies a bundle.

    `trusted_key` is a verifier key; without one the root in the bundle is taken.
    """
    trusted: VerifierKey | None = None
    if trusted_key is not None:
        try:
            trusted = VerifierKey.parse(trusted_key)
        except NoteInvalid as error:
            return _unusable("key", f"the key that was given {error}")
    if len(data) > bundles.FILE_BYTES_MAX:
        return _unusable("size", f"the file has more than {bundles.FILE_BYTES_MAX >> 20} MiB")
    return _Verification(trusted).report(data)


def _unusable(what: str, reason: str) -> Report:
    return Report(findings=(Finding(what=what, reason=reason),), usable=False)


class _Verification:
    """One run through a bundle, and what it has found so far."""

    def __init__(self, trusted: VerifierKey | None) -> None:
        self.trusted = trusted
        self.found = Findings()

    def report(self, data: bytes) -> Report:
        """Checks in the order of the specification."""
        envelope = self._envelope(data)
        payload = envelope.payload if envelope else salvage.payload_of(data)
        statement = self._statement(payload)
        if not isinstance(statement.get("predicate"), dict):
            self.found.whole("statement", "has nothing in it that could be verified")
            return Report(findings=tuple(self.found.in_order()))
        bundle, problems = bundles.read_statement(statement)
        for problem in problems:
            self.found.whole("statement", problem)
        chain = self._chain(bundle)
        checkpoint = self._checkpoint(bundle, chain)
        plan = self._plan(bundle)
        entries = Entries(self.found, bundle, checkpoint)
        events = entries.check(plan, self._later_plans(bundle))
        self._moves(bundle, events)
        self._subjects(bundle, plan, events, entries)
        if envelope is not None:
            self._signature(envelope, chain)
        findings = self.found.in_order()
        key = self.trusted.text if self.trusted else bundle.root_key
        return Report(
            findings=tuple(findings[:FINDINGS_MAX]),
            findings_left_out=max(0, len(findings) - FINDINGS_MAX),
            key=key,
            key_from_bundle=self.trusted is None,
            tenant=bundle.tenant,
            run=bundle.run,
            end=events.ended,
            entries=len(bundle.entries),
            events=entries.events,
            log_size=checkpoint.size if checkpoint else 0,
        )

    def _envelope(self, data: bytes) -> bundles.Envelope | None:
        try:
            return bundles.open_envelope(data)
        except BundleInvalid as error:
            self.found.whole("envelope", str(error))
            return None

    def _statement(self, payload: bytes) -> Mapping[str, Any]:
        if bundles.brackets_in(payload) > bundles.BRACKETS_MAX:
            self.found.whole("statement", f"has more than {bundles.BRACKETS_MAX} parts")
            return {}
        try:
            return read(payload)
        except NotCanonical as error:
            self.found.whole("statement", str(error))
            return salvage.statement_of(payload)

    def _chain(self, bundle: Bundle) -> keys.Chain | None:
        """The keys to verify with; those of the bundle also when they are not the trusted ones.

        A signature by the bundle's own keys does not make it good, but still tells which of its
        parts belong together.
        """
        try:
            chain = keys.Chain.read(bundle.root_key, bundle.certificates)
        except keys.ChainInvalid as error:
            self.found.whole("certificates", str(error))
            return self._chain_of_trusted(bundle)
        if bundle.installation != chain.installation:
            reason = f"key 1 is of installation {chain.installation!r}, not {bundle.installation!r}"
            self.found.whole("certificates", reason)
        if self.trusted is None:
            return chain
        try:
            return chain.trusting(self.trusted)
        except keys.KeyUnknown as error:
            self.found.whole("key", f"not made by the installation that is trusted: {error}")
            return self._chain_of_trusted(bundle) or chain

    def _chain_of_trusted(self, bundle: Bundle) -> keys.Chain | None:
        if self.trusted is None:
            return None
        try:
            return keys.Chain.read(self.trusted.text, bundle.certificates)
        except keys.ChainInvalid:
            # The bundle's own chain is the one reported on.
            return None

    def _checkpoint(self, bundle: Bundle, chain: keys.Chain | None) -> Checkpoint | None:
        if chain is None:
            self.found.whole("checkpoint", "cannot be verified without its keys")
            return None
        try:
            checkpoint = Checkpoint.parse(chain.open(bundle.checkpoint))
        except NoteInvalid as error:
            self.found.whole("checkpoint", str(error))
            return None
        if not checkpoint.is_of(chain.installation):
            self.found.whole("checkpoint", f"is of the log {checkpoint.origin!r}")
            return None
        if checkpoint.tenant != bundle.tenant:
            reason = f"is of tenant {checkpoint.tenant!r}, not {bundle.tenant!r}"
            self.found.whole("checkpoint", reason)
            # Useless, unless it is the bundle's word for the tenant that was changed.
            return checkpoint if _first_log(bundle) == checkpoint.tenant else None
        return checkpoint

    def _plan(self, bundle: Bundle) -> Plan | None:
        try:
            return plan_of(bundle.definition)
        except ValueError as error:
            self.found.whole("definition", str(error))
            return None

    def _later_plans(self, bundle: Bundle) -> dict[str, Plan]:
        """What the definitions say that the run was moved to, by their digests."""
        plans = {}
        for number, text in enumerate(bundle.moved_to, start=1):
            try:
                plans[digest_text(text)] = plan_of(text)
            except ValueError as error:
                self.found.whole("definition", f"{number} of those it was moved to {error}")
        return plans

    def _moves(self, bundle: Bundle, events: Sequence) -> None:
        """Compares the definitions that the run was moved to with those that its events name."""
        if self.found.of_entries:
            return
        if events.moved_to != [digest_text(text) for text in bundle.moved_to]:
            self.found.whole("definition", "those it was moved to are not what its events name")

    def _subjects(
        self, bundle: Bundle, plan: Plan | None, events: Sequence, entries: Entries
    ) -> None:
        """Checks what the statement says it is about."""
        if entries.run != bundle.run:
            self.found.whole("run", f"is {bundle.run!r}, the events are of {entries.run!r}")
        if not bundle.subjects:
            return
        (run_name, run_hash), (workflow_name, definition_hash) = bundle.subjects
        if run_name != f"run/{bundle.run}":
            self.found.whole("subject", f"is {run_name!r}, the bundle of run {bundle.run!r}")
        if definition_hash != digest_text(bundle.definition).removeprefix("sha256:"):
            self.found.whole("subject", "has another definition's digest")
        name, at, version = workflow_name.removeprefix("workflow/").rpartition("@")
        if not workflow_name.startswith("workflow/") or not at or (plan and plan.name != name):
            self.found.whole("subject", f"is {workflow_name!r}, which is not what was defined")
        if entries.version and entries.version != version:
            self.found.whole("subject", f"is version {version}, the run was of {entries.version}")
        if run_hash == tree.root(entries.leaves).hex() or self.found.of_entries:
            return
        if events.ended:
            self.found.whole("subject", "has a digest that the run's events do not give")
            return
        place = len(bundle.entries)
        reason = f"what comes after event {events.seq} is missing, for the digest of all differs"
        self.found.entry(place, None, "missing", reason)

    def _signature(self, envelope: bundles.Envelope, chain: keys.Chain | None) -> None:
        if chain is None:
            self.found.whole("envelope", "cannot be verified without its keys")
            return
        if envelope.key_id != chain.newest.hash.hex():
            reason = f"is signed by key {envelope.key_id!r}, not by {chain.newest.hash.hex()}"
            self.found.whole("envelope", reason)
            return
        message = bundles.pae(bundles.PAYLOAD_TYPE, envelope.payload)
        if chain.newest.verifies(envelope.signature, message):
            return
        alone = not self.found.in_order()
        only = "; nothing else is wrong, so what was changed proves nothing" if alone else ""
        self.found.whole("envelope", f"signature does not verify{only}")


def _first_log(bundle: Bundle) -> object:
    try:
        return read(bundle.entries[0].entry).get("log") if bundle.entries else None
    except NotCanonical:
        return None
