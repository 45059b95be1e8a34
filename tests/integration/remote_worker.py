"""A worker for remote execution: it takes actions from BuildGrid and runs them in a container.

BuildGrid brings the server only. This speaks the Remote Workers API (bots.proto) and as much of the Remote Execution
API (remote_execution.proto) as Bazel's C++ rules and genrules need; an action that wants a whole folder as its output
is refused. It runs in BuildGrid's own environment, whose protobuf classes it uses:

    python remote_worker.py SERVER INSTANCE ACTOR CONTAINER FOLDER

SERVER     HOST:PORT of BuildGrid
INSTANCE   the instance whose actions it takes
ACTOR      who it says it is, in the header x-request-actor
CONTAINER  runs for as long as the worker, and sees FOLDER under the same name
FOLDER     where each action gets a folder of its own

For each action it prints a line: the exit code and the first output.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as execution
from buildgrid._protos.google.bytestream import bytestream_pb2, bytestream_pb2_grpc
from buildgrid._protos.google.devtools.remoteworkers.v1test2 import bots_pb2, bots_pb2_grpc, worker_pb2
from buildgrid._protos.google.rpc import code_pb2

CHUNK = 2**20
LONGEST_POLL = 15.0
"""Seconds until the server must have answered, if only that there is nothing to do."""
OS_FAMILY = "linux"

Message = Any
"""One of the protobuf classes above, which have no types here."""


@dataclass(frozen=True, slots=True)
class Store:
    """The server's content-addressed storage."""

    stub: Any
    instance: str
    headers: tuple[tuple[str, str], ...]

    def read(self, digest: Message) -> bytes:
        if not digest.size_bytes:
            return b""
        name = f"{self.instance}/blobs/{digest.hash}/{digest.size_bytes}"
        request = bytestream_pb2.ReadRequest(resource_name=name)
        data = b"".join(part.data for part in self.stub.Read(request, metadata=self.headers))
        assert hashlib.sha256(data).hexdigest() == digest.hash, name
        return data

    def write(self, data: bytes) -> Message:
        digest = execution.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))
        if data:
            name = f"{self.instance}/uploads/{uuid.uuid4()}/blobs/{digest.hash}/{digest.size_bytes}"
            self.stub.Write(_parts(name, data), metadata=self.headers)
        return digest

    def parse(self, digest: Message, kind: type[Any]) -> Message:
        return kind.FromString(self.read(digest))

    def unfold(self, digest: Message, folder: Path) -> None:
        """Write a tree of inputs."""
        folder.mkdir(parents=True, exist_ok=True)
        directory = self.parse(digest, execution.Directory)
        for node in directory.files:
            (folder / node.name).write_bytes(self.read(node.digest))
            (folder / node.name).chmod(0o755 if node.is_executable else 0o644)
        for node in directory.symlinks:
            (folder / node.name).symlink_to(node.target)
        for node in directory.directories:
            self.unfold(node.digest, folder / node.name)


def _parts(name: str, data: bytes) -> Iterator[Message]:
    for start in range(0, len(data), CHUNK):
        part = data[start : start + CHUNK]
        yield bytestream_pb2.WriteRequest(
            resource_name=name, write_offset=start, data=part, finish_write=start + len(part) == len(data)
        )


def run(store: Store, action: Message, container: str, folder: Path) -> Message:
    """Run an action in a folder of its own; gives its ActionResult.

    Raises:
        NotImplementedError: it wants a folder as its output.
    """
    command = store.parse(action.command_digest, execution.Command)
    if command.output_directories:
        raise NotImplementedError(f"folders as outputs: {list(command.output_directories)}")
    outputs = list(command.output_paths or command.output_files)
    store.unfold(action.input_root_digest, folder)
    place = folder / command.working_directory
    for name in outputs:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
    environment = [f"{variable.name}={variable.value}" for variable in command.environment_variables]
    argv = ["docker", "exec", "--workdir", str(place), container, "env", "-i", *environment, *command.arguments]
    done = subprocess.run(argv, capture_output=True, check=False)
    print(done.returncode, outputs[0], flush=True)  # noqa: T201 - what the tests read
    return execution.ActionResult(
        exit_code=done.returncode,
        stdout_raw=done.stdout,
        stderr_raw=done.stderr,
        output_files=[_output(store, place, name) for name in outputs if (place / name).is_file()],
    )


def _output(store: Store, place: Path, name: str) -> Message:
    file = place / name
    digest = store.write(file.read_bytes())
    return execution.OutputFile(path=name, digest=digest, is_executable=os.access(file, os.X_OK))


def finish(store: Store, lease: Message, container: str, folder: Path) -> None:
    """Do what a lease asks for, and note in it what came of it."""
    action = execution.Action()
    if not lease.payload.Unpack(action):
        digest = execution.Digest()
        lease.payload.Unpack(digest)
        action = store.parse(digest, execution.Action)
    try:
        lease.result.Pack(run(store, action, container, folder / lease.id))
    except NotImplementedError as error:
        lease.status.code, lease.status.message = code_pb2.UNIMPLEMENTED, str(error)
    lease.state = bots_pb2.COMPLETED


def main(server: str, instance: str, actor: str, container: str, folder: str) -> None:
    """Work until it is killed."""
    headers = (("x-request-actor", actor),)
    device = worker_pb2.Device(handle="worker", properties=[{"key": "OSFamily", "value": OS_FAMILY}])
    session = bots_pb2.BotSession(
        bot_id=str(uuid.uuid4()), status=bots_pb2.OK, worker=worker_pb2.Worker(devices=[device])
    )
    with grpc.insecure_channel(server) as channel:
        bots = bots_pb2_grpc.BotsStub(channel)
        store = Store(bytestream_pb2_grpc.ByteStreamStub(channel), instance, headers)
        create = bots_pb2.CreateBotSessionRequest(parent=instance, bot_session=session)
        session = bots.CreateBotSession(create, timeout=LONGEST_POLL, metadata=headers)
        while True:
            for lease in session.leases:
                if lease.state == bots_pb2.ACTIVE:
                    finish(store, lease, container, Path(folder))
            update = bots_pb2.UpdateBotSessionRequest(name=session.name, bot_session=session)
            session = bots.UpdateBotSession(update, timeout=LONGEST_POLL, metadata=headers)


if __name__ == "__main__":
    main(*sys.argv[1:])
