"""The inputs of a build, made ready: folders put together, secrets as files for as long as it runs."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import shutil
import ssl
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from serving_factory.errors import RecipeError
from serving_factory.matrix.settings import cuda_in, has_index
from serving_factory.recipes.inputs import Inputs

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)


def stage_inputs(inputs: Inputs, staged: Path) -> None:
    """Put together the build contexts in folders of their names below `staged`; what was there goes."""
    if inputs.apt and not has_index(inputs.apt):
        raise RecipeError(
            f"there are no packages in {inputs.apt}",
            remedy="`./factory inputs packages VARIANT` fills it, on a machine that reaches a mirror",
        )
    if inputs.cuda_folder and (found := cuda_in(inputs.cuda_folder)) != inputs.cuda:
        raise RecipeError(
            f"{inputs.cuda_folder} has CUDA {found or 'no longer'}, and this release is built with CUDA {inputs.cuda}",
            remedy=f"name a folder with CUDA {inputs.cuda} at toolchain.cuda in the matrix file",
        )
    shutil.rmtree(staged, ignore_errors=True)
    if inputs.bazel:
        _link(inputs.bazel, staged / "bazel" / "bazel")
    for name, folder in inputs.overrides:
        shutil.copytree(folder, staged / "overrides" / name, symlinks=True, copy_function=_link)
    for index, folder in enumerate(inputs.patches):
        for file in (*folder.glob("*.patch"), *folder.glob("external/*/*.patch")):
            # They are applied in the order of their names, and those of the first folder come first.
            place = file.relative_to(folder)
            _link(file, staged / "patches" / place.with_name(f"{index:02}-{place.name}"))


def _link(source: Path | str, target: Path | str) -> None:
    """Make a file appear in another place; where it cannot be linked, as across disks, it is copied."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copy2(source, target)


def secrets_of(inputs: Inputs, bazelrc: str = "") -> Mapping[str, bytes]:
    """Give the secrets of a build: id → content, none of them empty. Bazel's own lines are `bazelrc`."""
    files = (inputs.certificates, inputs.downloader_config)
    texts = inputs.secrets({file: file.read_text(encoding="utf-8", errors="replace") for file in files if file})
    found = {name: text.encode() for name, text in {**texts, "bazelrc": bazelrc}.items() if text}
    if inputs.cuda and not inputs.cuda_folder and (trusted := _machine_certificates()):
        found["pip_ca"] = (trusted + texts.get("ca", "")).encode()
    if "ca" in texts:
        system = ssl.create_default_context().get_ca_certs(binary_form=True)
        found["truststore"] = java_truststore([*system, *_certificates(texts["ca"], inputs.certificates)])
    return found


def _machine_certificates() -> str:
    """What this machine trusts, in PEM; empty where that is not known."""
    places = ssl.get_default_verify_paths()
    files = [Path(places.cafile or ""), Path(places.capath or "", "ca-certificates.crt")]
    return next((file.read_text(encoding="utf-8", errors="replace") for file in files if file.is_file()), "")


def _certificates(pem: str, file: Path | None) -> list[bytes]:
    try:
        return [base64.b64decode(body) for body in _PEM.findall(pem)]
    except binascii.Error as error:
        raise RecipeError(
            f"a certificate in {file} cannot be read",
            why=str(error),
            remedy="give a PEM file with whole certificates at network.ca_certificates",
        ) from error


def java_truststore(certificates: Iterable[bytes]) -> bytes:
    """Write certificates (DER) as a keystore of the format JKS, which every Java reads; its password is `changeit`."""
    # Bazel brings a Java without keytool, and trusts nothing but such a store.
    known = list(dict.fromkeys(certificates))
    store = struct.pack(">III", 0xFEEDFEED, 2, len(known))  # magic number, version
    for number, certificate in enumerate(known, start=1):
        alias = f"ca{number:06}".encode()  # of an entry of kind 2: a trusted certificate
        store += struct.pack(f">IH{len(alias)}sQH5sI", 2, len(alias), alias, 0, 5, b"X.509", len(certificate))
        store += certificate
    # The digest is over the password in UTF-16, a phrase of the format, and the store.
    digest = hashlib.sha1("changeit".encode("utf-16-be") + b"Mighty Aphrodite" + store)  # noqa: S324 - the format's own
    return store + digest.digest()


@contextmanager
def secret_files(folder: Path, contents: Mapping[str, bytes]) -> Iterator[tuple[tuple[str, Path], ...]]:
    """Give secrets as files that no other user may read, and that are gone in the end."""
    # They lie in a subfolder with a fixed name: what a killed factory left there is removed by the next.
    place = folder / ".secrets"
    shutil.rmtree(place, ignore_errors=True)
    if not contents:
        yield ()
        return
    try:
        yield write_secrets(place, contents)
    finally:
        shutil.rmtree(place)


def write_secrets(folder: Path, contents: Mapping[str, bytes]) -> tuple[tuple[str, Path], ...]:
    """Write a file for each secret, which no other user may read, into a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700)
    for name, content in contents.items():
        (folder / name).touch(mode=0o600)
        (folder / name).write_bytes(content)
    return tuple((name, folder / name) for name in contents)
