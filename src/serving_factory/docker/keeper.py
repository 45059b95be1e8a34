"""Runs one command and ends its whole process group when the factory dies.

`process.run` starts it as a script: python -I -S keeper.py PARENT_PID COMMAND [ARGUMENT...]

The keeper leads the group. The kernel signals it when its parent dies, even by SIGKILL (prctl(2), PR_SET_PDEATHSIG). It
ignores the signals that are meant for the command, and ends with the command's exit code, or with 128 plus the number
of the signal that ended it. It imports nothing of the package.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
ORPHANED = signal.SIGHUP
FOR_THE_COMMAND = (signal.SIGINT, signal.SIGTERM)


def main(parent: int, command: list[str]) -> int:
    """Run `command`; `parent` is the process whose death ends it."""

    def end_group(*_: object) -> None:
        os.killpg(0, signal.SIGKILL)

    for number in FOR_THE_COMMAND:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(ORPHANED, end_group)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(ORPHANED), 0, 0, 0)
    if os.getppid() != parent:  # it died before prctl took effect: no signal will come
        return 128 + signal.SIGKILL
    defaults = (*FOR_THE_COMMAND, ORPHANED, signal.SIGPIPE)
    try:
        pid = os.posix_spawnp(command[0], command, os.environ, setsigdef=defaults)
    except OSError as error:
        sys.stderr.write(f"{command[0]}: {error.strerror}\n")
        return 126
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    raise SystemExit(main(int(sys.argv[1]), sys.argv[2:]))
