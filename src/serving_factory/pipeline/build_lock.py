"""One build at a time in a checkout, and one factory at a time for a matrix file.

The kernel's lock on the file (flock) excludes others. It ends with its holder, however that died, and no child inherits
it (PEP 446). The file says which process that is: by number, boot and start time, as numbers are used again. While that
process lives, others are refused even without a lock in the kernel: some network file systems keep locks to one mount.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from serving_factory.errors import LockedError
from serving_factory.pipeline.records import read_json

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_ENDED = {"Z", "X"}
_LOCK = ".lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Holder:
    pid: int
    started: int  # in clock ticks since the boot: field 22 of /proc/PID/stat (proc_pid_stat(5))
    boot: str  # the boot's id
    since: str  # when it took the lock
    command: str

    def lives(self) -> bool:
        return bool(self.boot) and self.boot == _boot() and self.started == _started(self.pid)


def _boot() -> str:
    """This boot's id; empty where the system has none: there the kernel's lock is all there is."""
    try:
        return _BOOT.read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process began, in clock ticks since the boot; None where there is none, or it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # there is none, or it is not ours to see
        return None
    state, *fields = text.rpartition(")")[2].split()  # its name, before them, may hold anything
    return None if state in _ENDED else int(fields[18])


def hold_lock(build: Path) -> AbstractContextManager[None]:
    """Hold the lock of the checkout with this build folder, to compile or remove; LockedError if it is held."""
    return _held(build / _LOCK, "in this checkout")


def held_since(build: Path) -> str | None:
    """Say since when a process that lives has held the checkout's lock, in UTC, ISO 8601; None where none does."""
    holder = read_json(build / _LOCK, _Holder)
    return holder.since if holder and holder.lives() else None


def hold_matrix_lock(folder: Path) -> AbstractContextManager[None]:
    """Hold the lock of the matrix file whose variants lie in this folder; LockedError if another process holds it."""
    return _held(folder / ".matrix.lock", "with this matrix file")


@contextmanager
def _held(place: Path, where: str) -> Iterator[None]:
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists() and not place.is_file():
        raise FileExistsError(errno.EEXIST, "It is not a file", str(place))
    with place.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except BlockingIOError:
            free = False
        holder = read_json(place, _Holder)
        holder = holder if holder and holder.lives() else None
        if holder or not free:
            raise _refused(holder, where)
        file.truncate(0)
        me = _Holder(
            pid=os.getpid(),
            started=_started(os.getpid()) or 0,
            boot=_boot(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            command=" ".join(sys.argv),
        )
        file.write(json.dumps(asdict(me)))
        file.flush()
        try:
            yield
        finally:
            file.truncate(0)


def _refused(holder: _Holder | None, where: str) -> LockedError:
    return LockedError(
        f"another factory works {where}",
        why=f"process {holder.pid} has held the lock since {holder.since}: {holder.command}"
        if holder
        else "which process that is cannot be seen from here: it has just begun, or runs in another container",
        remedy="wait until it ends, or end it with Ctrl-C there; the same command then goes on",
    )
