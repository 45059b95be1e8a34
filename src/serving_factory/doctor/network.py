"""What was found out about proxies and registries. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from urllib.parse import urlsplit

from serving_factory.docker.http import Reach
from serving_factory.doctor.check import Check, fail, ok, warn
from serving_factory.recipes.addresses import Download, Kind


class Login(StrEnum):
    """What a registry made of our credentials."""

    ACCEPTED = "accepted"
    NOT_WANTED = "not required"
    MISSING = "missing"
    DENIED = "denied"
    UNREACHABLE = "unreachable"
    NONE_NAMED = "none named"


class BaseState(StrEnum):
    """Whether a base image can be had."""

    HELD = "the engine has it"
    HERE_ALONE = "the engine has it, its registry does not"
    THERE = "the registry has it"
    GONE = "gone"
    UNKNOWN = "unknown"


def check_proxies(client: Mapping[str, str], engine: Mapping[str, str], matrix: Mapping[str, str]) -> Check:
    """The proxies of this shell, of the engine and of the matrix against each other.

    Args:
        client: `http`, `https` and `no` → value, of this shell's environment; the engine's and the matrix's likewise.
        engine: with these the engine pulls base images.
        matrix: with these the builds fetch.
    """
    sides = {"this shell": client, "the engine": engine, "the matrix": matrix}
    told = {side: {name: value for name, value in values.items() if name != "no"} for side, values in sides.items()}
    found = "; ".join(
        f"{side}: {', '.join(f'{name} {_public(value)}' for name, value in values.items()) or 'none'}"
        for side, values in told.items()
    )
    if not any(told.values()):
        return ok("proxies", "none anywhere")
    remedy = "set the same proxies in this shell, in network.proxies of the matrix, and in the engine's daemon.json"
    if not told["the engine"]:
        return warn("proxies", found, "the engine pulls base images without a proxy, and may not reach them", remedy)
    if not told["the matrix"]:
        return warn("proxies", found, "builds fetch without a proxy, and may not reach what they need", remedy)
    if any(values and values != told["the matrix"] for values in told.values()):
        return warn("proxies", found, "they differ; what one reaches, another may not", remedy)
    return ok("proxies", found)


def _public(url: str) -> str:
    """A proxy's URL without the password in it."""
    scheme, found, rest = url.rpartition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"


def check_login(registry: str, login: Login, why: str = "") -> Check:
    """Whether the registry that images go to knows us.

    Args:
        registry: its name; empty where none is named.
        login: what it made of our credentials.
        why: what it said.
    """
    match login:
        case Login.NONE_NAMED:
            return ok("registry login", "the matrix names no registry; `--registry` decides where images go")
        case Login.ACCEPTED:
            return ok("registry login", f"{registry} answers, and takes our credentials")
        case Login.NOT_WANTED:
            return ok("registry login", f"{registry} answers, and wants no login")
        case Login.MISSING:
            return warn(
                "registry login",
                f"{registry} wants a login{f': {why}' if why else ''}",
                "images can be built, but not be pushed there",
                f"docker login {registry}",
            )
        case Login.UNREACHABLE:
            return warn(
                "registry login",
                f"{registry} does not answer",
                f"images can be built, but not be pushed there{f' ({why})' if why else ''}",
                "check its name and the network",
            )
        case Login.DENIED:
            return fail(
                "registry login",
                f"{registry} refuses us{f': {why}' if why else ''}",
                "a push will fail after all that was built",
                f"docker login {registry}",
            )


def check_bases(bases: Mapping[str, BaseState]) -> Check:
    """Whether the base images of the planned variants can still be had."""
    found = "; ".join(f"{base}: {state}" for base, state in bases.items()) or "none is needed"
    gone = [base for base, state in bases.items() if state is BaseState.GONE]
    if gone:
        return fail(
            "base images",
            found,
            f"builds on {', '.join(gone)} fail at their first step",
            "name images that exist at network.base_images in the matrix file",
        )
    if here := [base for base, state in bases.items() if state is BaseState.HERE_ALONE]:
        return warn(
            "base images",
            found,
            f"builds on {', '.join(here)} fail on any other machine, and on this one once the engine drops its copy",
            "push it to a registry of your own and name it at network.base_images, or name images that exist",
        )
    if BaseState.UNKNOWN in bases.values():
        return warn(
            "base images",
            found,
            "whether those still exist could not be asked",
            "check the network; or pull them now, so that the engine has them",
        )
    return ok("base images", found)


def check_downloads(downloads: Sequence[Download], found: Mapping[str, tuple[Reach, str]]) -> Check:
    """Whether what the planned builds download can be had.

    Args:
        downloads: of all variants.
        found: address -> what came of asking it, and in words what it answered.
    """
    name = "downloads"
    asked = [one for one in downloads if one.place in found]
    if not asked:
        return ok(name, "no address to be asked: all comes from folders, images and mirrors")
    bad = [one for one in asked if not _can_be_had(one, found[one.place][0])]
    if not bad:
        return ok(name, f"all {len(asked)} addresses answer: {'; '.join(one.what for one in asked)}")
    doubtful = all(found[one.place][0] is Reach.ANSWERS for one in bad)
    # Of a host that does not answer at all, one line is enough.
    told: dict[str, list[str]] = {}
    for one in bad:
        reach, words = found[one.place]
        where = urlsplit(one.place).netloc if reach is Reach.SILENT else one.place
        told.setdefault(f"{where}: {reach} ({words})", []).append(one.what)
    lines = "; ".join(f"{where} for {', '.join(dict.fromkeys(what))}" for where, what in told.items())
    return (warn if doubtful else fail)(
        name,
        f"{len(asked) - len(bad)} of {len(asked)} addresses have it; {lines}",
        "what answers so may give it all the same, or later" if doubtful else "builds end where they ask for it",
        "see whether this network needs a proxy or mirrors (docs/matrix.md, The network); without the internet, fill "
        "folders (docs/closed-network.md)",
    )


def _can_be_had(download: Download, reach: Reach) -> bool:
    """Of a host any answer will do; a file must be there."""
    return reach is Reach.THERE or (download.kind is Kind.HOST and reach is not Reach.SILENT)
