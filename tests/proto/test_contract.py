"""The contract keeps its own rules: comments, names, access rules, pages, request ids."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from tenure.v1 import access_pb2

PROTOS = Path(__file__).resolve().parents[2] / "protos"

#: Numbers of fields in descriptor.proto, from which paths into a file's comments are made.
FILE_MESSAGES, FILE_ENUMS, FILE_SERVICES, FILE_EXTENSIONS = 4, 5, 6, 7
MESSAGE_FIELDS, MESSAGE_NESTED, MESSAGE_ENUMS, MESSAGE_ONEOFS = 2, 3, 4, 8
ENUM_VALUES = SERVICE_METHODS = 2

Path_ = tuple[int, ...]
File = descriptor_pb2.FileDescriptorProto
Message = descriptor_pb2.DescriptorProto
Field = descriptor_pb2.FieldDescriptorProto
Method = descriptor_pb2.MethodDescriptorProto


@dataclass(frozen=True, slots=True, kw_only=True)
class Thing:
    """A named part of the contract with the comment that stands before it."""

    name: str
    comment: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rpc:
    """One RPC, its comment and its access rule."""

    name: str
    comment: str
    method: Method
    rule: access_pb2.AccessRule

    @property
    def verb_and_noun(self) -> str:
        """The method's name without its service."""
        return self.method.name


