"""`keys`: makes the key pair by which what is pushed is signed; and what signs, by the matrix file."""

from __future__ import annotations

import getpass
import importlib
import os
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from serving_factory.commands.shared import write
from serving_factory.errors import FactoryError, SigningKeyError, UsageError

if TYPE_CHECKING:
    from serving_factory.matrix.matrix import Matrix
    from serving_factory.proofs.signatures import Checker, Signer


def keys(verb: str, *, output: str) -> None:
    """Write a key pair into a folder; files that are there stay, and are an error."""
    if verb != "new":
        raise UsageError(
            f"`keys {verb}` is no command" if verb else "`keys` needs a command",
            why="the command is: new",
            remedy="`./factory keys new --output DIR` makes a key pair",
        )
    require_extra()
    from serving_factory.proofs.keys import PRIVATE, PUBLIC, PrivateKey

    folder = Path(output or ".")
    private, public = folder / PRIVATE, folder / PUBLIC
    if taken := [str(file) for file in (private, public) if os.path.lexists(file)]:
        raise FactoryError(
            f"There is a key already: {', '.join(taken)}.",
            remedy="Name another folder with --output, or move that key away: what it signed is checked with it.",
        )
    key = PrivateKey.new()
    content = key.encrypted(_new_password())
    folder.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(private, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
    public.write_bytes(key.public.pem())
    write(
        f"Wrote {private}, which signs, and {public}, which checks; fingerprint sha256:{key.public.fingerprint}.\n"
        f"Keep {PRIVATE} out of version control. In the matrix file: signing: {{key: {private}}}\n"
    )


def require_extra() -> None:
    """Raise SigningKeyError where the libraries of the extra `signing` are not installed."""
    try:
        importlib.import_module("serving_factory.proofs.keys")
    except ImportError as error:
        raise SigningKeyError(
            "The libraries that sign are not installed.",
            why=str(error),
            remedy="Install the package with its extra: pip install 'serving-factory[signing]'; ./factory does.",
        ) from error


def signer_of(matrix: Matrix, *, dry_run: bool = False) -> Signer | None:
    """What signs, by the matrix file; None where it says nothing. It may ask for a password, but for no dry run."""
    signing, folder = matrix.signing, matrix.file.parent
    if not (signing.key or signing.command):
        return None
    require_extra()
    from serving_factory.proofs.keys import PASSWORD, PrivateKey, PublicKey, is_encrypted
    from serving_factory.proofs.signatures import CommandCheck, CommandSigner, KeySigner

    if signing.key is None:
        public = PublicKey.read(folder / signing.public_key) if signing.public_key else None
        return CommandSigner(signing.command, CommandCheck(signing.verify) if signing.verify else public)
    file = folder / signing.key
    encrypted = is_encrypted(file)
    if dry_run and encrypted and PASSWORD not in os.environ:
        return CommandSigner((), checker_of(matrix))  # that only looks
    password = _password(file) if encrypted else b""
    return KeySigner(PrivateKey.read(file, password), attestations=signing.attestations)


def checker_of(matrix: Matrix) -> Checker | None:
    """What checks what this factory pushes, by the matrix file; None where it says nothing, or the key is not here."""
    require_extra()
    from serving_factory.proofs.keys import PublicKey
    from serving_factory.proofs.signatures import CommandCheck

    signing = matrix.signing
    if signing.verify:
        return CommandCheck(signing.verify)
    folder = matrix.file.parent
    if signing.public_key:
        return PublicKey.read(folder / signing.public_key)
    beside = (folder / signing.key).with_suffix(".pub") if signing.key else None
    return PublicKey.read(beside) if beside and beside.is_file() else None


def _password(file: Path) -> bytes:
    from serving_factory.proofs.keys import PASSWORD

    given = os.environ.get(PASSWORD)
    if given is not None:
        return os.fsencode(given)
    if not sys.stdin.isatty():
        raise SigningKeyError(
            f"The key {file} needs a password, and there is none.",
            remedy=f"Set {PASSWORD}, or run this at a terminal, where it asks.",
        )
    return _typed_once(file)


def _new_password() -> bytes:
    from serving_factory.proofs.keys import PASSWORD

    given = os.environ.get(PASSWORD)
    if given is not None:
        return os.fsencode(given)
    if not sys.stdin.isatty():
        raise SigningKeyError(
            "A new key needs a password, and there is none.",
            remedy=f"Set {PASSWORD} (empty for none), or run this at a terminal, where it asks.",
        )
    first, again = map(_typed, ("Password of the new key: ", "Once more: "))
    if first != again:
        raise SigningKeyError("The two passwords differ.", remedy="Run the same command again.")
    return first


@cache
def _typed_once(file: Path) -> bytes:
    return _typed(f"Password of {file}: ")


def _typed(question: str) -> bytes:
    try:
        return os.fsencode(getpass.getpass(question))
    except EOFError:  # Ctrl-D
        raise SigningKeyError("No password was typed.", remedy="Run the same command again.") from None
