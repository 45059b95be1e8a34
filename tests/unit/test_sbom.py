"""SBOM and provenance: what they hold, that they are valid, and that the same image gives the same bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from serving_factory.docker.engine import Engine
from serving_factory.docker.referrers import fallback_tag
from serving_factory.errors import ProofError
from serving_factory.pipeline import proofs
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.proofs import described as gather
from serving_factory.pipeline.proofs import externals_in, prove
from serving_factory.proofs.described import IN_TOTO, SBOM, External, Model, Package, os_release, packages_in
from serving_factory.proofs.provenance import provenance
from serving_factory.proofs.sbom import sbom
from serving_factory.proofs.signatures import DSSE, KeySigner, has_proofs
from serving_factory.recipes.recipe import recipe_for

from .byte_registry import ByteRegistry
from .matrices import load
from .published_image import BASE, COMPILE_KEY, KEY, MANIFEST, REPOSITORY, described
from .stage_records import write_records

STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.36-9)
Version: 2.36-9+deb12u10
Homepage: https://www.gnu.org/software/libc/libc.html
Description: a library
 Version: 3 of a text

Package: removed
Status: deinstall ok config-files
Version: 1
"""


def test_dpkg_s_records_are_read() -> None:
    copied = "Package: libssl3\nVersion: 3.0.11\nArchitecture: amd64\nSource: libssl3\n"
    found = packages_in({"status": STATUS.encode(), "status.d/libssl3": copied.encode()})
    assert found == (Package("libc6", "2.36-9+deb12u10", "2.36-9"), Package("libssl3", "3.0.11", "3.0.11"))
    assert [(one.source, one.architecture) for one in found] == [("glibc", "amd64"), ("", "amd64")]


def test_os_release_is_read() -> None:
    assert os_release('# a\nID=debian\nVERSION_ID="12"\n\n') == {"ID": "debian", "VERSION_ID": "12"}


def components(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {one["bom-ref"]: one for one in document["components"]}


def test_an_sbom_is_valid_and_the_same_each_time() -> None:
    text = sbom(described())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text.decode()) is None
    assert sbom(described()) == text
    assert sbom(described(digest="sha256:" + "1" * 64)) != text


def test_an_sbom_is_about_the_image_by_its_digest() -> None:
    about = json.loads(sbom(described()))["metadata"]["component"]
    assert about["hashes"] == [{"alg": "SHA-256", "content": BASE.partition(":")[2]}]
    assert about["type"] == "container"
    assert about["purl"].startswith("pkg:oci/serving@sha256")


def test_an_sbom_names_packages_the_server_libraries_and_tools() -> None:
    found = components(json.loads(sbom(described())))
    assert (
        found["deb:libc6:amd64@2.36-9"]["purl"]
        == "pkg:deb/debian/libc6@2.36-9?arch=amd64&distro=debian-12&upstream=glibc"
    )
    assert found["binary"]["hashes"] == [{"alg": "SHA-256", "content": "f" * 64}]
    assert found["file:/usr/lib/x86_64-linux-gnu/libcudart.so.12"]["hashes"] == [
        {"alg": "SHA-256", "content": "d" * 64}
    ]
    assert {name: found[name]["version"] for name in ("tool:compiler", "tool:bazel")} == {
        "tool:compiler": "gcc-12 (Debian) 12.2.0",
        "tool:bazel": "bazel 6.5.0",
    }
    assert {found[name]["scope"] for name in ("tool:compiler", "tool:bazel")} == {"excluded"}


def test_an_sbom_names_what_bazel_compiled_in() -> None:
    found = components(json.loads(sbom(described())))
    checksum = [{"alg": "SHA-256", "content": "a" * 64}]
    assert found["bazel:zlib"]["externalReferences"] == [
        {"type": "distribution", "url": f"https://{host}.example/zlib-1.3.tar.gz", "hashes": checksum}
        for host in ("mirror", "zlib")
    ]
    said = {one["name"]: one["value"] for one in found["bazel:zlib"]["properties"]}
    assert said["serving-factory:licence-file"] == "LICENSE sha256:" + "1" * 64
    assert found["bazel:abseil"]["version"] == "v1"
    assert {"name": "serving-factory:overridden", "value": "true"} in found["bazel:abseil"]["properties"]
    assert "externalReferences" not in found["bazel:here"]


