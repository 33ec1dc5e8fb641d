"""The service Tenants: tenants and the API keys that act for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tenure.v1 import pauses_pb2, tenants_pb2, tenants_pb2_grpc
from tenure_server.config import RESERVED_TENANT
from tenure_server.core import errors, ids
from tenure_server.core.ledger import records
from tenure_server.engine.engine import Engine
from tenure_server.engine.erasure import erase_tenant
from tenure_server.rpc import access, api_keys, convert, pages
from tenure_server.rpc.doorway import Context, Streams
from tenure_server.rpc.requests import repeatable
from tenure_server.store.acts import Acts
from tenure_server.store.database import Store
from tenure_server.store.reads import Reads
from tenure_server.store.retention import Erased

MAX_LEASES_DEFAULT = 1000
MAX_LEASES_MAX = 1_000_000
WEIGHT_DEFAULT = 1
WEIGHT_MAX = 1000
DISPLAY_NAME_CHARACTERS_MAX = 200
UPDATABLE = frozenset({"display_name", "max_leases", "weight"})


class Tenants(tenants_pb2_grpc.TenantsServicer):
    """Converts, asks, converts."""

    def __init__(self, engine: Engine, store: Store, streams: Streams) -> None:
        self._engine = engine
        self._store = store
        self._reads = Reads(store)
        self._streams = streams

    async def CreateTenant(
        self, request: tenants_pb2.CreateTenantRequest, context: Context
    ) -> tenants_pb2.CreateTenantResponse:
        """Makes a tenant."""
        if request.tenant_id == RESERVED_TENANT:
            raise errors.FieldsInvalid([("tenant_id", "stands for the installation itself")])
        tenant = records.Tenant(
            tenant_id=request.tenant_id,
            display_name=request.display_name or request.tenant_id,
            max_leases=request.max_leases or MAX_LEASES_DEFAULT,
            weight=request.weight or WEIGHT_DEFAULT,
            create_us=self._engine.now_us(),
        )
        access.caller().act.subject = _tenant_subject(tenant)
        response = tenants_pb2.CreateTenantResponse(tenant=convert.tenant_message(tenant))

        def work(acts: Acts) -> bytes:
            acts.create_tenant(tenant)
            return response.SerializeToString()

        answer = await self._engine.mutate(
            tenants=(),
            remember_under=ids.INSTALLATION,
            request=repeatable(request, access.caller().rule.method),
            work=work,
            act=access.caller().act,
            afterwards=lambda _: self._engine.after_tenant_change(tenant.tenant_id),
        )
        return tenants_pb2.CreateTenantResponse.FromString(answer)

    async def GetTenant(
        self, request: tenants_pb2.GetTenantRequest, context: Context
    ) -> tenants_pb2.GetTenantResponse:
        """Shows a tenant."""
        tenant = await self._engine.read(lambda: self._reads.tenant(request.tenant_id))
        if tenant is None:
            raise errors.NotFound("tenant", request.tenant_id)
        return tenants_pb2.GetTenantResponse(tenant=self._message(tenant))

    async def ListTenants(
        self, request: tenants_pb2.ListTenantsRequest, context: Context
    ) -> tenants_pb2.ListTenantsResponse:
        """Lists the tenants that the caller may see."""
        caller = access.caller()
        limit = pages.limit(request)
        (after,) = pages.read(caller, request) or ("",)
        only = None if caller.is_operator else caller.tenant_ids
        found = await self._engine.read(lambda: self._reads.tenants(after, limit + 1, only))
        response = tenants_pb2.ListTenantsResponse(
            tenants=[self._message(tenant) for tenant in found[:limit]]
        )
        if len(found) > limit:
            cursor = [found[limit - 1].tenant_id]
            response.next_page_token = pages.issue(caller, request, cursor)
        return response

    async def UpdateTenant(
        self, request: tenants_pb2.UpdateTenantRequest, context: Context
    ) -> tenants_pb2.UpdateTenantResponse:
        """Changes a tenant's name, limits or weight."""
        change = _tenant_change(request)
        tenant_id = request.tenant.tenant_id
        act = access.caller().act

        def work(acts: Acts) -> bytes:
            # Read where it is written: of two changes at once none undoes the other.
            with self._store.reading():
                tenant = self._reads.tenant(tenant_id)
            if tenant is None:
                raise errors.NotFound("tenant", tenant_id)
            changed = change(tenant)
            acts.update_tenant(changed)
            act.subject = _tenant_subject(changed)
            message = convert.tenant_message(changed)
            return tenants_pb2.UpdateTenantResponse(tenant=message).SerializeToString()

        if await self._engine.read(lambda: self._reads.tenant(tenant_id)) is None:
            raise errors.NotFound("tenant", tenant_id)
        answer = await self._engine.mutate(
            tenants=[tenant_id],
            remember_under=ids.INSTALLATION,
            request=repeatable(request, access.caller().rule.method),
            work=work,
            act=access.caller().act,
            afterwards=lambda _: self._engine.after_tenant_change(tenant_id),
        )
        return tenants_pb2.UpdateTenantResponse.FromString(answer)

    async def DeleteTenant(
        self, request: tenants_pb2.DeleteTenantRequest, context: Context
    ) -> tenants_pb2.DeleteTenantResponse:
        """Erases a tenant."""

        def answered(erased: Erased) -> bytes:
            response = tenants_pb2.DeleteTenantResponse(log_size=erased.size, log_root=erased.root)
            return response.SerializeToString()

        answer = await erase_tenant(
            self._engine,
            request.tenant_id,
            request=repeatable(request, access.caller().rule.method),
            act=access.caller().act,
            answer=answered,
            end_streams=self._streams.end,
        )
        return tenants_pb2.DeleteTenantResponse.FromString(answer)

    async def PauseTenant(
        self, request: pauses_pb2.PauseTenantRequest, context: Context
    ) -> pauses_pb2.PauseTenantResponse:
        """Leases nothing more of a tenant."""
        caller = await self._caller_for(request.tenant_id)
        await self._engine.pausing.pause(
            request.tenant_id,
            "",
            request.reason,
            # The tenant's people see it, and an operator's key is none of theirs.
            by="" if caller.is_operator else caller.key.api_key_id,
            act=caller.act,
            request=repeatable(request, caller.rule.method),
            remember_under=ids.INSTALLATION if caller.is_operator else request.tenant_id,
        )
        return pauses_pb2.PauseTenantResponse()

    async def ResumeTenant(
        self, request: pauses_pb2.ResumeTenantRequest, context: Context
    ) -> pauses_pb2.ResumeTenantResponse:
        """Lets a tenant go on."""
        caller = await self._caller_for(request.tenant_id)
        await self._engine.pausing.resume(
            request.tenant_id,
            "",
            request.reason,
            act=caller.act,
            request=repeatable(request, caller.rule.method),
            remember_under=ids.INSTALLATION if caller.is_operator else request.tenant_id,
        )
        return pauses_pb2.ResumeTenantResponse()

    async def CreateApiKey(
        self, request: tenants_pb2.CreateApiKeyRequest, context: Context
    ) -> tenants_pb2.CreateApiKeyResponse:
        """Makes a key and shows its secret once."""
        caller = access.caller()
        now_us = self._engine.now_us()
        secret = api_keys.new_secret()
        key = api_keys.new_api_key(
            secret,
            name=request.name,
            roles=api_keys.roles_of(caller, request),
            tenant_ids=request.tenant_ids,
            now_us=now_us,
            expire_us=api_keys.expiry_us(request, now_us),
        )
        response = tenants_pb2.CreateApiKeyResponse(api_key=convert.api_key_message(key))
        caller.act.subject = api_keys.subject_of(key)
        made = False

        def work(acts: Acts) -> bytes:
            nonlocal made
            acts.create_api_key(key)
            made = True
            return response.SerializeToString()

        answer = await self._engine.mutate(
            # A key that an admin makes is an act in the tenant's own log.
            tenants=self._logs(caller, key),
            remember_under=self._memory(caller, key),
            request=repeatable(request, caller.rule.method),
            work=work,
            act=access.caller().act,
        )
        response = tenants_pb2.CreateApiKeyResponse.FromString(answer)
        if made:
            response.secret = secret
        return response

    async def ListApiKeys(
        self, request: tenants_pb2.ListApiKeysRequest, context: Context
    ) -> tenants_pb2.ListApiKeysResponse:
        """Lists a tenant's keys, or the operators'."""
        caller = access.caller()
        if not request.tenant_id and not caller.is_operator:
            raise errors.RoleMissing(
                "only an operator sees the operators' keys: name a tenant", roles="operator"
            )
        limit = pages.limit(request)
        cursor = pages.read(caller, request)
        after = None if cursor is None else (int(cursor[0]), str(cursor[1]))

        def read() -> list[records.ApiKey] | None:
            if request.tenant_id and self._reads.tenant(request.tenant_id) is None:
                return None
            return self._reads.api_keys(request.tenant_id, after, limit + 1)

        found = await self._engine.read(read)
        if found is None:
            raise errors.NotFound("tenant", request.tenant_id)
        response = tenants_pb2.ListApiKeysResponse(
            api_keys=[
                convert.api_key_message(key, api_keys.visible_to(caller)) for key in found[:limit]
            ]
        )
        if len(found) > limit:
            last = found[limit - 1]
            token = pages.issue(caller, request, [last.create_us, last.api_key_id])
            response.next_page_token = token
        return response

    async def RevokeApiKey(
        self, request: tenants_pb2.RevokeApiKeyRequest, context: Context
    ) -> tenants_pb2.RevokeApiKeyResponse:
        """Revokes a key at once, and ends its streams."""
        caller = access.caller()
        key = await self._engine.read(lambda: self._reads.api_key(request.api_key_id))
        # A key that acts for further tenants is not this admin's alone to take away.
        if key is None or not (caller.is_operator or api_keys.within(key, caller)):
            raise errors.NotFound("API key", request.api_key_id)
        now_us = self._engine.now_us()

        def work(acts: Acts) -> bytes:
            message = convert.api_key_message(acts.revoke_api_key(request.api_key_id, now_us))
            return tenants_pb2.RevokeApiKeyResponse(api_key=message).SerializeToString()

        async def end_streams(_: bytes | None) -> None:
            revoked = await self._engine.read(lambda: self._reads.api_key(request.api_key_id))
            # Where the outcome was not known, the key may be good still.
            if revoked is not None and revoked.revoke_us is not None:
                await self._engine.after_revoke(revoked)
                self._streams.end(revoked.api_key_id)

        answer = await self._engine.mutate(
            tenants=self._logs(caller, key),
            remember_under=self._memory(caller, key),
            request=repeatable(request, caller.rule.method),
            work=work,
            act=access.caller().act,
            afterwards=end_streams,
        )
        return tenants_pb2.RevokeApiKeyResponse.FromString(answer)

    async def GetCaller(
        self, request: tenants_pb2.GetCallerRequest, context: Context
    ) -> tenants_pb2.GetCallerResponse:
        """Tells the caller who it is."""
        key = access.caller().key
        return tenants_pb2.GetCallerResponse(api_key=convert.api_key_message(key))

    async def _caller_for(self, tenant_id: str) -> access.Caller:
        """Who calls, about a tenant. Raises NotFound where there is no such tenant."""
        if await self._engine.read(lambda: self._reads.tenant(tenant_id)) is None:
            raise errors.NotFound("tenant", tenant_id)
        return access.caller()

    def _message(self, tenant: records.Tenant) -> tenants_pb2.Tenant:
        quarantine = self._engine.quarantine_of(tenant.tenant_id)
        message = convert.tenant_message(tenant, quarantine)
        pause = self._engine.pausing.of(tenant.tenant_id)
        if pause is not None:
            message.pause.CopyFrom(convert.pause_message(pause))
        return message

    @staticmethod
    def _logs(caller: access.Caller, key: records.ApiKey) -> Sequence[str]:
        """The seats under which a mutation of a key happens: none for an operator's."""
        return () if caller.is_operator else key.tenant_ids[:1]

    @staticmethod
    def _memory(caller: access.Caller, key: records.ApiKey) -> str:
        """Whose request ids a mutation of a key is remembered under."""
        return ids.INSTALLATION if caller.is_operator else key.tenant_ids[0]


