"""qemu's user mode: a program that runs another one on a CPU that it emulates. It is asked, and runs nothing here."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from serving_factory.docker.process import run

EMULATOR = "qemu-x86_64-static"
GET_EMULATOR = "`./factory setup` brings it on Debian and Ubuntu; elsewhere install the package qemu-user-static."
NEWER_EMULATOR = f"Put a later {EMULATOR} on PATH; 7.2 and later emulate AVX2."
_SECONDS = 20.0  # what one question may take
_VERSION = re.compile(r"qemu-x86_64 version (\S+)")
_CANNOT = re.compile(r"TCG doesn't support requested feature: \S*\.(\S+) \[")


@dataclass(frozen=True, slots=True)
class Emulator:
    """A qemu-x86_64-static, which needs no library and so runs in every container."""

    path: Path
    version: str  # such as `7.2.22`

    def why_not(self, cpu: str) -> str:
        """Why it does not emulate a CPU (what `-cpu` takes); empty where it does."""
        # Asked to run itself: the one program for any x86-64 CPU that is sure to be there.
        code, said = _run(self.path, "-cpu", f"{cpu},enforce", str(self.path), "--version")
        if code == 0:
            return ""
        missing = _CANNOT.findall(said)
        return f"qemu {self.version} does not emulate {', '.join(missing) or cpu}"


def find_emulator(programs: Path | None) -> Emulator | None:
    """The one on PATH, or else in a folder of programs; None where there is none that runs here."""
    places = [shutil.which(EMULATOR), *([shutil.which(EMULATOR, path=str(programs))] if programs else [])]
    for path in filter(None, places):
        if found := _VERSION.search(_run(path, "--version")[1]):
            return Emulator(Path(path).resolve(), found[1])
    return None


def _run(*argv: object) -> tuple[int, str]:
    lines: list[str] = []
    code = run([str(one) for one in argv], on_line=lines.append, timeout=_SECONDS)
    return code, "\n".join(lines)