def _files() -> list[File]:
    """Compiles the contract with its comments; the files of tenure.v1 only."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("tenure/v1/*.proto"))
    compiled = subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"--proto_path={PROTOS}",
            "--include_source_info",
            "--descriptor_set_out=/dev/stdout",
            *sources,
        ],
        capture_output=True,
        check=True,
    )
    return list(descriptor_pb2.FileDescriptorSet.FromString(compiled.stdout).file)


FILES = _files()
MESSAGES = {message.name: message for file in FILES for message in file.message_type}


def _comments(file: File) -> dict[Path_, str]:
    return {tuple(it.path): it.leading_comments.strip() for it in file.source_code_info.location}


def _things(file: File) -> Iterator[Thing]:
    """Everything in a file that wants a comment."""
    comments = _comments(file)

    def thing(name: str, *path: int) -> Thing:
        return Thing(name=name, comment=comments.get(path, ""))

    for number, message in enumerate(file.message_type):
        yield from _of_message(message, message.name, (FILE_MESSAGES, number), comments)
    for number, enum in enumerate(file.enum_type):
        yield thing(enum.name, FILE_ENUMS, number)
        for index, value in enumerate(enum.value):
            yield thing(f"{enum.name}.{value.name}", FILE_ENUMS, number, ENUM_VALUES, index)
    for number, service in enumerate(file.service):
        yield thing(service.name, FILE_SERVICES, number)
        for index, method in enumerate(service.method):
            name = f"{service.name}.{method.name}"
            yield thing(name, FILE_SERVICES, number, SERVICE_METHODS, index)
    for number, extension in enumerate(file.extension):
        yield thing(extension.name, FILE_EXTENSIONS, number)


def _of_message(
    message: Message, name: str, path: Path_, comments: dict[Path_, str]
) -> Iterator[Thing]:
    yield Thing(name=name, comment=comments.get(path, ""))
    parts = [(MESSAGE_FIELDS, number, it.name) for number, it in enumerate(message.field)]
    parts += [(MESSAGE_ONEOFS, number, it.name) for number, it in enumerate(message.oneof_decl)]
    for kind, number, part in parts:
        if kind == MESSAGE_FIELDS or not part.startswith("_"):  # those are made for `optional`
            yield Thing(name=f"{name}.{part}", comment=comments.get((*path, kind, number), ""))
    for number, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            inner = (*path, MESSAGE_NESTED, number)
            yield from _of_message(nested, f"{name}.{nested.name}", inner, comments)
    for number, enum in enumerate(message.enum_type):
        inner = (*path, MESSAGE_ENUMS, number)
        yield Thing(name=f"{name}.{enum.name}", comment=comments.get(inner, ""))
        for index, value in enumerate(enum.value):
            comment = comments.get((*inner, ENUM_VALUES, index), "")
            yield Thing(name=f"{name}.{enum.name}.{value.name}", comment=comment)


def _rpcs() -> Iterator[Rpc]:
    for file in FILES:
        comments = _comments(file)
        for number, service in enumerate(file.service):
            for index, method in enumerate(service.method):
                yield Rpc(
                    name=f"{service.name}.{method.name}",
                    comment=comments[FILE_SERVICES, number, SERVICE_METHODS, index],
                    method=method,
                    rule=method.options.Extensions[access_pb2.access],
                )


RPCS = list(_rpcs())
THINGS = [thing for file in FILES for thing in _things(file)]
every_rpc = pytest.mark.parametrize("rpc", RPCS, ids=lambda rpc: rpc.name)


def _fields(type_name: str) -> dict[str, Field]:
    return {field.name: field for field in MESSAGES[type_name.rpartition(".")[2]].field}


def test_the_whole_contract_is_looked_at() -> None:
    """The walk finds all services and more than a hundred fields: it cannot pass on nothing."""
    services = {rpc.name.partition(".")[0] for rpc in RPCS}
    assert services >= {"Agents", "Runs", "Schedules", "Tenants", "Workflows"}
    assert len(RPCS) >= 25
    assert len(THINGS) > 300


def test_everything_has_a_comment() -> None:
    """Each message, field, oneof, enum, value, service, RPC and extension says what it is."""
    assert [thing.name for thing in THINGS if not thing.comment] == []


def test_comments_are_sentences() -> None:
    """A comment begins with a capital, a digit or code, and ends like a sentence."""
    odd = [
        f"{thing.name}: {thing.comment}"
        for thing in THINGS
        if not re.match(r"[A-Z0-9`]", thing.comment) or thing.comment[-1] not in ".:"
    ]
    assert odd == []


def test_every_file_begins_with_its_purpose() -> None:
    """The first line of each file is a comment that says what the file is about."""
    for path in sorted(PROTOS.glob("tenure/v1/*.proto")):
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        assert re.fullmatch(r"// [A-Z].+\.", first), path.name


@every_rpc
def test_an_rpc_says_who_calls_it(rpc: Rpc) -> None:
    """Who may call is in the comment for people and in the access rule for the gate."""
    assert re.search(r"\bcaller\b", rpc.comment, re.IGNORECASE)


@every_rpc
def test_an_rpc_has_a_whole_access_rule(rpc: Rpc) -> None:
    """Roles, evidence and rate class are declared; none of them is the unspecified one."""
    assert rpc.method.options.HasExtension(access_pb2.access)
    assert rpc.rule.roles
    assert access_pb2.ROLE_UNSPECIFIED not in rpc.rule.roles
    assert len(set(rpc.rule.roles)) == len(rpc.rule.roles)
    assert re.fullmatch(r"[a-z]+\.[a-z]+", rpc.rule.evidence)
    assert rpc.rule.rate != access_pb2.RATE_CLASS_UNSPECIFIED


@every_rpc
def test_an_rpc_has_messages_of_its_own(rpc: Rpc) -> None:
    """Request and response carry the RPC's name, so each can grow alone."""
    assert rpc.method.input_type == f".tenure.v1.{rpc.verb_and_noun}Request"
    assert rpc.method.output_type == f".tenure.v1.{rpc.verb_and_noun}Response"


def test_no_two_rpcs_share_a_message() -> None:
    """RPCs of two services do not carry the same name either."""
    types = [it for rpc in RPCS for it in (rpc.method.input_type, rpc.method.output_type)]
    assert len(types) == len(set(types))


def test_every_request_and_response_belongs_to_an_rpc() -> None:
    """No message is named like a request or a response of a call that does not exist."""
    used = {
        it.rpartition(".")[2]
        for rpc in RPCS
        for it in (rpc.method.input_type, rpc.method.output_type)
    }
    named = {name for name in MESSAGES if name.endswith(("Request", "Response"))}
    assert named == used


@every_rpc
def test_a_mutation_can_be_repeated_safely(rpc: Rpc) -> None:
    """What changes state carries a `request_id`, itself or in each item of its batch."""
    fields = _fields(rpc.method.input_type)
    if rpc.verb_and_noun.startswith("Batch"):
        fields = _fields(fields["requests"].type_name)
    assert ("request_id" in fields) == rpc.rule.mutation
    if rpc.rule.mutation:
        assert fields["request_id"].type == Field.TYPE_STRING
        assert fields["request_id"].number == 15
        assert rpc.rule.rate == access_pb2.RATE_CLASS_WRITE


