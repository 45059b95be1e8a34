"""A pushed image with its proofs, in a real registry: cosign 2 and 3 are asked, with no network but loopback."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from serving_factory.docker.referrers import fallback_tag
from serving_factory.docker.registry import INDEX, Manifest, Registry
from serving_factory.matrix.load import load_matrix
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.proofs import built_externals, externals_in
from serving_factory.proofs.described import SBOM
from serving_factory.proofs.keys import PrivateKey, PublicKey
from serving_factory.proofs.signatures import CommandSigner
from serving_factory.recipes.recipe import recipe_for
from tests.unit.stage_records import write_records

from .pipeline import MATRIX, ROOT, V1, Checkout
from .preflight_workspace import make_archive
from .registry import FaultyProxy, LocalRegistry

PASSWORD = {"COSIGN_PASSWORD": "correct horse"}
# Whatever would leave this machine ends at once.
CLOSED = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
UNLOGGED = ("--insecure-ignore-tlog=true", "--allow-insecure-registry")
SENDING = {"PUT", "PATCH", "POST"}


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network but loopback, and the keys' password."""
    for name, value in {**CLOSED, **PASSWORD}.items():
        monkeypatch.setenv(name, value)


def passes(program: Path, *arguments: str) -> bool:
    return subprocess.run([program, *arguments], check=False).returncode == 0


def both_cosigns_check(tools: Path, image: str, keys: dict[str, bool]) -> None:
    """The image's signature and attestations; the public keys with which they pass, and those with which not."""
    for program in (tools / "cosign", tools / "cosign3"):
        for key, expected in keys.items():
            assert passes(program, "verify", "--key", key, *UNLOGGED, image) is expected
            for kind in ("slsaprovenance1", "cyclonedx"):
                attested = ("verify-attestation", "--key", key, "--type", kind)
                assert passes(program, *attested, *UNLOGGED, image) is expected


def cosign_3_signs(cosign3: Path, folder: Path, registry: Registry, repository: str, digest: str) -> None:
    """As the command of the matrix file, with a pair of its own. It leaves a bundle alone, and is found there."""
    unlogged, theirs = str(folder / "signing.json"), str(folder / "theirs")
    assert passes(cosign3, "signing-config", "create", "--out", unlogged)
    assert passes(cosign3, "generate-key-pair", "--output-key-prefix", theirs)
    public = PublicKey.read(Path(f"{theirs}.pub"))
    assert PrivateKey.read(Path(f"{theirs}.key"), b"correct horse").public.fingerprint == public.fingerprint
    sign = ("sign", "--yes", "--signing-config", unlogged, "--key")
    signer = CommandSigner((str(cosign3), *sign, f"{theirs}.key", "{image}"), public)
    assert not signer.is_signed(registry, repository, digest)
    assert signer.sign(registry, repository, digest)
    # A pair of ours does as well there.
    assert passes(cosign3, *sign, str(folder / "ours" / "cosign.key"), f"{registry.host}/{repository}@{digest}")


def remove_sbom(registry: Registry, repository: str, digest: str) -> None:
    """Take it from the list of what refers to the image."""
    held = registry.manifest(repository, fallback_tag(digest))
    assert held
    kept = [one for one in held.document["manifests"] if one["artifactType"] != SBOM]
    changed = json.dumps({**held.document, "manifests": kept}).encode()
    registry.put_manifest(repository, fallback_tag(digest), Manifest(body=changed, media_type=INDEX))


