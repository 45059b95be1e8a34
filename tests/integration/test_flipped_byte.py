"""A byte that a disk flipped in Bazel's disk cache costs the action that needed it, and nothing else."""

from __future__ import annotations

from pathlib import Path

from .pipeline import V1, Checkout
from .tiny import BUILD, in_caches

FLIP = (
    'find /cache -path "*/cas/*" -type f -size +0 | while read -r file; do '
    'chmod u+w "$file"; size=$(stat -c %s "$file"); '
    'printf "\\377" | dd of="$file" bs=1 seek=$((size / 2)) conv=notrunc status=none; done'
)


def test_a_flipped_byte_costs_its_action_and_no_build(tiny: Checkout, tmp_path: Path) -> None:
    arguments = tiny.line("compile", "--variant", V1)
    tiny.run(*arguments).built()
    first = tiny.record(V1, "compile")["outputs"]
    in_caches(tiny, tmp_path / "flip", "disk", FLIP)
    tiny.record_file(V1, "compile").unlink()
    with tiny.edited(BUILD, "cc_binary", "# looked at again\ncc_binary"):
        outcome = tiny.run(*arguments).built()
    again = tiny.record(V1, "compile")["outputs"]
    assert outcome.retried == []
    assert again["bazel_ran"]
    assert again["local_actions"] == first["local_actions"]
    assert again["binary_sha256"] == first["binary_sha256"]
