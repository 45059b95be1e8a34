"""`refresh` on a real engine: what is outdated by an archive in a folder, and by the distribution itself."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from .pipeline import IMAGES, MATRIX, V1, Checkout, docker
from .signed_archive import package

BASE = "debian:bookworm-slim"
IMAGE = f"{IMAGES}/refresh:1"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
CHANGELOG = """\
aged (1.1) stable; urgency=high

  * CVE-2026-1234: a fix.

aged (1.0) stable; urgency=low

  * CVE-2020-0001: a fix that the image has.
"""


def aged(folder: Path, version: str) -> Path:
    """A package of the base, with a changelog."""
    text = gzip.compress(CHANGELOG.encode())
    files = {"usr/share/aged": f"{version}\n".encode(), "usr/share/doc/aged/changelog.Debian.gz": text}
    return package(folder, "aged", version=version, files=files)


@pytest.fixture
def on_aged_base(checkout: Checkout, tmp_path: Path) -> Iterator[Checkout]:
    """A checkout whose images stand on a base with a package of its own; the archive has that and nothing else."""
    folder = checkout.folder / "samples" / "packages"
    (tmp_path / "aged.deb").write_bytes(aged(folder, "1.0").read_bytes())
    (tmp_path / "Dockerfile").write_text(
        "FROM serving-factory/base:bookworm\nCOPY aged.deb /tmp/\nRUN dpkg -i /tmp/aged.deb && rm /tmp/aged.deb\n"
    )
    docker("build", "--tag", IMAGE, str(tmp_path))
    checkout.edit(MATRIX, "  labels:", f'  base: {{cpu: "{BASE}"}}\n  labels:')
    checkout.edit(MATRIX, "network:\n", "network:\n  offline: true\n  apt: {mirror: packages}\n")
    stand_in = '"debian:bookworm": "serving-factory/base:bookworm"'
    checkout.edit(MATRIX, stand_in, f'{stand_in}, "{BASE}": "{IMAGE}"')
    yield checkout
    docker("rmi", "--force", IMAGE)


def inside(image: str, script: str) -> list[str]:
    return docker("run", "--rm", "--entrypoint", "sh", image, "-c", script).split()


def test_outdated_packages_are_named_and_upgraded_without_a_compile(on_aged_base: Checkout) -> None:
    checkout, folder = on_aged_base, on_aged_base.folder / "samples" / "packages"
    checkout.build_one().built()
    compiled = checkout.record_file(V1, "compile").read_bytes()
    arguments = ("refresh", "--matrix", MATRIX, "--variant", V1, "--json")
    (image,) = json.loads(checkout.run(*arguments, "--check").built().out)["images"]
    assert (image["outdated"], "aged" in image["unknown"], "libssl3" in image["unknown"]) == ([], False, True)

    aged(folder, "1.1")
    package(folder, "ca-certificates", version="20990101", files={BUNDLE: b"fixed\n"})
    check = checkout.run(*arguments, "--check")
    assert check.code == 74, check.err
    (image,) = json.loads(check.out)["images"]
    certificates, own = sorted(image["outdated"], key=lambda one: str(one["package"]), reverse=True)
    assert (certificates["package"], certificates["available"], certificates["cves"]) == (
        *("ca-certificates", "20990101"),
        None,
    )
    assert own == {"package": "aged", "installed": "1.0", "available": "1.1", "cves": ["CVE-2026-1234"]}

    done = checkout.run(*arguments)
    assert done.built().stages(V1) == dict.fromkeys(("libraries", "inspect", "package", "smoke"), "finished")
    assert checkout.record_file(V1, "compile").read_bytes() == compiled
    made = checkout.record(V1, "package")["outputs"]["image"]
    script = f"dpkg-query -W -f '${{Version}} ' aged; cat /usr/share/aged /{BUNDLE}; "
    script += "sed -n 's/^Version: //p' /var/lib/dpkg/status.d/ca-certificates; ls /factory /inputs 2>&1 | wc -l"
    assert inside(made, script) == ["1.1", "1.1", "fixed", "20990101", "2"]

    assert [event["event"] for event in checkout.run(*arguments).built().events] == ["compared"]
    assert checkout.record(V1, "package")["outputs"]["image"] == made
    assert set(checkout.build_one().built().stages(V1).values()) == {"up_to_date"}

    # The lock file holds for every base that is made of these packages, and no build falls short of it.
    checkout.edit(MATRIX, f'{{cpu: "{BASE}"}}', f"slim of {BASE}")
    checkout.run(*checkout.line("inspect", "--variant", V1)).built()
    checkout.run(*checkout.line("package", "--variant", V1)).built()
    slim = checkout.record(V1, "package")["outputs"]["image"]
    assert inside(slim, f"cat /{BUNDLE}; command -v dpkg || echo none") == ["fixed", "none"]
    lock = checkout.folder / MATRIX.replace(".yaml", ".lock")
    lock.write_text(lock.read_text().replace('"aged": "1.1"', '"aged": "1.2"'))
    error = checkout.run(*checkout.line("inspect", "--variant", V1)).error(24, "PackageError")
    assert "1.1 is the newest aged here, and the lock file requires 1.2" in error["why"]


def test_the_distributions_own_lists_are_compared(checkout: Checkout) -> None:
    check = checkout.run("refresh", "--matrix", MATRIX, "--variant", V1, "--json", "--check")
    assert check.code in {0, 74}, check.err
    (image,) = json.loads(check.out)["images"]
    assert image["unknown"] == [], "the base's and the copied libraries' packages are all Debian's"
    assert image["packages"] > len(image["outdated"])
    assert (check.code == 0) == (image["outdated"] == [])
    for one in image["outdated"]:
        assert one["available"] != one["installed"]
        assert all(re.fullmatch(r"CVE-\d{4}-\d{4,}", cve) for cve in one["cves"] or ())