@pytest.mark.usefixtures("logged_in", "closed")
def test_an_image_is_pushed_with_its_proofs_and_checked_by_cosign_and_by_verify(
    checkout: Checkout, local_registry: LocalRegistry, faulty_proxy: FaultyProxy, tools: Path, tmp_path: Path
) -> None:
    for name in ("ours", "others"):
        assert checkout.run("keys", "new", "--output", str(tmp_path / name)).code == 0
    ours, others = (str(tmp_path / name / "cosign.pub") for name in ("ours", "others"))
    with (checkout.folder / MATRIX).open("a", encoding="utf-8") as file:
        file.write(f"\nsigning: {{key: {tmp_path}/ours/cosign.key, attestations: true}}\n")
    # A repository that no other test uses, of the image that is there.
    place, repository = f"{faulty_proxy.host}/proofs", f"proofs/{checkout.repository}"
    push = checkout.line("push", "--registry", place, "--variant", V1)

    # Full tags, then proofs and the image's signature, then aliases.
    assert checkout.run(*push).built().stages(V1) == {"push": "finished"}
    (pushed,) = checkout.record(V1, "push")["outputs"]["places"]
    (full,) = checkout.record(V1, "package")["outputs"]["tags"]
    digest = pushed["digests"][full]
    assert pushed["signed"] == [digest]
    put = [
        path.rpartition("/")[2] for method, path in faulty_proxy.requests if method == "PUT" and "/manifests/" in path
    ]
    # After cosign 2's signature the bundle that cosign 3 reads, by its digest, and the list that has it.
    signature, aliases = fallback_tag(digest, ".sig"), ["2.19.1-cpu-v1", "2.19.1-cpu-standard"]
    assert (put[0], put[-5], put[-3:]) == (full, signature, [fallback_tag(digest), *aliases])
    registry = Registry(local_registry.host, credentials=local_registry.credentials)
    assert {registry.manifest_digest(repository, tag) for tag in (full, *aliases)} == {digest}

    # Again: nothing is signed or sent.
    faulty_proxy.requests.clear()
    (checkout.record_file(V1, "push")).unlink()
    assert checkout.run(*push).built().stages(V1) == {"push": "finished"}
    assert [one for one in faulty_proxy.requests if one[0] in SENDING and "uploads" not in one[1]] == []

    image = f"{faulty_proxy.host}/{repository}:{full}@{digest}"
    both_cosigns_check(tools, image, {ours: True, others: False})

    # The same from the registry alone; without an engine.
    nowhere = {"DOCKER_HOST": "tcp://127.0.0.1:9"}
    verify = ("verify", image, "--json", "--matrix", MATRIX)
    done_verify = checkout.run(*verify, "--deep", "--key", ours, env=nowhere)
    checks = {one["name"]: one for one in json.loads(done_verify.out)["checks"]}
    assert done_verify.code == 0, done_verify
    assert {name for name, one in checks.items() if one["verdict"] != "ok"} == {"base"}, "it is not in a lock file"
    refused = checkout.run(*verify, "--key", others, env=nowhere)
    assert refused.code == 82, refused
    assert "is not signed with this key" in refused.err

    # cosign 3 reads no signature but those in bundles where there is any, such as another's.
    cosign_3_signs(tools / "cosign3", tmp_path, registry, repository, digest)
    assert passes(tools / "cosign3", "verify", "--key", ours, *UNLOGGED, image)

    remove_sbom(registry, repository, digest)
    refused = checkout.run(*verify, "--key", ours, env=nowhere)
    assert (refused.code, "the registry has no SBOM of it" in refused.err) == (84, True), refused
    assert checkout.run(*push).built().stages(V1) == {"push": "finished"}
    assert checkout.run(*verify, "--key", ours, env=nowhere).code == 0


BUILD = """\
config_setting(name = "windows", values = {"cpu": "x64_windows"})
genrule(name = "made", outs = ["made.h"], cmd = "touch $@", tools = ["@tool//:tool"])
cc_binary(
    name = "tensorflow_model_server",
    srcs = ["main.cc", "made.h"],
    deps = select({":windows": ["@unused//:unused"], "//conditions:default": ["@used//:used"]}),
)
"""


def test_of_bazel_s_archives_those_are_named_that_the_server_is_made_of(tmp_path: Path) -> None:
    """One is compiled in, one is for another platform alone, one is a tool of the build."""
    source, distdir = tmp_path / "source", tmp_path / "distdir"
    servers = source / "tensorflow_serving" / "model_servers"
    servers.mkdir(parents=True)
    distdir.mkdir()
    declared = ['load("@bazel_tools//tools/build_defs/repo:http.bzl", "http_archive")']
    digests = {}
    for name in ("used", "unused", "tool"):
        archive = make_archive(name, "proofs")
        (distdir / f"{name}-1.0.tar.gz").write_bytes(archive)
        digests[name] = hashlib.sha256(archive).hexdigest()
        url = f"https://code.invalid/{name}-1.0.tar.gz"
        rule = f'name = "{name}", urls = ["{url}"], sha256 = "{digests[name]}", strip_prefix = "{name}-1.0"'
        declared.append(f"http_archive({rule})")
    for name in ("rules_cc", "rules_java"):
        shutil.copytree(ROOT / "samples" / "model_server" / "third_party" / name, source / "third_party" / name)
        declared.append(f'local_repository(name = "{name}", path = "third_party/{name}")')
    (source / "WORKSPACE").write_text("\n".join(['workspace(name = "tf_serving")', *declared, ""]))
    (source / "BUILD").touch()
    (source / "LICENSE").touch()
    (servers / "BUILD").write_text(BUILD)
    (servers / "main.cc").write_text("int main() {}\n")
    sample = yaml.safe_load((ROOT / "samples" / "matrix.yaml").read_text(encoding="utf-8"))
    bazel = {**sample["bazel"], "distdir": str(distdir)}
    (tmp_path / "matrix.yaml").write_text(yaml.safe_dump({**sample, "source": str(source), "bazel": bazel}))
    matrix = load_matrix(tmp_path / "matrix.yaml")
    job = Job(recipe=recipe_for(matrix.variants[0], matrix), site=Site(build=tmp_path / "build", models=tmp_path))
    write_records(job.folder, "compile")
    (found,) = externals_in(built_externals(job))
    assert (found.name, found.urls, found.sha256) == (
        "used",
        ("https://code.invalid/used-1.0.tar.gz",),
        digests["used"],
    )
