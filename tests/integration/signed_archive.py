"""Debian archives as vendors and distributions have them: packages, indexes, and a signature over those."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


def package(folder: Path, name: str, *, version: str = "1.0", files: Mapping[str, bytes] | None = None) -> Path:
    """Make a package that installs files, by default one, and put it into the index of the folder that it is in."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        tree = Path(work)
        for path, content in (files or {f"usr/share/{name}": b"arrived\n"}).items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
        (tree / "DEBIAN").mkdir()
        control = f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
        control += "Maintainer: nobody <a@b.c>\nDescription: one\n"
        (tree / "DEBIAN" / "control").write_text(control)
        tree.chmod(0o755)
        deb = folder / f"{name}_{version}.deb"
        subprocess.run(["dpkg-deb", "--build", str(tree), str(deb)], capture_output=True, check=True)
    data = deb.read_bytes()
    found = f"Filename: {deb.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n\n"
    with (folder / "Packages").open("a") as index:
        index.write(control + found)
    return deb


@dataclass(frozen=True, slots=True)
class Signer:
    """A key of its own, in a folder of its own.

    Args:
        folder: of gpg.
        fingerprint: 40 hex digits.
        public: the key as its owner would publish it.
    """

    folder: Path
    fingerprint: str
    public: str

    @classmethod
    def make(cls, folder: Path) -> Signer:
        folder.mkdir(mode=0o700)
        _gpg(folder, "--passphrase", "", "--quick-generate-key", "a vendor", "rsa2048", "sign", "1d")
        listed = _gpg(folder, "--with-colons", "--list-keys").splitlines()
        fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr:"))
        return cls(folder, fingerprint, _gpg(folder, "--armor", "--export"))

    def sign_flat(self, folder: Path) -> None:
        """Sign the index of a folder of packages."""
        self.sign(folder, ["Packages"], "")

    def sign(self, folder: Path, indexes: Sequence[str], head: str) -> None:
        """Write InRelease for a folder's indexes, named relative to it; `head` is what its first lines are."""
        lines = []
        for name in indexes:
            data = (folder / name).read_bytes()
            lines.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {name}\n")
        text = f"{head}Date: Sun, 01 Mar 2020 00:00:00 UTC\nSHA256:\n{''.join(lines)}"
        (folder / "InRelease").write_text(_gpg(self.folder, "--clearsign", text=text))


def _gpg(folder: Path, *arguments: str, text: str = "") -> str:
    env = {**os.environ, "GNUPGHOME": str(folder)}
    command = [shutil.which("gpg") or "gpg", "--batch", "--pinentry-mode", "loopback", "--quiet", *arguments]
    try:
        return subprocess.run(command, input=text, env=env, capture_output=True, text=True, check=True).stdout
    finally:  # the agent that it starts would outlive the test
        subprocess.run(["gpgconf", "--kill", "gpg-agent"], env=env, check=False)
