"""What the environment says in place of the matrix file: settings of one network, which no file for all need hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_factory.errors import UsageError
from serving_factory.matrix.problems import KeyPath

PREFIX = "SERVING_FACTORY_"

_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Given:
    """A value that the environment gives.

    Args:
        path: the key of the matrix file whose place it takes.
        value: the value, as a file would have it.
        variable: the name of the variable.
    """

    path: KeyPath
    value: Any
    variable: str


def _text(_name: str, value: str, _here: Path) -> str:
    return value


def _place(_name: str, value: str, here: Path) -> str:
    return value if "://" in value else str(here / value)


def _proxy(_name: str, value: str, _here: Path) -> str:
    return value if "://" in value else f"http://{value}"  # as curl and Bazel take a bare HOST:PORT


def _hosts(_name: str, value: str, _here: Path) -> str:
    return ",".join(re.split(r"[\s,]+", value.strip(", ")))  # as curl takes blanks for commas


def _truth(name: str, value: str, _here: Path) -> bool:
    if value.lower() not in (*_YES, *_NO):
        raise UsageError(f"{name}={value}: this is neither yes nor no", remedy=f"set {name}=1, or unset it")
    return value.lower() in _YES


def _pairs(name: str, value: str, _here: Path) -> dict[str, str]:
    words = [word.partition("=") for word in value.split()]
    for key, _, replacement in words:
        if not key or not replacement:
            raise UsageError(
                f"{name}={value}: {key + replacement!r} is no pair", remedy="write pairs WHAT=INSTEAD, parted by blanks"
            )
    return {key: replacement for key, _, replacement in words}


def _upload(name: str, value: str, here: Path) -> bool | str:
    return value if value == "auto" else _truth(name, value, here)


def _headers(name: str, value: str, _here: Path) -> dict[str, str]:
    headers = [line.partition(":") for line in value.splitlines() if line.strip()]
    if not all(header.strip() and text.strip() for header, _, text in headers):
        # The value is not shown: it is a secret.
        raise UsageError(f"{name}: a line of it is no header", remedy="write a line NAME: VALUE for each header")
    return {header.strip(): text.strip() for header, _, text in headers}


_Reader = Callable[[str, str, Path], Any]

VARIABLES: tuple[tuple[tuple[str, ...], KeyPath, _Reader], ...] = (
    ((f"{PREFIX}BASE_IMAGES",), ("network", "base_images"), _pairs),
    ((f"{PREFIX}APT_MIRROR",), ("network", "apt", "mirror"), _place),
    ((f"{PREFIX}APT_SNAPSHOT",), ("network", "apt", "snapshot"), _text),
    ((f"{PREFIX}PIP_INDEX",), ("network", "pip_index"), _text),
    ((f"{PREFIX}GIT_MIRRORS",), ("network", "git_mirrors"), _pairs),
    ((f"{PREFIX}BAZEL_MIRROR",), ("network", "bazel_mirror"), _text),
    ((f"{PREFIX}BAZEL_DISTDIR",), ("bazel", "distdir"), _place),
    ((f"{PREFIX}REMOTE_CACHE",), ("bazel", "remote", "cache"), _text),
    ((f"{PREFIX}REMOTE_EXECUTOR",), ("bazel", "remote", "executor"), _text),
    ((f"{PREFIX}REMOTE_UPLOAD",), ("bazel", "remote", "upload"), _upload),
    ((f"{PREFIX}REMOTE_HEADERS",), ("bazel", "remote", "headers"), _headers),
    ((f"{PREFIX}DOWNLOADER_CONFIG",), ("network", "downloader_config"), _place),
    (("HTTP_PROXY", "http_proxy"), ("network", "proxies", "http"), _proxy),
    (("HTTPS_PROXY", "https_proxy"), ("network", "proxies", "https"), _proxy),
    (("NO_PROXY", "no_proxy"), ("network", "proxies", "no"), _hosts),
    ((f"{PREFIX}CA_CERTIFICATES",), ("network", "ca_certificates"), _place),
    ((f"{PREFIX}OFFLINE",), ("network", "offline"), _truth),
)
"""Names, of which the first that is set counts; the key; how the variable's text is read."""


def given(environ: Mapping[str, str], here: Path) -> tuple[Given, ...]:
    """Read what the environment gives; a variable that is empty, or blank, counts as none.

    Args:
        environ: the environment.
        here: what its files and folders are relative to.

    Raises:
        UsageError: a variable cannot be read, or nobody reads it. Whether its value can be used is for the file's rules
            to say.
    """
    known = [name for names, _, _ in VARIABLES for name in names]
    if wrong := next((name for name in environ if name.startswith(PREFIX) and name not in known), None):
        remedy = f"there are: {', '.join(name for name in known if name.startswith(PREFIX))}"
        raise UsageError(f"{wrong}: the factory reads no variable of this name", remedy=remedy)
    return tuple(_given(environ, here))


def _given(environ: Mapping[str, str], here: Path) -> Iterator[Given]:
    for names, path, read in VARIABLES:
        name = next((name for name in names if environ.get(name, "").strip()), None)
        if name is None:
            continue
        value = read(name, environ[name].strip(), here)
        if isinstance(value, dict):  # the file's other entries stay
            yield from (Given((*path, key), one, name) for key, one in value.items())
        else:
            yield Given(path, value, name)
