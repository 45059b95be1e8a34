"""In what two images differ and why: each kind of change is named, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_factory.commands import changes as changing
from serving_factory.commands.changes import Compared, changes_text, compare_facts, show_changes
from serving_factory.commands.images import Image
from serving_factory.docker.engine import Engine
from serving_factory.docker.referrers import Artifact, attach
from serving_factory.docker.registry import INDEX
from serving_factory.errors import (
    ArtifactError,
    ImageDiffersError,
    NotBuiltError,
    RegistryError,
    UnknownNameError,
    UsageError,
)
from serving_factory.proofs.described import IN_TOTO, SBOM
from serving_factory.proofs.facts import ImageFacts, facts_in_engine

from .byte_registry import ByteRegistry
from .published_image import MANIFEST, REPOSITORY, PublishedImage, archive, described

DIGEST = "sha256:" + "d" * 64
BINARY = {
    "source": "c0ffee",
    "base_digest": "sha256:b",
    "compiler": "gcc 10.2.1",
    "bazel": "6.5.0",
    "version": "2.19.1",
}
FACTS: dict[str, Any] = {
    "release": "2.19.1",
    "copts": ["-mavx2", "-mfma"],
    "configs": [],
    "base": "debian:bookworm-slim",
    "slim": False,
    "binary": {**BINARY, "sha256": "1" * 64, "compile_key": "2" * 64, "device_code": [], "cpu_flags": ["avx2", "fma"]},
}
OLD = ImageFacts(
    name="serving:old",
    image="sha256:old",
    config="sha256:old",
    size=90_000_000,
    labels={"org.serving-factory.base.id": "sha256:d1", "org.serving-factory.copts": "-mavx2", "com.example.team": "a"},
    facts=FACTS,
    packages={"libc6": "2.36-9", "libssl3": "3.0.16-1"},
)
NEW = replace(OLD, name="serving:new", image="sha256:new", config="sha256:new")


def of(*, binary: Mapping[str, object] | None = None, **facts: object) -> ImageFacts:
    """The new image, with other facts."""
    return replace(NEW, facts={**FACTS, **facts, "binary": {**FACTS["binary"], **(binary or {})}})


def rows(compared: Compared) -> list[tuple[str, str, str | None, str | None]]:
    return [(one.kind, one.name, one.before, one.after) for one in compared.changes]


ANOTHER = {"sha256": "3" * 64, "compile_key": "4" * 64}


@pytest.mark.parametrize(
    ("after", "name", "before", "now"),
    [
        (of(release="2.19.2", binary=ANOTHER), "release", "2.19.1", "2.19.2"),
        (of(binary={**ANOTHER, "source": "decaf"}), "sources", "c0ffee", "decaf"),
        (of(copts=["-mavx2"], binary=ANOTHER), "flags", "-mavx2 -mfma", "-mavx2"),
        (of(configs=["mkl"], binary=ANOTHER), "configs", None, "mkl"),
        (of(binary={**ANOTHER, "base_digest": "sha256:c"}), "build base's digest", "sha256:b", "sha256:c"),
        (of(binary={**ANOTHER, "compiler": "gcc 10.3.0"}), "compiler", "gcc 10.2.1", "gcc 10.3.0"),
        (of(binary={**ANOTHER, "bazel": "6.5.1"}), "Bazel", "6.5.0", "6.5.1"),
    ],
    ids=lambda value: value if isinstance(value, str) and " " not in value else None,
)
def test_what_decides_the_binary_is_why_it_is_another(
    after: ImageFacts, name: str, before: str | None, now: str | None
) -> None:
    found = compare_facts(OLD, after)
    assert rows(found) == [
        ("fact", name, before, now),
        ("fact", "compile key", "2" * 64, "4" * 64),
        ("fact", "binary", "1" * 64, "3" * 64),
    ]
    assert (found.binary_reasons, found.image_reasons) == ((name,), ("binary",))


def test_another_binary_without_another_input_is_the_factorys_or_a_second_compile() -> None:
    assert compare_facts(OLD, of(binary=ANOTHER)).binary_reasons == ("the factory's recipe",)
    again = compare_facts(OLD, of(binary={"sha256": "3" * 64}))
    assert again.binary_reasons == ("a second compile by the same recipe",)


@pytest.mark.parametrize(
    ("after", "row", "reason"),
    [
        (of(base="debian:trixie-slim"), ("fact", "base", "debian:bookworm-slim", "debian:trixie-slim"), "base"),
        (
            of(higher=[{"level": "x86-64-v3", "sha256": "5", "cpu_flags": []}]),
            ("fact", "binary of x86-64-v3", None, "5"),
            "binary of x86-64-v3",
        ),
        (of(slim=True), ("fact", "slim", "no", "yes"), "slim"),
        (
            replace(NEW, labels={**OLD.labels, "org.serving-factory.base.id": "sha256:d2"}),
            ("fact", "base's digest", "sha256:d1", "sha256:d2"),
            "base's digest",
        ),
        (
            replace(NEW, packages={**OLD.packages, "libssl3": "3.0.17-1"}),
            ("package", "libssl3", "3.0.16-1", "3.0.17-1"),
            "1 package",
        ),
        (replace(NEW, packages={"libc6": "2.36-9"}), ("package", "libssl3", "3.0.16-1", None), "1 package"),
        (
            replace(NEW, labels={**OLD.labels, "com.example.team": "b"}),
            ("label", "com.example.team", "a", "b"),
            "label com.example.team",
        ),
    ],
    ids=["base", "another level", "slim", "base's digest", "package", "package that went", "label"],
)
def test_what_is_around_the_binary_is_why_the_image_is_another(
    after: ImageFacts, row: tuple[str, str, str | None, str | None], reason: str
) -> None:
    found = compare_facts(OLD, after)
    assert (rows(found), found.binary_reasons, found.image_reasons) == ([row], (), (reason,))
    assert "- The same binary.\n" in changes_text(found)


def test_nothing_changed_says_so() -> None:
    same = compare_facts(OLD, replace(OLD, name="serving:alias"))
    assert (same.changes, same.binary_reasons, same.image_reasons) == ((), (), ())
    assert changes_text(same) == "## serving:alias since serving:old\n\nNothing changed: both are sha256:old.\n"
    assert compare_facts(OLD, NEW).image_reasons == ("the factory's own files in it",)


def test_an_image_of_others_says_nothing_of_its_binary() -> None:
    found = compare_facts(replace(OLD, facts={}, labels={}), NEW)
    assert found.binary_reasons is None
    assert "- Which binary is in both is not known" in changes_text(found)


def test_the_text_is_markdown() -> None:
    after = replace(of(binary={**ANOTHER, "compiler": "gcc | 11"}), packages={**OLD.packages, "libssl3": "3.0.17-1"})
    assert changes_text(compare_facts(OLD, after)) == (
        "## serving:new since serving:old\n\n"
        "`sha256:old`, 85.8 MiB, became `sha256:new`, 85.8 MiB.\n\n"
        "- Another binary, because of: compiler.\n"
        "- Another image, because of: binary, 1 package.\n\n"
        "| what | before | after |\n|---|---|---|\n"
        "| compiler | gcc 10.2.1 | gcc \\| 11 |\n"
        f"| compile key | {'2' * 64} | {'4' * 64} |\n"
        f"| binary | {'1' * 64} | {'3' * 64} |\n"
        "| package libssl3 | 3.0.16-1 | 3.0.17-1 |\n"
    )


def test_what_an_image_says_writes_no_lines_of_its_own() -> None:
    odd = replace(NEW, name="serving:new (linux\n## x)", labels={**OLD.labels, "a\n\n# b": "c\r\x1b[31md\n# e|f"})
    text = changes_text(compare_facts(OLD, odd))
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "## serving:new (linux ## x) since serving:old"
    ]
    assert "| label a  # b | none | d # e\\|f |\n" in text
    assert "because of: label a  # b." in text


def engine_with(facts: bytes) -> Engine:
    engine = SimpleNamespace(
        image_id=lambda name: None if name == "gone" else "sha256:new",
        image_size=lambda _image: 90_000_000,
        image_labels=lambda _image: OLD.labels,
        read_files=lambda _image, *paths, owner: (
            {
                paths[0]: b"Package: libc6\nStatus: install ok installed\nVersion: 2.36-9\n",
                "/var/lib/dpkg/status.d/libssl3": b"Package: libssl3\nVersion: 3.0.16-1\n",
                paths[-1]: facts,
            }
            if owner == "o"
            else {}
        ),
    )
    return cast("Engine", engine)


def test_an_images_facts_are_read_from_its_files() -> None:
    assert facts_in_engine(engine_with(json.dumps(FACTS).encode()), "serving:new", "o") == NEW
    with pytest.raises(UnknownNameError, match="the engine has no image gone"):
        facts_in_engine(engine_with(b""), "gone", "o")
    for facts in (b"no JSON", b"[1]", b"[" * 100_000):
        with pytest.raises(ArtifactError, match=r"image\.json in serving:new cannot be read"):
            facts_in_engine(engine_with(facts), "serving:new", "o")


@pytest.mark.parametrize("higher", [7, ["x"], [{}], [{"level": [], "sha256": {}}]])
def test_an_image_may_say_anything_of_its_levels(higher: object) -> None:
    assert "Another image" in changes_text(compare_facts(OLD, of(higher=higher)))


@pytest.mark.parametrize(
    ("images", "since"),
    [
        ((), ""),
        (("a:1",), ""),
        (("a:1", "b:1", "c:1"), ""),
        (("a:1", "b:1"), "3"),
        (("a:1", "b:1"), DIGEST),
        (("a:1",), "3"),
        ((), DIGEST),
    ],
)
def test_two_images_a_digest_or_a_run_are_needed(images: tuple[str, ...], since: str) -> None:
    with pytest.raises(UsageError, match="takes two images, --since RUN, or an image and --since DIGEST; got"):
        show_changes(images, since=since, json=False)


def test_a_run_whose_images_are_gone_cannot_be_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    variants = [SimpleNamespace(variant="2.19.1-cpu-v3", image=image, pushed=None) for image in ("gone", None)]
    run = SimpleNamespace(id=3, matrix="matrix.yaml", variants=variants)
    site = SimpleNamespace(build=None, engine=SimpleNamespace(image_id=lambda _name: None), owner="o")
    now = SimpleNamespace(outputs=SimpleNamespace(names=("serving:new",)))
    monkeypatch.setattr(changing, "site_of", lambda _asked: site)
    monkeypatch.setattr(changing, "named_runs", lambda _build, _numbers: [run])
    monkeypatch.setattr(changing, "PACKAGE", SimpleNamespace(read=lambda _folder: now))
    with pytest.raises(NotBuiltError, match="no image of run 3 can be compared"):
        show_changes((), since="3", json=False)
    assert "2.19.1-cpu-v3: the engine no longer has gone, its image of run 3" in capsys.readouterr().err

    site.engine.image_id = lambda _name: "sha256:old"
    monkeypatch.setattr(changing, "facts_in_engine", lambda _engine, name, _owner: OLD if name == "gone" else NEW)
    show_changes((), since="3", json=False)
    assert capsys.readouterr().out.startswith("## serving:new since serving:old\n")


STATUS = "var/lib/dpkg/status"
FOLDER = "var/lib/dpkg/status.d"


def dpkg(name: str, version: str) -> bytes:
    return f"Package: {name}\nStatus: install ok installed\nVersion: {version}\n".encode()


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[ByteRegistry]:
    """A registry; an engine is not asked."""
    monkeypatch.setattr(changing, "site_of", lambda _asked: SimpleNamespace(build=None))
    with ByteRegistry.run() as running:
        yield running


def changed(capsys: pytest.CaptureFixture[str], *images: str, since: str = "") -> dict[str, Any]:
    show_changes(images, since=since, json=True)
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def test_two_images_of_a_registry_are_read_there(registry: ByteRegistry, capsys: pytest.CaptureFixture[str]) -> None:
    zlib, abseil = described().externals[:2]
    files = {STATUS: dpkg("libc6", "2.36-9"), f"{FOLDER}/libssl3": dpkg("libssl3", "3.0.16-1")}
    facts = {**FACTS, "copts": ["-mavx"]}
    old = PublishedImage(more=files, says=facts).publish(registry, "old")
    newer = {**files, f"{FOLDER}/libssl3": dpkg("libssl3", "3.0.17-1")}
    about = {"externals": (replace(zlib, sha256="e" * 64), abseil), "factory": "0.2.0"}
    new = PublishedImage(
        binary=b"another",
        more=newer,
        says={**facts, "copts": ["-mavx2"], "binary": {**FACTS["binary"], **ANOTHER}},
        about=about,
    ).publish(registry, "new")
    place = f"{registry.host}/{REPOSITORY}"
    registry.asked.clear()
    document = changed(capsys, f"{place}:old", f"{place}:new")
    (pair,) = document["images"]
    assert [pair[when]["image"] for when in ("before", "after")] == [old, new]
    assert {(one["kind"], one["name"]): (one["before"], one["after"]) for one in pair["changes"]} == {
        ("fact", "flags"): ("-mavx", "-mavx2"),
        ("fact", "compile key"): ("2" * 64, "4" * 64),
        ("fact", "binary"): ("1" * 64, "3" * 64),
        ("fact", "factory"): ("0.1.0", "0.2.0"),
        ("external", "zlib"): ("a" * 64, "e" * 64),
        ("external", "here"): ("", None),
        ("package", "libssl3"): ("3.0.16-1", "3.0.17-1"),
    }
    assert pair["binary_reasons"] == ["flags", "2 changes of Bazel's external repositories"]
    assert pair["image_reasons"] == ["binary", "1 package"]
    base = registry.manifests[old][1]
    (shared,) = {one["digest"] for one in json.loads(base)["layers"]} & {
        one["digest"] for one in json.loads(registry.manifests[new][1])["layers"]
    }
    assert sum(shared in request for request in registry.asked) == 1, "a layer of both is fetched once"
    assert changed(capsys, f"{place}:new", since=old) == document | {
        "images": [pair | {"before": pair["before"] | {"name": f"{place}@{old}"}}]
    }
    assert changed(capsys, f"{place}:old", f"{place}@{old}")["images"][0]["image_reasons"] == []
    for kind in (SBOM, IN_TOTO):  # such as the SBOM that a scanner attached
        attach(registry.client, REPOSITORY, new, Artifact(media_type=kind, content=b'{"components": [{"name": "a"}]}'))
    assert changed(capsys, f"{place}:old", f"{place}:new") == document


def test_what_an_upper_layer_removes_of_the_packages_is_not_there(
    registry: ByteRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {f"{FOLDER}/{name}": dpkg(name, "1") for name in ("a", "b", "c")}
    PublishedImage(more=files, says=FACTS, signer=None).publish(registry, "old")
    place = f"{registry.host}/{REPOSITORY}"
    for above, gone in (
        ([archive({f"{FOLDER}/.wh.a": b""})], {"a"}),
        ([archive({f"{FOLDER}/.wh..wh..opq": b"", f"{FOLDER}/b": dpkg("b", "1")})], {"a", "c"}),
        ([archive({"var/lib/.wh.dpkg": b""}), archive({f"{FOLDER}/c": dpkg("c", "1")})], {"a", "b"}),
    ):
        PublishedImage(more=files, says=FACTS, above=above, signer=None).publish(registry, "new")
        (pair,) = changed(capsys, f"{place}:old", f"{place}:new")["images"]
        assert {one["name"] for one in pair["changes"]} == gone
        assert {one["after"] for one in pair["changes"]} == {None}


def put_index(registry: ByteRegistry, tag: str, **images: str) -> str:
    entries = [
        {"digest": digest, "platform": {"os": "linux", "architecture": "amd64", "variant": level}}
        for level, digest in images.items()
    ]
    return registry.put(tag, INDEX, json.dumps({"manifests": entries}).encode())


def test_images_of_two_indexes_are_compared_by_platform(
    registry: ByteRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = (PublishedImage(says={**FACTS, "slim": slim}, signer=None).publish(registry) for slim in (False, True))
    put_index(registry, "old", v1=old, v2=old)
    put_index(registry, "new", v1=new, v3=new)
    place = f"{registry.host}/{REPOSITORY}"
    document = changed(capsys, f"{place}:old", f"{place}:new")
    (pair,) = document["images"]
    assert (pair["after"]["name"], pair["image_reasons"]) == (f"{place}:new (linux/amd64/v1)", ["slim"])
    assert document["platforms"] == [
        {"kind": "platform", "name": "linux/amd64/v3", "before": None, "after": f"{place}:new"},
        {"kind": "platform", "name": "linux/amd64/v2", "before": f"{place}:old", "after": None},
    ]
    show_changes((f"{place}:old", f"{place}:new"), since="", json=False)
    assert f"## {place}:new (linux/amd64/v3): new\n" in capsys.readouterr().out
    with pytest.raises(UsageError, match="is an index of images, and what it is compared with is one image"):
        show_changes((f"{place}:old", f"{place}@{old}"), since="", json=False)


def test_what_a_registry_has_not_or_is_not_ours_is_said(registry: ByteRegistry) -> None:
    place = f"{registry.host}/{REPOSITORY}"
    ours = PublishedImage(says=FACTS, signer=None).publish(registry, "ours")
    for image in (f"{place}:absent", f"{place}@{DIGEST}"):
        with pytest.raises(RegistryError, match=f"has no image {image}"):
            show_changes((f"{place}:ours", image), since="", json=False)
    attach(registry.client, REPOSITORY, ours, Artifact(media_type="text/plain", content=b"x"))
    artifact = next(one for one, (_, body) in registry.manifests.items() if b"text/plain" in body)
    with pytest.raises(ArtifactError, match="is no image"):
        show_changes((f"{place}:ours", f"{place}@{artifact}"), since="", json=False)
    others = json.loads(registry.manifests[ours][1])
    others["layers"] = others["layers"][:1]  # without image.json
    for tag in ("a", "b"):
        registry.put(tag, MANIFEST, json.dumps({**others, "annotations": {"tag": tag}}).encode())
    with pytest.raises(ArtifactError, match="say nothing of themselves"):
        show_changes((f"{place}:a", f"{place}:b"), since="", json=False)
    registry.blobs[others["layers"][0]["digest"]] = b"something else"
    with pytest.raises(ImageDiffersError, match="is damaged in its registry"):
        show_changes((f"{place}:ours", f"{place}:a"), since="", json=False)


def test_what_was_pushed_in_a_run_is_read_from_the_registry(
    registry: ByteRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"{registry.host}/{REPOSITORY}"
    old, new = (PublishedImage(says={**FACTS, "slim": slim}).publish(registry) for slim in (False, True))
    one = SimpleNamespace(variant="2.19.1-cpu-v3", image="sha256:1", pushed=f"{place}@{old}")
    monkeypatch.setattr(changing, "named_runs", lambda *_: [SimpleNamespace(id=3, matrix="m.yaml", variants=[one])])
    monkeypatch.setattr(changing, "PACKAGE", SimpleNamespace(read=lambda _folder: "a record"))
    monkeypatch.setattr(changing, "recorded_image", lambda _folder: Image(f"{place}@{new}", published=True))
    assert changed(capsys, since="3")["images"][0]["image_reasons"] == ["slim"]