@every_rpc
def test_what_a_name_promises_the_rule_keeps(rpc: Rpc) -> None:
    """Only calls that get, list, count, compare, explain, watch, validate, export or try read."""
    verbs = r"(Get|List|Count|Compare|Explain|Watch|Validate|Export|Try)[A-Z]"
    reads = re.match(verbs, rpc.verb_and_noun) is not None
    assert (rpc.rule.rate == access_pb2.RATE_CLASS_READ) == reads


@every_rpc
def test_a_list_comes_in_pages(rpc: Rpc) -> None:
    """It takes a page size, and a token or, for numbered things, a number to go on from."""
    if not rpc.verb_and_noun.startswith(("List", "Explain")):
        assert "page_size" not in _fields(rpc.method.input_type)
        return
    asked, given = _fields(rpc.method.input_type), _fields(rpc.method.output_type)
    assert asked["page_size"].type == Field.TYPE_INT32
    if "after_sequence" in asked:
        assert "next_after_sequence" in given
    else:
        assert asked["page_token"].type == Field.TYPE_STRING
        assert given["next_page_token"].type == Field.TYPE_STRING
    repeated = [it for it in given.values() if it.label == Field.LABEL_REPEATED]
    assert len(repeated) == 1


def test_enums_begin_with_nothing() -> None:
    """Value 0 is `<ENUM>_UNSPECIFIED`, and every value carries the enum's name."""
    enums = [enum for file in FILES for enum in file.enum_type]
    enums += [enum for message in MESSAGES.values() for enum in message.enum_type]
    assert len(enums) >= 10
    for enum in enums:
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper()
        assert (enum.value[0].name, enum.value[0].number) == (f"{prefix}_UNSPECIFIED", 0)
        for value in enum.value:
            assert value.name.startswith(f"{prefix}_"), value.name


#: Looks like a tenant's own and is not: it names what does not exist yet.
NOT_OWNED = {"CreateTenantRequest.tenant_id"}
OWNED_BY_NAME = {
    "run_id": access_pb2.OWNED_RUN,
    "tenant_id": access_pb2.OWNED_TENANT,
    "tenant_ids": access_pb2.OWNED_TENANT,
    "agent_id": access_pb2.OWNED_AGENT,
    "api_key_id": access_pb2.OWNED_API_KEY,
    "workflow": access_pb2.OWNED_WORKFLOW,
    "started_by": access_pb2.OWNED_API_KEY,
    "created_by": access_pb2.OWNED_API_KEY,
    "paused_by": access_pb2.OWNED_API_KEY,
    "asked_by": access_pb2.OWNED_API_KEY,
    "acts_for": access_pb2.OWNED_API_KEY,
    "open_run_ids": access_pb2.OWNED_RUN,
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: message.name)
def test_what_names_a_tenants_own_is_marked(message: Message) -> None:
    """Ids of tenants, runs, agents and keys carry the mark that the isolation gate reads."""
    for field in message.field:
        if field.type != Field.TYPE_STRING or f"{message.name}.{field.name}" in NOT_OWNED:
            continue
        mark = field.options.Extensions[access_pb2.owned]
        if field.name in OWNED_BY_NAME:
            assert mark == OWNED_BY_NAME[field.name], f"{message.name}.{field.name}"


@pytest.mark.parametrize("message", MESSAGES.values(), ids=lambda message: message.name)
def test_times_and_ids_have_one_form(message: Message) -> None:
    """Times are timestamps named `…_time`, spans are durations; no number counts seconds."""
    for field in message.field:
        name = f"{message.name}.{field.name}"
        is_time = field.type_name == ".google.protobuf.Timestamp"
        assert is_time == (field.name == "time" or field.name.endswith("_time")), name
        assert not re.search(r"_(seconds|ms|millis|minutes)$", field.name), name
        if field.name.endswith("_id"):
            assert field.type == Field.TYPE_STRING, name
