"""A machine of files: fakes of Docker, apt and the rest on a PATH of their own, for the tests of ./factory.

The fakes are shell scripts that write each call to one log and read their state from files of one folder, so that a
test can say "a daemon answers, of version 26.1.5" by writing a file.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]

BOOKWORM = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=bookworm\n'
TRIXIE = 'PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_CODENAME=trixie\n'
JAMMY = 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\nID=ubuntu\nVERSION_CODENAME=jammy\n'

# What the scripts may use of the machine that runs the tests. Everything else is a fake, or missing.
_TOOLS = [
    *("awk", "basename", "cat", "chmod", "chown", "cmp", "cp", "cut", "dirname", "env", "find"),
    *("flock", "grep", "head", "ls", "mkdir", "mktemp", "mv", "nohup", "readlink", "rm", "sed"),
    *("setsid", "sh", "sort", "tail", "tar", "timeout", "touch", "tr"),
]

_FAKES = {
    "id": '[ "$1" = -un ] && echo someone || cat "$STATE/uid"',
    "sleep": 'exec "$REAL_SLEEP" 0.02',
    "docker": """
case "$1 $2" in
    'buildx version') [ -e "$STATE/buildx" ] && echo 'github.com/docker/buildx v0.13.1 abc' && exit 0; exit 1 ;;
    'pull '*) [ -e "$STATE/registry" ]; exit ;;
    'context show') [ ! -e "$STATE/docker-context" ] || echo mine; exit ;;
esac
[ ! -e "$STATE/docker-hangs" ] || exec "$REAL_SLEEP" 60
[ ! -e "$STATE/docker-crashes" ] || exit 139
[ -e "$STATE/engine" ] || { cat "$STATE/engine-error" >&2; exit 1; }
case "$1 $2" in
    'version '*) cat "$STATE/engine" ;;
    'info '*) echo "$(cat "$STATE/engine") $([ ! -e "$STATE/buildx" ] || echo buildx) " ;;
    'image inspect') [ -e "$STATE/image" ] && echo "$(cat "$STATE/image")" ;;
    'tag '*) echo > "$STATE/image" ;;
    'import '*) echo debootstrap > "$STATE/image"; tar -xOf "$8" ./etc/apt/sources.list > "$STATE/image-sources"
                tar -tf "$8" > "$STATE/image-files" ;;
esac
""",
    "dockerd": """
[ "$1" != --version ] || { echo "Docker version $(cat "$STATE/dockerd"), build x"; exit; }
echo "dockerd with BUILDKIT_STEP_LOG_MAX_SIZE=$BUILDKIT_STEP_LOG_MAX_SIZE in $PWD" >> "$STATE/calls"
echo 'failed to start daemon: no iptables'
[ -e "$STATE/dockerd-broken" ] || { cp "$STATE/dockerd" "$STATE/engine.new"; mv "$STATE/engine.new" "$STATE/engine"; }
""",
    "systemctl": '{ cp "$STATE/dockerd" "$STATE/engine.new"; mv "$STATE/engine.new" "$STATE/engine"; }',
    "apt-cache": 'echo "  Candidate: $(cat "$STATE/candidates/$2" 2>/dev/null || echo "(none)")"',
    "apt-get": """
echo "DEBIAN_FRONTEND=$DEBIAN_FRONTEND" >> "$STATE/calls"
case " $* " in
    *' indextargets '*) cat "$STATE/entries" ;;
    *' download '*)
        for argument; do :; done
        [ -e "$STATE/candidates/$argument" ] || { echo "E: Unable to locate package $argument"; exit 100; }
        touch "${argument}_1.deb" ;;
    *' install '*)
        [ ! -e "$STATE/apt-broken" ] || { echo 'E: Unable to correct problems'; exit 100; }
        for argument; do
            case $argument in
                Dir::Etc::SourceParts=*) cp -r "${argument#*=}" "$STATE/sources" ;;
                Dir::Etc::Preferences=*) cp "${argument#*=}" "$STATE/pin" ;;
                docker.io) cp "$FAKES/docker" "$FAKES/dockerd" "$BIN" ;;
                docker-buildx | docker-buildx-plugin) touch "$STATE/buildx" ;;
                python3 | python3.11) cp "$FAKES/python3" "$BIN/$argument" ; touch "$STATE/python-new" ;;
                iptables | debootstrap) cp "$FAKES/$argument" "$BIN" ;;
            esac
        done ;;
