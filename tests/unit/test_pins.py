"""recipes/pins.py: what builds start from, and how pins reach recipes and Dockerfiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from serving_factory.catalogue.releases import releases
from serving_factory.commands.generate import generated_files
from serving_factory.errors import NotLockedError
from serving_factory.matrix.lockfile import Lock
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.settings import AllSettings, BazelChoice
from serving_factory.matrix.variant import Platform
from serving_factory.recipes.explain import explain
from serving_factory.recipes.pins import (
    NeededBase,
    bazel_asset,
    bazel_checksum,
    image_for,
    needs_of,
    require_locked,
    unpinned_bases,
)
from serving_factory.recipes.recipe import recipe_for, recipes_for

from .matrices import document, load

DIGEST = "sha256:" + "ab" * 32
OTHER = "sha256:" + "cd" * 32
SHA256 = "ef" * 32
BASE = "ubuntu:20.04"
UNKNOWN = "9.9.9"
"""A Bazel that the catalogue has never heard of."""


def based(folder: Path, image: str) -> Matrix:
    return load(folder, document(network={"base_images": {BASE: image}}))


def with_bazel(matrix: Matrix, choice: BazelChoice) -> Matrix:
    return replace(matrix, settings=AllSettings(replace(matrix.settings.usual, bazel=choice), {}))


def locked(matrix: Matrix, bases: Mapping[str, str] | None = None, bazel: Mapping[str, str] | None = None) -> Matrix:
    return replace(matrix, lock=Lock(file=matrix.lock.file, bases=bases or {}, bazel=bazel or {}))


# --- what is needed ---------------------------------------------------------------------------------------------------


def test_a_base_is_asked_of_the_registry_that_its_name_gives(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    needs = needs_of(matrix.variants, matrix)
    assert needs.bases == (NeededBase(name=BASE, asked=BASE, platforms=(Platform.LINUX_AMD64,)),)
    assert needs.bazels == ()


@pytest.mark.parametrize(
    ("stand_in", "asked"),
    [
        ("mirror.example.com/library/ubuntu:20.04", True),
        ("localhost/ubuntu:20.04", True),
        ("127.0.0.1:5000/ubuntu:20.04", True),
        ("docker.io/mine/ubuntu:20.04", True),
        ("serving-factory/base:focal", False),
        ("focal:latest", False),
        (f"mirror.example.com/ubuntu@{DIGEST}", False),
    ],
)
def test_a_mirror_is_asked_and_an_image_of_the_engine_is_not(tmp_path: Path, stand_in: str, *, asked: bool) -> None:
    matrix = based(tmp_path, stand_in)
    (base,) = needs_of(matrix.variants, matrix).bases
    assert (base.name, base.asked) == (BASE, stand_in if asked else None)


def test_a_base_that_is_pinned_by_hand_needs_no_lock(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(toolchain={"base": f"debian:bookworm@{DIGEST}"}))
    assert needs_of(matrix.variants, matrix).bases == ()


def test_the_base_of_an_image_is_needed_beside_that_of_its_compile(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(image={"repository": "r", "base": {"cpu": "debian:trixie-slim"}}))
    assert [base.name for base in needs_of(matrix.variants, matrix).bases] == ["debian:trixie-slim", BASE]
    assert unpinned_bases(matrix.variants, locked(matrix, {BASE: DIGEST})) == ("debian:trixie-slim",)
    recipe = recipe_for(matrix.variants[0], locked(matrix, {"debian:trixie-slim": DIGEST}))
    assert f"\nFROM debian:trixie-slim@{DIGEST}\n" in recipe.runtime


def test_the_base_that_a_slim_one_is_made_of_is_needed(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(image={"repository": "r", "base": "slim of debian:trixie-slim"}))
    assert unpinned_bases(matrix.variants, locked(matrix, {BASE: DIGEST})) == ("debian:trixie-slim",)
    matrix = load(tmp_path, document(image={"repository": "r", "base": "slim"}))
    assert unpinned_bases(matrix.variants, locked(matrix, {BASE: DIGEST})) == ()


def test_only_a_bazel_that_is_fetched_and_not_known_needs_a_checksum(tmp_path: Path) -> None:
    matrix, choice = load(tmp_path), BazelChoice(overrides={})
    for other, needed in (
        (choice, ()),
        (replace(choice, version=UNKNOWN), (UNKNOWN,)),
        (replace(choice, version="6.4.0"), ()),
        (replace(choice, version=UNKNOWN, package="bazel"), ()),
        (replace(choice, version=UNKNOWN, binary=tmp_path / "bazel"), ()),
    ):
        chosen = with_bazel(matrix, other)
        assert needs_of(chosen.variants, chosen).bazels == needed, other


def test_the_catalogues_checksum_goes_before_the_locks() -> None:
    lock = Lock(bazel={UNKNOWN: SHA256, "6.5.0": SHA256})
    assert bazel_checksum("6.5.0", lock) == releases()["2.19.1"].bazel_sha256 != SHA256
    assert bazel_checksum(UNKNOWN, lock) == SHA256
    assert bazel_checksum("9.9.8", lock) is None
    assert bazel_asset("3.0.0") == "bazel-3.0.0-linux-x86_64"


# --- where it goes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "stand_in", "image"),
    [
        (BASE, None, BASE),
        (f"{BASE}@{DIGEST}", None, f"{BASE}@{DIGEST}"),
        (BASE, "m.example/u:1", "m.example/u:1"),
        (f"{BASE}@{DIGEST}", "m.example/u:1", f"m.example/u:1@{DIGEST}"),
        (f"{BASE}@{DIGEST}", f"m.example/u@{OTHER}", f"m.example/u@{OTHER}"),
        (f"{BASE}@{DIGEST}", "mine/base:1", "mine/base:1"),
    ],
)
def test_the_stand_in_of_a_pinned_base_is_pinned_too_where_a_registry_has_it(
    base: str, stand_in: str | None, image: str
) -> None:
    assert image_for(base, {BASE: stand_in} if stand_in else {}) == image


def test_a_digest_reaches_both_dockerfiles_the_context_the_key_and_the_page(tmp_path: Path) -> None:
    matrix = based(tmp_path, "m.example/ubuntu:20.04")
    pinned = locked(matrix, {BASE: DIGEST})
    loose, recipe = (recipe_for(matrix.variants[0], one) for one in (matrix, pinned))
    assert recipe.toolchain.base == f"{BASE}@{DIGEST}"
    for text in (recipe.devel, recipe.runtime, *generated_files(pinned).values()):
        assert f"FROM {BASE}@{DIGEST}" in text
        assert f"FROM {BASE} " not in text
    assert recipe.base.contexts == ((f"{BASE}@{DIGEST}", f"docker-image://m.example/ubuntu:20.04@{DIGEST}"),)
    assert recipe.compile_key != loose.compile_key
    page = dict(explain(recipe, pinned, devel_command=""))
    reported = {one.name: one for one in page["toolchain"]}
    assert reported["base"].value == f"{BASE}@{DIGEST}"
    assert str(matrix.lock.file) in reported["base"].origin
    assert "network.base_images" in reported["base_image_used"].origin


def test_a_locked_base_may_be_one_that_the_engine_has(tmp_path: Path) -> None:
    matrix = based(tmp_path, "mine/base:1")
    recipe = recipe_for(matrix.variants[0], locked(matrix, {BASE: DIGEST}))
    assert recipe.base.contexts == ((f"{BASE}@{DIGEST}", "docker-image://mine/base:1"),)


def test_a_locked_checksum_reaches_the_dockerfile(tmp_path: Path) -> None:
    matrix = with_bazel(load(tmp_path), BazelChoice(overrides={}, version=UNKNOWN))
    ((), (missing,)) = recipes_for(matrix.variants, matrix)
    assert "the checksum of Bazel 9.9.9 is not known" in missing.error.what
    assert "./factory lock" in missing.error.remedy
    ((recipe,), ()) = recipes_for(matrix.variants, locked(matrix, bazel={UNKNOWN: SHA256}))
    assert f"--checksum=sha256:{SHA256}" in recipe.devel
    assert f"bazel-{UNKNOWN}-linux-x86_64" in recipe.devel


# --- what is refused --------------------------------------------------------------------------------------------------


def test_all_that_is_not_locked_is_refused_at_once(tmp_path: Path) -> None:
    matrix = with_bazel(load(tmp_path), BazelChoice(overrides={}, version=UNKNOWN))
    with pytest.raises(NotLockedError) as caught:
        require_locked(matrix.variants, matrix)
    assert caught.value.why.splitlines() == [
        "ubuntu:20.04: no digest of this base image",
        "Bazel 9.9.9: no checksum of its release asset",
    ]
    assert f"./factory lock --matrix {matrix.file}" in caught.value.remedy
    require_locked(matrix.variants, locked(matrix, {BASE: DIGEST}, {UNKNOWN: SHA256}))


def test_only_the_chosen_variants_must_be_locked(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    require_locked((), matrix)


def test_a_base_is_not_pinned_where_a_registry_has_a_say_and_the_lock_has_not(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    assert unpinned_bases(matrix.variants, matrix) == (BASE,)
    assert unpinned_bases(matrix.variants, locked(matrix, {BASE: DIGEST})) == ()
    swapped = based(tmp_path, "mine/base:1")
    assert unpinned_bases(swapped.variants, swapped) == ()
    require_locked(swapped.variants, swapped)
