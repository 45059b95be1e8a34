"""`verify`: checks an image by what a registry has of it, without Docker."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from serving_factory.commands.images import build_command, named_image, registry_alone
from serving_factory.commands.keys import checker_of, require_extra
from serving_factory.commands.shared import Asked, show, width
from serving_factory.docker.registry import DIGEST, ImageName
from serving_factory.errors import NotBuiltError, UsageError
from serving_factory.matrix.lockfile import read_lock
from serving_factory.output.text import count, table, words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from serving_factory.proofs.verify import Check


def verify(asked: Asked, image: str, *, key: str, deep: bool, json: bool) -> None:
    """Print a line for each check, and raise what the first failed one is."""
    if not image:
        raise UsageError(
            "`verify` needs an image",
            remedy="name it as docker does, or a variant that was pushed: "
            "./factory verify registry.example.com/team/serving:2.19.1-cpu-v3",
        )
    require_extra()
    checker = None
    if not set(image) & set("/:@"):
        image, checker = _pushed(asked, image), checker_of(asked.load())
    from serving_factory.proofs.keys import PublicKey
    from serving_factory.proofs.verify import Subject, Verdict
    from serving_factory.proofs.verify import verify as check

    name, reference = ImageName.parse_reference(image)
    tagged, _, digest = image.partition("@")
    if digest and not DIGEST.fullmatch(digest):
        raise UsageError(f"'{digest}' is no digest", remedy="a digest is sha256: and 64 hex digits")
    has_tag = ":" in tagged.rpartition("/")[2]
    lock = read_lock(asked.file)
    subject = Subject(
        name=name,
        tag="" if digest and not has_tag else tagged.rpartition(":")[2] if has_tag else reference,
        digest=digest,
        key=PublicKey.read(Path(key)) if key else checker,
        lock=lock.bases,
        lock_file=lock.file.name if lock.file else "",
        deep=deep,
    )
    found = check(registry_alone(name.registry), subject)
    checks = [{"name": one.name, "verdict": one.verdict.value, "found": one.found} for one in found]
    show({"image": image, "checks": checks}, checks_table(found, width=width()), json=json)
    if failed := [one for one in found if one.verdict is Verdict.FAILED]:
        names = ", ".join(one.name for one in failed)
        raise failed[0].error(
            f"{image} is not what it must be: {names}.",
            why="\n".join(one.found for one in failed),
            remedy="Do not use it; see who pushed it, and push the image again from its build.",
        )


def _pushed(asked: Asked, variant: str) -> str:
    """What a registry was given of a variant, by its digest; raises NotBuiltError, UnknownNameError."""
    image = named_image(asked, variant, {one.id for one in asked.load().variants})
    if image is None or not image.published:
        raise NotBuiltError(
            f"{variant} has an image that was not pushed", remedy=f"{build_command(asked, variant)} --registry REGISTRY"
        )
    return image.name


def checks_table(found: Sequence[Check], *, width: int | None = None) -> str:
    """A line for each check, and how many ended how."""
    cells = [(one.verdict.value, one.name, one.found) for one in found]
    counts = words(Counter(one.verdict.value for one in found))
    return f"{table(('result', 'check', 'found'), cells, width=width)}\n{count(len(found), 'check')}: {counts}.\n"