def test_what_is_no_sbom_is_refused() -> None:
    with pytest.raises(ProofError, match=r"would not be CycloneDX 1\.6"):
        sbom(described(binary_sha256="no digest"))


def test_provenance_says_what_was_built_from_what() -> None:
    document = json.loads(provenance(described()))
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["subject"] == [{"name": f"r.example/{REPOSITORY}", "digest": {"sha256": "b" * 64}}]
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, details = document["predicate"]["buildDefinition"], document["predicate"]["runDetails"]
    assert definition["externalParameters"]["copts"] == ["-mavx"]
    assert definition["internalParameters"]["compile_key"] == COMPILE_KEY
    assert definition["resolvedDependencies"] == [
        {
            "uri": "git+https://github.com/tensorflow/serving.git@" + "a" * 40,
            "digest": {"gitCommit": "a" * 40},
        },
        {"name": "debian:bookworm", "uri": "docker-image://debian:bookworm", "digest": {"sha256": "b" * 64}},
        {"name": "local:base", "uri": "docker-image://local:base"},
        {"name": "zlib", "uri": "https://mirror.example/zlib-1.3.tar.gz", "digest": {"sha256": "a" * 64}},
        {"name": "abseil", "uri": "https://git.example/abseil@v1"},
    ]
    assert details["metadata"]["startedOn"] == "2026-01-01T00:00:00+00:00"
    assert details["byproducts"][0]["digest"] == {"sha256": "f" * 64}


def test_a_folder_of_sources_is_named_by_its_digest() -> None:
    definition = json.loads(provenance(described(source="1" * 64)))["predicate"]["buildDefinition"]
    assert definition["resolvedDependencies"][0] == {"name": "source", "digest": {"sha256": "1" * 64}}


# --- what the pipeline knows ------------------------------------------------------------------------------------------


class FakeEngine:
    """An engine with an image."""

    def read_files(self, _image: str, *_paths: str, **_: str) -> dict[str, bytes]:
        return {"/var/lib/dpkg/status": STATUS.encode(), "/usr/lib/os-release": b"ID=debian\nVERSION_ID=12\n"}


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    matrix = load(tmp_path)
    site = Site(build=tmp_path, models=tmp_path, connect=lambda: cast("Engine", FakeEngine()))
    made = Job(recipe=recipe_for(matrix.variants[0], matrix), site=site)
    write_records(made.folder, "compile", "extract", "package")
    library = made.artifact / "rootfs" / "usr" / "lib" / "libssl.so.3"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"ssl")
    (library.parent / "libssl.so").symlink_to("libssl.so.3")
    monkeypatch.setattr(proofs, "built_externals", lambda _: answers(tmp_path / "externals"))
    return made


def answers(folder: Path, **other: str) -> Path:
    """What externals.sh leaves."""
    folder.mkdir(exist_ok=True)
    for name in ("query.build", "packages", "licences", "overrides"):
        (folder / name).write_text(other.get(name.replace(".", "_"), ""))
    return folder


@pytest.mark.parametrize("at", ["@", "@@"])
def test_only_what_the_server_depends_on_is_named(tmp_path: Path, at: str) -> None:
    """The queries' answers as Bazel 0.17.2, 0.24.1, 2.1.0, 4.2.3 and 7.7.1 print them; with modules there are two @."""
    declared = "\n".join(
        f'http_archive(\n  name = "{name}",\n  urls = ["https://a.b/{name}.tar.gz"],\n  sha256 = "{64 * name[0]}",\n)'
        for name in ("ab", "unused")
    )
    folder = answers(
        tmp_path / "externals",
        query_build=declared,
        packages=f"\n{at}ab//\n{at}ab//sub/folder\n{at}bazel_tools//tools/cpp\n{at}here//\ntensorflow_serving/core\n",
        licences=f"{'1' * 64}  ab/LICENSE\n{'2' * 64}  ab/NOTICE.md\n{'3' * 64}  unused/LICENSE\n",
        overrides="here\n",
    )
    assert externals_in(folder) == (
        External(
            name="ab",
            urls=("https://a.b/ab.tar.gz",),
            sha256="a" * 64,
            ref="",
            overridden=False,
            licences=(("LICENSE", "1" * 64), ("NOTICE.md", "2" * 64)),
        ),
        External(name="here", urls=(), sha256="", ref="", overridden=True, licences=()),
    )