def _tenant_change(
    request: tenants_pb2.UpdateTenantRequest,
) -> Callable[[records.Tenant], records.Tenant]:
    """What an update does to a tenant. Raises FieldsInvalid."""
    wanted = request.tenant
    paths = frozenset(request.update_mask.paths)
    violations = [
        ("update_mask", f"{path!r} is not a field that can be changed")
        for path in sorted(paths - UPDATABLE)
    ]
    if not paths:
        violations.append(("update_mask", "names no field"))
    if not wanted.tenant_id:
        violations.append(("tenant.tenant_id", "is required"))
    if "display_name" in paths and len(wanted.display_name) > DISPLAY_NAME_CHARACTERS_MAX:
        reason = f"must have at most {DISPLAY_NAME_CHARACTERS_MAX} characters"
        violations.append(("tenant.display_name", reason))
    if "max_leases" in paths and not 1 <= wanted.max_leases <= MAX_LEASES_MAX:
        violations.append(("tenant.max_leases", f"must lie between 1 and {MAX_LEASES_MAX}"))
    if "weight" in paths and not 1 <= wanted.weight <= WEIGHT_MAX:
        violations.append(("tenant.weight", f"must lie between 1 and {WEIGHT_MAX}"))
    if violations:
        raise errors.FieldsInvalid(violations)

    def change(tenant: records.Tenant) -> records.Tenant:
        display_name = wanted.display_name or tenant.tenant_id
        return records.Tenant(
            tenant_id=tenant.tenant_id,
            display_name=display_name if "display_name" in paths else tenant.display_name,
            max_leases=wanted.max_leases if "max_leases" in paths else tenant.max_leases,
            weight=wanted.weight if "weight" in paths else tenant.weight,
            create_us=tenant.create_us,
        )

    return change


def _tenant_subject(tenant: records.Tenant) -> dict[str, str]:
    """What the evidence says of a tenant that is made or changed."""
    return {
        "tenant": tenant.tenant_id,
        "max_leases": str(tenant.max_leases),
        "weight": str(tenant.weight),
    }
