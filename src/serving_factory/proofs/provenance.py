"""How an image was made: an in-toto Statement v1 with SLSA's provenance v1."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict

from serving_factory.proofs.described import Described

_STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE, CYCLONEDX = "https://slsa.dev/provenance/v1", "https://cyclonedx.org/bom"
_BUILD = "urn:serving-factory:build:1"  # what the parameters mean: docs/proofs.md
_COMMIT = re.compile(r"(?P<url>\S+)#(?P<commit>[0-9a-f]{40})")


def provenance(about: Described) -> bytes:
    """Write the provenance: the same image gives the same bytes."""
    external = {
        "variant": about.variant,
        "release": about.release,
        "flavour": about.flavour,
        "level": about.level,
        "platform": about.platform,
        **about.parameters,
        **({"higher": [asdict(one) for one in about.higher]} if about.higher else {}),
        **({"model": {"name": about.model.name, "version": about.model.version}} if about.model else {}),
    }
    internal = {
        "compile_key": about.compile_key,
        "package_key": about.package_key,
        "compiler": about.compiler,
        "bazel": about.bazel,
        "configs": list(about.configs),
        "arguments": dict(about.arguments),
    }
    return statement(
        about.repository,
        about.digest,
        PROVENANCE,
        {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": external,
                "internalParameters": internal,
                "resolvedDependencies": list(_dependencies(about)),
            },
            "runDetails": {
                "builder": {"id": "urn:serving-factory", "version": {"serving-factory": about.factory}},
                "metadata": {
                    "invocationId": about.package_key,
                    "startedOn": about.started,
                    "finishedOn": about.finished,
                },
                "byproducts": [{"name": "tensorflow_model_server", "digest": {"sha256": about.binary_sha256}}],
            },
        },
    )


def statement(name: str, digest: str, kind: str, predicate: Mapping[str, object]) -> bytes:
    """Write an in-toto statement about an image in a repository of this name."""
    subject = {"name": name, "digest": {"sha256": digest.partition(":")[2]}}
    document = {"_type": _STATEMENT, "subject": [subject], "predicateType": kind, "predicate": predicate}
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()


def _dependencies(about: Described) -> Iterator[Mapping[str, object]]:
    if commit := _COMMIT.fullmatch(about.source):
        yield {"uri": f"git+{commit['url']}@{commit['commit']}", "digest": {"gitCommit": commit["commit"]}}
    else:  # a folder
        yield {"name": "source", "digest": {"sha256": about.source.removeprefix("sha256:")}}
    for name, digest in about.bases.items():
        known = {"digest": {"sha256": digest.partition(":")[2]}} if digest.startswith("sha256:") else {}
        yield {"name": name, "uri": f"docker-image://{name.partition('@')[0]}", **known}
    if model := about.model:
        yield {"name": f"models/{model.name}/{model.version}", "digest": {"sha256": model.sha256}}
    for one in about.externals:
        if one.urls:
            stated = {"digest": {"sha256": one.sha256}} if one.sha256 else {}
            yield {"name": one.name, "uri": f"{one.urls[0]}{f'@{one.ref}' if one.ref else ''}", **stated}
