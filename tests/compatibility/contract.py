"""A contract as it once was, frozen, and programs that were generated from it.

What is under `contracts/` is compiled when it is needed, into a pool of descriptors of its own: its
messages know nothing of those of today. A stub made of a service is what generated code is.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache, partial
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor

_FROZEN = Path(__file__).with_name("contracts")
#: Rules of fields are options, which say nothing on the wire: those of today do.
_TODAY = Path(__file__).resolve().parents[2] / "protos"
_PACKAGE = "tenure.v1"
#: The number of the field that is added to messages of a contract that is newer than ours.
_NEW_FIELD = 900


class Contract:
    """A frozen contract. ``contract.StartRunRequest`` is the class of a message, and
    ``contract.RUN_STATE_FAILED`` the number of a value.
    """

    def __init__(self, name: str, newer: frozenset[str] = frozenset()) -> None:
        """`newer` are messages that get one more text, `news`, as if the contract had grown."""
        self.files: list[FileDescriptor] = []
        #: The full names of all RPCs.
        self.rpcs: set[str] = set()
        self._enums: dict[str, set[int]] = {}
        pool = descriptor_pool.DescriptorPool()
        for file in _compiled(name):
            if file.package == _PACKAGE:
                _extend(file, newer)
            pool.Add(file)
            if file.package == _PACKAGE:
                self._name_all(pool.FindFileByName(file.name))

    def _name_all(self, file: FileDescriptor) -> None:
        self.files.append(file)
        for name, message in file.message_types_by_name.items():
            self.__dict__[name] = message_factory.GetMessageClass(message)
        for name, enum in file.enum_types_by_name.items():
            self._enums[name] = {value.number for value in enum.values}
            self.__dict__.update({value.name: value.number for value in enum.values})
        for name, service in file.services_by_name.items():
            self.__dict__[name] = partial(Stub, list(service.methods))
            self.rpcs |= {method.full_name for method in service.methods}

    def values(self, enum: str) -> set[int]:
        """The numbers that an enum knows."""
        return self._enums[enum]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"the contract has no {name}")


class Stub:
    """The calls of one service, by one caller; `called` tells which were made."""

    def __init__(
        self,
        methods: list[MethodDescriptor],
        channel: grpc.aio.Channel,
        metadata: tuple[tuple[str, str], ...],
        called: set[str],
    ) -> None:
        self._methods = {method.name: method for method in methods}
        self._channel = channel
        self._metadata = metadata
        self._called = called

    def __getattr__(self, name: str) -> Any:
        method = self._methods[name]
        shape = "stream" if method.client_streaming else "unary"
        shape += "_stream" if method.server_streaming else "_unary"
        answer: Any = message_factory.GetMessageClass(method.output_type)
        call = getattr(self._channel, shape)(
            f"/{method.containing_service.full_name}/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )
        self._called.add(method.full_name)
        return partial(call, metadata=self._metadata)


def _compiled(name: str) -> list[descriptor_pb2.FileDescriptorProto]:
    return list(descriptor_pb2.FileDescriptorSet.FromString(_compiled_bytes(name)).file)


@cache
def _compiled_bytes(name: str) -> bytes:
    folder = _FROZEN / name
    return subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc"),
            *(f"--proto_path={folder}", f"--proto_path={_TODAY}"),
            *("--include_imports", "--descriptor_set_out=/dev/stdout"),
            *sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto")),
        ],
        capture_output=True,
        check=True,
    ).stdout


def _extend(file: descriptor_pb2.FileDescriptorProto, newer: frozenset[str]) -> None:
    for message in file.message_type:
        if message.name in newer:
            message.field.add(
                name="news",
                number=_NEW_FIELD,
                type=descriptor_pb2.FieldDescriptorProto.TYPE_STRING,
                label=descriptor_pb2.FieldDescriptorProto.LABEL_OPTIONAL,
            )
