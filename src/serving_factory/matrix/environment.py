"""Values from the environment, which replace those of the matrix file: settings of one machine's network."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_factory.errors import UsageError
from serving_factory.matrix.problems import DidYouMean, KeyPath, short, without_password

PREFIX = "SERVING_FACTORY_"

_BOOLEANS = dict.fromkeys(("1", "true", "yes", "on"), True) | dict.fromkeys(("0", "false", "no", "off"), False)


@dataclass(frozen=True, slots=True)
class Given:
    """A value of an environment variable, as the file would have it, and the key whose place it takes."""

    path: KeyPath
    value: Any
    variable: str


def _text(_name: str, value: str, _here: Path) -> str:
    return value


def _place(_name: str, value: str, here: Path) -> str:
    return value if "://" in value else str(here / value)


def _proxy(_name: str, value: str, _here: Path) -> str:
    return value if "://" in value else f"http://{value}"  # as curl and Bazel read HOST:PORT


def _hosts(_name: str, value: str, _here: Path) -> str:
    return ",".join(re.split(r"[\s,]+", value.strip(", ")))  # as curl reads blanks


def _boolean(name: str, value: str, _here: Path) -> bool:
    if value.lower() not in _BOOLEANS:
        remedy = f"set {name}=1 or {name}=0, or unset it"
        raise UsageError(f"{name}={short(value)}: this is neither yes nor no", remedy=remedy)
    return _BOOLEANS[value.lower()]


def _upload(name: str, value: str, here: Path) -> bool | str:
    return value if value == "auto" else _boolean(name, value, here)


def _pairs(name: str, value: str, _here: Path) -> dict[str, str]:
    words = [word.partition("=") for word in value.split()]
    for key, _, replacement in words:
        if not key or not replacement:
            what = f"{name}={short(without_password(value))}: {short(key + replacement)!r} is not a pair"
            raise UsageError(what, remedy="write pairs WHAT=INSTEAD, separated by blanks")
    return {key: replacement for key, _, replacement in words}


def _headers(name: str, value: str, _here: Path) -> dict[str, str]:
    headers = [line.partition(":") for line in value.splitlines() if line.strip()]
    if not all(header.strip() and text.strip() for header, _, text in headers):
        # The value is a secret: it is not shown.
        raise UsageError(f"{name}: a line of it is not a header", remedy="write a line NAME: VALUE for each header")
    return {header.strip(): text.strip() for header, _, text in headers}


VARIABLES: tuple[tuple[tuple[str, ...], KeyPath, Callable[[str, str, Path], Any]], ...] = (
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
    ((f"{PREFIX}OFFLINE",), ("network", "offline"), _boolean),
)
"""Names, of which the first that is set counts; the key; how the text is read."""


def given(environ: Mapping[str, str], here: Path) -> tuple[Given, ...]:
    """Read the environment, with paths relative to `here`; an empty or blank variable counts as unset.

    Raises:
        UsageError: a variable cannot be read, or its name is unknown. The file's rules check the values later.
    """
    known = [name for names, _, _ in VARIABLES for name in names if name.startswith(PREFIX)]
    if wrong := next((name for name in environ if name.startswith(PREFIX) and name not in known), None):
        remedy = DidYouMean(wrong, known, f"there are: {', '.join(known)}")
        raise UsageError(f"{wrong}: the factory knows no variable of this name", remedy=str(remedy))
    return tuple(_given(environ, here))


def _given(environ: Mapping[str, str], here: Path) -> Iterator[Given]:
    for names, path, read in VARIABLES:
        name = next((name for name in names if environ.get(name, "").strip()), None)
        if name is None:
            continue
        text = environ[name].strip()
        if text != text.encode(errors="replace").decode():  # Python's marks of other bytes
            raise UsageError(f"{name}: the value is not UTF-8", remedy=f"set {name} to a value in UTF-8")
        value = read(name, text, here)
        if isinstance(value, dict):  # the file's other entries stay
            yield from (Given((*path, key), one, name) for key, one in value.items())
        else:
            yield Given(path, value, name)