def test_what_bazel_7_declares_itself_is_named_only_where_it_is_downloaded(tmp_path: Path) -> None:
    recorded = Path(__file__).parent / "recorded" / "preflight-bazel-7.7.1" / "query.build"
    names = ("bazel_skylib", "host_platform", "internal_platforms_do_not_use", "platforms", "r", "rules_java_builtin")
    folder = answers(
        tmp_path / "externals",
        query_build=recorded.read_text(encoding="utf-8"),
        packages="".join(f"@{name}//\n" for name in names),
    )
    assert [one.name for one in externals_in(folder)] == ["bazel_skylib", "r"]


@pytest.fixture
def registry() -> Iterator[ByteRegistry]:
    with ByteRegistry.run() as made:
        yield made


def test_the_records_say_what_an_image_is(job: Job) -> None:
    about = gather(job, "r.example/team/serving", BASE, image="sha256:image")
    assert about.variant == job.recipe.variant.id
    assert [one.name for one in about.packages] == ["libc6"]
    assert [one.path for one in about.libraries] == ["/usr/lib/libssl.so.3"]
    assert about.distribution["ID"] == "debian"
    sbom(about)
    provenance(about)


def test_an_image_is_proven_once(job: Job, registry: ByteRegistry) -> None:
    digest = registry.put("x", MANIFEST, b"{}")
    signer = KeySigner(KEY, attestations=True)
    prove(job, registry.client, REPOSITORY, digest, signer, image="sha256:image", model=None)
    listed = json.loads(registry.manifests[registry.tags[fallback_tag(digest)]][1])["manifests"]
    proofs = [one for one in listed if one["artifactType"] in {SBOM, IN_TOTO}]
    assert len(proofs) == 2
    assert all(signer.is_signed(registry.client, REPOSITORY, one["digest"]) for one in proofs)
    assert has_proofs(registry.client, REPOSITORY, digest, signer)
    assert signer.is_signed(registry.client, REPOSITORY, digest)
    attested = json.loads(registry.manifests[registry.tags[fallback_tag(digest, ".att")]][1])["layers"]
    assert {one["annotations"]["predicateType"] for one in attested} == {
        "https://slsa.dev/provenance/v1",
        "https://cyclonedx.org/bom",
    }
    assert {one["mediaType"] for one in attested} == {DSSE}
    writes = len(registry.writes)
    prove(job, registry.client, REPOSITORY, digest, signer, image="sha256:image", model=None)
    assert len(registry.writes) == writes


def test_what_is_missing_of_the_proofs_is_made_again(job: Job, registry: ByteRegistry) -> None:
    """Also attestations of an image that was signed before the matrix file asked for them."""
    digest, plain, attesting = registry.put("x", MANIFEST, b"{}"), KeySigner(KEY), KeySigner(KEY, attestations=True)

    def made(signer: KeySigner) -> bool:
        before = has_proofs(registry.client, REPOSITORY, digest, signer)
        prove(job, registry.client, REPOSITORY, digest, signer, image="sha256:image", model=None)
        return not before and has_proofs(registry.client, REPOSITORY, digest, signer)

    assert [made(plain), made(plain), made(attesting), made(attesting)] == [True, False, True, False]
    del registry.tags[fallback_tag(digest)]
    assert plain.is_signed(registry.client, REPOSITORY, digest) is False
    assert made(plain)


def test_a_model_inside_is_named(job: Job) -> None:
    model = Model(name="ranker", version=7, sha256="4" * 64, finished="2026-02-01T00:00:00+00:00")
    about = gather(job, "r.example/team/serving", BASE, image="sha256:image", model=model)
    bom = json.loads(sbom(about))
    (found,) = (one for one in bom["components"] if one["type"] == "machine-learning-model")
    assert (found["name"], found["version"], found["hashes"][0]["content"]) == ("ranker", "7", "4" * 64)
    assert "model" in next(one for one in bom["dependencies"] if one["ref"] == "image")["dependsOn"]
    predicate = json.loads(provenance(about))["predicate"]
    assert predicate["buildDefinition"]["externalParameters"]["model"] == {"name": "ranker", "version": 7}
    named = {"name": "models/ranker/7", "digest": {"sha256": "4" * 64}}
    assert named in predicate["buildDefinition"]["resolvedDependencies"]
    assert predicate["runDetails"]["metadata"]["finishedOn"] == model.finished
