"""A pushed image with its proofs, in a real registry: cosign 2 and 3 are asked, with no network but loopback."""

from __future__ import annotations

import hashlib
import json
import os
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
from serving_factory.proofs.keys import PrivateKey, PublicKey
from serving_factory.proofs.sbom import SBOM
from serving_factory.proofs.signatures import CommandSigner
from serving_factory.recipes.recipe import recipe_for
from tests.unit.stage_records import write_records

from .pipeline import MATRIX, ROOT, V1, Checkout
from .preflight_workspace import make_archive
from .registry import FaultyProxy, LocalRegistry

# Whatever would leave this machine ends at once.
CLOSED = {"HTTP_PROXY": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
PASSWORD = {"COSIGN_PASSWORD": "correct horse"}
SENDING = {"PUT", "PATCH", "POST"}
UNLOGGED = ("--insecure-ignore-tlog=true", "--allow-insecure-registry")


@pytest.mark.usefixtures("logged_in")
def test_an_image_is_pushed_with_its_proofs_and_checked_by_cosign_and_by_verify(
    checkout: Checkout,
    local_registry: LocalRegistry,
    faulty_proxy: FaultyProxy,
    tools: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("ours", "others"):
        assert checkout.run("keys", "new", "--output", str(tmp_path / name), env=PASSWORD).code == 0
    ours, others = (str(tmp_path / name / "cosign.pub") for name in ("ours", "others"))
    with (checkout.folder / MATRIX).open("a", encoding="utf-8") as file:
        file.write(f"\nsigning: {{key: {tmp_path}/ours/cosign.key, attestations: true}}\n")
    # A repository that no other test uses, of the image that is there.
    place, repository = f"{faulty_proxy.host}/proofs", f"proofs/{checkout.repository}"
    push = checkout.line("push", "--registry", place, "--variant", V1)

    # Full tags, then proofs and the image's signature, then aliases.
    assert checkout.run(*push, env=PASSWORD).built().stages(V1) == {"push": "finished"}
    (pushed,) = checkout.record(V1, "push")["outputs"]["places"]
    (full,) = checkout.record(V1, "package")["outputs"]["tags"]
    digest = pushed["digests"][full]
    assert pushed["signed"] == [digest]
    put = [
        path.rpartition("/")[2] for method, path in faulty_proxy.requests if method == "PUT" and "/manifests/" in path
    ]
    signature = f"{digest.replace(':', '-')}.sig"
    aliases = ["2.19.1-cpu-v1", "2.19.1-cpu-standard"]
    # The bundle that cosign 3 reads is put after the signature of cosign 2, by its digest, and then the list of it.
    assert (put[0], put[-5], put[-3:]) == (full, signature, [fallback_tag(digest), *aliases])
    registry = Registry(local_registry.host, credentials=local_registry.credentials)
    assert {registry.manifest_digest(repository, tag) for tag in (full, *aliases)} == {digest}

    # Again: nothing is signed or sent.
    faulty_proxy.requests.clear()
    (checkout.record_file(V1, "push")).unlink()
    assert checkout.run(*push, env=PASSWORD).built().stages(V1) == {"push": "finished"}
    assert [one for one in faulty_proxy.requests if one[0] in SENDING and "uploads" not in one[1]] == []

    image = f"{faulty_proxy.host}/{repository}:{full}@{digest}"

    def cosign(program: str, *arguments: str, code: int | None = 0) -> None:
        environment = {**os.environ, **CLOSED, **PASSWORD}
        done = subprocess.run(
            [tools / program, *arguments], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == code if code is not None else done.returncode != 0, done

    def both_cosigns_verify() -> None:
        for program in ("cosign", "cosign3"):
            cosign(program, "verify", "--key", ours, *UNLOGGED, image)
            cosign(program, "verify", "--key", others, *UNLOGGED, image, code=None)
            for kind in ("slsaprovenance1", "cyclonedx"):
                attested = (program, "verify-attestation", "--type", kind, *UNLOGGED, image)
                cosign(*attested, "--key", ours)
                cosign(*attested, "--key", others, code=None)

    both_cosigns_verify()

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

    # cosign 3 as the command that signs, with a pair of its own; it leaves a bundle alone, and reads nothing but bundles.
    unlogged, theirs = str(tmp_path / "signing.json"), str(tmp_path / "theirs")
    cosign("cosign3", "signing-config", "create", "--out", unlogged)
    cosign("cosign3", "generate-key-pair", "--output-key-prefix", theirs)
    sign = ("sign", "--yes", "--signing-config", unlogged, "--key")
    public = PublicKey.read(Path(f"{theirs}.pub"))
    assert PrivateKey.read(Path(f"{theirs}.key"), b"correct horse").public.fingerprint == public.fingerprint
    for name, value in {**CLOSED, **PASSWORD}.items():
        monkeypatch.setenv(name, value)
    by_command = CommandSigner((str(tools / "cosign3"), *sign, f"{theirs}.key", "{image}"), public)
    assert not by_command.is_signed(registry, repository, digest)
    assert by_command.sign(registry, repository, digest)
    cosign("cosign3", *sign, str(tmp_path / "ours" / "cosign.key"), image)
    both_cosigns_verify()

    # Someone removes the SBOM; the same push puts it back.
    tag = fallback_tag(digest)
    beside = json.loads(registry.manifest(repository, tag).body)  # type: ignore[union-attr] # it is there
    beside["manifests"] = [one for one in beside["manifests"] if one["artifactType"] != SBOM]
    registry.put_manifest(repository, tag, Manifest(body=json.dumps(beside).encode(), media_type=INDEX))
    refused = checkout.run(*verify, "--key", ours, env=nowhere)
    assert (refused.code, "the registry has no SBOM of it" in refused.err) == (84, True), refused
    assert checkout.run(*push, env=PASSWORD).built().stages(V1) == {"push": "finished"}
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
