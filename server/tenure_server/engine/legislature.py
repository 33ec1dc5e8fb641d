"""The legislature: puts a tenant's constitution into force, tries one, and tells what stands."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

import orjson

from tenure_constitution import admission, document
from tenure_constitution.article import Constitution, ConstitutionInvalid, check_beneath, read
from tenure_server.core import errors
from tenure_server.core.definitions.definition import digest_of
from tenure_server.core.desks.desk import Desk
from tenure_server.core.ledger import records
from tenure_server.engine.constitutions import Constitutions, TenantLaw
from tenure_server.engine.trials import Progress, Trial
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.reads import TenantReads

#: The field of requests that holds a constitution.
TEXT = "text"
#: How many constitutions are admitted at once.
ADMISSIONS_MAX = 2
_BY_ID = re.compile(r"articles\[([a-z][a-z0-9-]*)\]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Enacted:
    """What is in force after an act."""

    version: records.ConstitutionVersion
    content: Constitution
    #: False: this very content was in force already.
    created: bool


class Legislature:
    """Changes what is in force. Everything but the asking runs beside the loop."""

    def __init__(
        self,
        store: Store,
        constitutions: Constitutions,
        *,
        read: Callable[..., Awaitable[Any]],
        mutate: Callable[..., Awaitable[bytes]],
        desks: Callable[[], Mapping[str, Desk]],
        fail: Callable[[BaseException], None],
        now_us: Callable[[], int],
    ) -> None:
        """`fail` throws memory away, when nobody can tell what is in force."""
        self._store = store
        self._constitutions = constitutions
        self._read = read
        self._mutate = mutate
        self._desks = desks
        self._fail = fail
        self._now_us = now_us
        #: So many trials of articles at a time: each is a process of its own.
        self._admitting = asyncio.Semaphore(ADMISSIONS_MAX)
        #: A tenant stands in that line once: however much it asks, others come after its next.
        self._in_line: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def enact(
        self, origin: records.Origin, text: str, request: records.Request | None
    ) -> Enacted:
        """Puts a constitution into force in the origin's tenant, from its commit on.

        Raises FieldsInvalid, RequestIdReused, SeatElsewhere, StoreUnavailable.
        """
        tenant_id = origin.tenant_id
        content = await self._admitted(tenant_id, text)
        canonical = content.canonical()
        digest = digest_of(canonical)
        now_us = self._now_us()
        act = origin.acting("constitution.set")

        def work(acts: Acts) -> bytes:
            version, created = acts.set_constitution(
                tenant_id, digest, canonical, origin.api_key_id, now_us
            )
            act.subject = {"constitution": version.digest, "version": str(version.version)}
            made = [version.version, version.create_us, version.created_by, created]
            return orjson.dumps(made)

        def version_of(answer: bytes) -> tuple[records.ConstitutionVersion, bool]:
            number, create_us, created_by, created = orjson.loads(answer)
            version = records.ConstitutionVersion(
                tenant_id=tenant_id,
                version=number,
                digest=digest,
                canonical=canonical,
                create_us=create_us,
                created_by=created_by,
            )
            return version, created

        # Compiled before it is written, so that nothing lies between the commit and its force.
        draft, _ = version_of(orjson.dumps([0, now_us, origin.api_key_id, True]))
        law = await asyncio.to_thread(self._constitutions.law_under, draft)

        async def enforce(answer: bytes | None) -> None:
            if answer is None:
                await self._enforce_what_is_stored(tenant_id)
            else:
                self._enforce(law.as_version(version_of(answer)[0]))

        answer = await self._mutate(
            tenants=[tenant_id],
            remember_under=tenant_id,
            request=request,
            work=work,
            afterwards=enforce,
            act=act,
        )
        version, created = version_of(answer)
        return Enacted(version=version, content=content, created=created)

    async def version(
        self, tenant_id: str, number: int
    ) -> tuple[records.ConstitutionVersion, Constitution] | None:
        """A version of a tenant's constitution, the newest for 0."""

        def work() -> tuple[records.ConstitutionVersion, Constitution] | None:
            found = TenantReads(self._store, tenant_id).constitution(number)
            return None if found is None else (found, self._constitutions.articles_of(found))

        found: tuple[records.ConstitutionVersion, Constitution] | None = await self._read(work)
        return found

    async def versions(
        self, tenant_id: str, before: int | None, limit: int
    ) -> list[tuple[records.ConstitutionVersion, Constitution]]:
        """The versions of a tenant's constitution, the newest first."""

        def work() -> list[tuple[records.ConstitutionVersion, Constitution]]:
            found = TenantReads(self._store, tenant_id).constitutions(before, limit)
            return [(one, self._constitutions.articles_of(one)) for one in found]

        found: list[tuple[records.ConstitutionVersion, Constitution]] = await self._read(work)
        return found

    async def attempt(
        self,
        tenant_id: str,
        text: str,
        decisions_max: int,
        rpc_of: Callable[[str], Mapping[str, Any] | None],
    ) -> AsyncIterator[Progress]:
        """Tries a candidate on recorded decisions, and yields how it goes; see `Trial`.

        Raises FieldsInvalid.
        """
        trial = Trial(
            self._store,
            tenant_id,
            self._constitutions,
            await self._admitted(tenant_id, text),
            rpc_of=rpc_of,
            decisions_max=decisions_max,
        )
        await self._read(trial.begin)
        yield trial.progress
        while await self._read(trial.step):
            yield trial.progress
            trial.progress.changes.clear()
        yield trial.progress

    async def _admitted(self, tenant_id: str, text: str) -> Constitution:
        async with self._in_line.setdefault(tenant_id, asyncio.Lock()), self._admitting:
            return await asyncio.to_thread(_admit, self._constitutions.platform, text)

    def _enforce(self, law: TenantLaw) -> None:
        self._constitutions.enforce(law)
        assert law.version is not None
        tenant_id = law.version.tenant_id
        desk = self._desks().get(tenant_id)
        if desk is not None:
            desk.law = self._constitutions.of(tenant_id)

    async def _enforce_what_is_stored(self, tenant_id: str) -> None:
        """Nobody knows whether the change was committed: what is stored is what is in force."""

        def stored() -> TenantLaw | None:
            version = TenantReads(self._store, tenant_id).constitution()
            return None if version is None else self._constitutions.law_under(version)

        try:
            law = await self._read(stored)
        except Exception as error:  # noqa: BLE001 - under a law that is not known none may go on
            self._fail(error)
            return
        if law is not None:
            self._enforce(law)


def _admit(platform: Constitution, text: str) -> Constitution:
    """Reads and admits a text. Blocks. Raises FieldsInvalid, with paths into the text."""
    try:
        content = read(text, origin=TEXT)
        check_beneath(platform, content)
        admission.admit(content)
    except ConstitutionInvalid as error:
        raise errors.FieldsInvalid(
            [(_place(text, path), reason) for path, reason in error.violations]
        ) from error
    except admission.ArticleRefused as error:
        path = f"articles[{error.article_id}].expression"
        raise errors.FieldsInvalid([(_place(text, path), error.reason)]) from error
    except admission.TrialFailed as error:
        raise errors.StoreUnavailable(f"articles cannot be tried now: {error}") from error
    return content


def _place(text: str, path: str) -> str:
    """A place in the text: of an article that is named by its id, by where it stands."""
    if (named := _BY_ID.match(path)) is not None:
        ids = [article["id"] for article in document.read(text)["articles"]]
        path = f"articles[{ids.index(named[1])}]{path[named.end() :]}"
    return f"{TEXT}: {path}" if path else TEXT