esac
""",
    "dpkg-deb": 'cat "$STATE/$(basename "$2" _1.deb).tar"',
    "debootstrap": """
for argument; do case $argument in /*) folder=$argument ;; esac; done
for part in etc/apt/apt.conf.d etc/dpkg/dpkg.cfg.d usr/share/doc/bash usr/share/man/man1 usr/share/info \
    usr/share/locale/de var/cache/apt var/lib/apt/lists var/log; do mkdir -p "$folder/$part"; done
echo 'deb its-own bookworm main' > "$folder/etc/apt/sources.list"
touch "$folder/usr/share/doc/bash/copyright" "$folder/usr/share/doc/bash/README" "$folder/usr/share/man/man1/bash.1"
""",
    "iptables": ":",
    "uv": """
[ ! -e "$STATE/uv-hangs" ] || { touch "$STATE/uv-started"; exec "$REAL_SLEEP" 60; }
[ ! -e "$STATE/uv-broken" ] || { echo 'error: no route to host' >&2; exit 2; }
echo "index $UV_DEFAULT_INDEX downloads $UV_PYTHON_DOWNLOADS" >> "$STATE/calls"
case $1 in
    --version) echo 'uv 0.0.1' ;;
    sync | venv)
        mkdir -p "$CHECKOUT/.venv/bin"
        cp "$FAKES/python3" "$CHECKOUT/.venv/bin/python" ;;
esac
""",
    "python3": """
case "$*" in
    *version_info*) [ -e "$STATE/python-new" ] ;;
    *sys.executable*) echo "$0" ;;
    *fsencode*) exec "$REAL_PYTHON" "$@" ;;
    --version) echo 'Python 3.11.2' ;;
    '-m venv '*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
    *'pip install'*) cp "$FAKES/uv" "$(dirname "$0")/uv" ;;
    '-S -P '*) shift 3; echo "in $PWD with $*"; exit "$(cat "$STATE/exit-code" 2>/dev/null || echo 0)" ;;
    '- '*) exec "$REAL_PYTHON" "$@" ;;
esac
""",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run of ./factory ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class FakeMachine:
    """Everything that ./factory sees: a checkout, a root file system, commands, and who runs it.

    At first it has Python and uv, its user is not root, and it has no Docker.
    """

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for part in ("state/candidates", "bin", "fakes", "root/etc", "root/var/log", "root/run/lock", "tmp", "home"):
            (self.folder / part).mkdir(parents=True)
        scripts = self.checkout / "scripts"
        scripts.mkdir(parents=True)
        for path in (*(REPOSITORY / "scripts").glob("*.sh"), REPOSITORY / "scripts" / "uv.txt"):
            shutil.copy(path, scripts)
        shutil.copy(REPOSITORY / "factory", self.checkout)
        (self.checkout / "pyproject.toml").write_text("[project]\n")
        (self.checkout / "uv.lock").write_text("version = 1\n")
        for tool in _TOOLS:
            if found := shutil.which(tool):
                (self.folder / "bin" / tool).symlink_to(found)
        for name, text in _FAKES.items():
            fake = self.folder / "fakes" / name
            fake.write_text(f'#!/bin/sh\necho "{name} $*" >> "$STATE/calls"\n{text}\n')
            fake.chmod(0o700)
        self.give("id", "sleep", "python3", "uv")
        self.set("uid", "1000")
        self.set("python-new")
        self.set("engine-error", "Cannot connect to the Docker daemon at unix:///var/run/docker.sock.")

    @property
    def checkout(self) -> Path:
        """The project's root on this machine."""
        return self.folder / "checkout"

    @property
    def root(self) -> Path:
        """What stands for the file system's root."""
        return self.folder / "root"

    def give(self, *commands: str) -> None:
        """Put fakes on the PATH."""
        for command in commands:
            shutil.copy(self.folder / "fakes" / command, self.folder / "bin" / command)

    def take(self, command: str) -> None:
        """Remove a command from the PATH."""
        (self.folder / "bin" / command).unlink()

    def set(self, name: str, text: str = "") -> None:
        """Write a piece of the fakes' state."""
        (self.folder / "state" / name).write_text(f"{text}\n" if text else "")

    def state(self, name: str) -> Path:
        """A piece of the fakes' state."""
        return self.folder / "state" / name

    def have_environment(self) -> None:
        """Have .venv made already."""
        commands = self.checkout / ".venv" / "bin"
        commands.mkdir(parents=True)
        shutil.copy(self.folder / "fakes" / "python3", commands / "python")
        texts = [(self.checkout / name).read_text() for name in ("pyproject.toml", "uv.lock")]
        (self.checkout / ".venv" / ".factory-stamp").write_text(f"{self.checkout}\n{''.join(texts)}")

    def run_engine(self, version: str = "26.1.5+dfsg1") -> None:
        """Have a daemon that answers, with buildx."""
        self.give("docker")
        self.set("engine", version)
        self.set("buildx")

    def become_root_of(self, release: str, *, entries: str = "", **candidates: str) -> None:
        """Be root on Debian or Ubuntu, where apt has these packages ('_' stands for '-')."""
        self.set("uid", "0")
        self.give("apt-get", "apt-cache")
        (self.root / "etc" / "os-release").write_text(release)
        self.set("entries", entries)
        for package, version in candidates.items():
            self.set(f"candidates/{package.replace('_', '-')}", version)

    def have_package(self, package: str, **programs: str) -> None:
        """Have apt offer a package with programs ('_' stands for '-'), each a shell script or where a link leads."""
        files = self.folder / "packages" / package
        (files / "usr" / "bin").mkdir(parents=True)
        for name, text in programs.items():
            path = files / "usr" / "bin" / name.replace("_", "-").replace("x86-64", "x86_64")
            if text.startswith("#!"):
                path.write_text(text)
                path.chmod(0o755)
            else:
                path.symlink_to(text)
        subprocess.run(["tar", "-C", files, "-cf", self.state(f"{package}.tar"), "."], check=True)
        self.set(f"candidates/{package}", "1")

    def calls(self, start: str = "") -> list[str]:
        """The calls of fakes so far, those that begin so."""
        log = self.state("calls")
        lines = log.read_text(errors="surrogateescape").splitlines() if log.exists() else []
        return [line for line in lines if line.startswith(start)]

    def variables(self) -> dict[str, str]:
        """The environment that ./factory is started in."""
        return {
            "PATH": str(self.folder / "bin"),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "STATE": str(self.folder / "state"),
            "FAKES": str(self.folder / "fakes"),
            "BIN": str(self.folder / "bin"),
            "CHECKOUT": str(self.checkout),
            "REAL_PYTHON": sys.executable,
            "REAL_SLEEP": shutil.which("sleep") or "sleep",
            "FACTORY_TEST_ROOT": str(self.root),
            "FACTORY_TEST_ENGINE_WAIT": "50",
            **self.environment,
        }

    def start(self, *arguments: str, cwd: Path | None = None) -> subprocess.Popen[str]:
        """Start ./factory in a process group of its own."""
        return subprocess.Popen(
            [self.checkout / "factory", *arguments],
            cwd=cwd or self.checkout,
            env=self.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="surrogateescape",
            start_new_session=True,
        )

    def factory(self, *arguments: str, cwd: Path | None = None) -> Outcome:
        """Run ./factory to its end."""
        with self.start(*arguments, cwd=cwd) as process:
            out, err = process.communicate(timeout=30)
        return Outcome(process.returncode, out, err)

    def shell(self, words: str) -> tuple[int, str]:
        """Run ./factory as a user's shell does: its exit code, and what it wrote to stderr."""
        done = subprocess.run(
            ["/bin/bash", "-c", f"./factory {words}; exit ${{PIPESTATUS[0]}}"],
            cwd=self.checkout,
            env=self.variables(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        return done.returncode, done.stderr

    def temporary(self) -> Sequence[str]:
        """What lies in the folder for temporary files."""
        return [path.name for path in (self.folder / "tmp").iterdir()]
