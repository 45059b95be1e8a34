"""What a matrix file chooses about images, on a real engine: their user, their base, and images made from them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from .pipeline import BUILD_STAGES, LABEL, MATRIX, ROOT, V1, Checkout, docker

if TYPE_CHECKING:
    from .demo_story import Demo


def packaged_again() -> dict[str, str]:
    """What becomes of each stage where all before `package` is up to date."""
    first = BUILD_STAGES.index("package")
    return {stage: "up_to_date" if index < first else "finished" for index, stage in enumerate(BUILD_STAGES)}


def test_the_documented_recipe_for_images_made_from_these(demo: Demo, sample_image: str, tmp_path: Path) -> None:
    section = (ROOT / "docs" / "matrix.md").read_text(encoding="utf-8").partition("## Images made from these")[2]
    recipe = re.search(r"```dockerfile\n(.*?)```", section, re.DOTALL)
    assert recipe
    lines = recipe[1].splitlines()
    assert lines[0].startswith("FROM ")
    name = f"{demo.checkout.repository}:child"
    (tmp_path / "Dockerfile").write_text("\n".join([f"FROM {demo.checkout.repository}:{V1}", *lines[1:]]))
    (tmp_path / "warm_up.sh").write_text("#!/bin/sh\nid -u\nstat -c %a /models/mine\n")
    docker("tag", sample_image, f"{demo.checkout.repository}:{V1}")  # a name that no other test has moved since
    docker("build", "--label", f"{LABEL}={demo.checkout.mark}", "--tag", name, str(tmp_path))
    assert docker("run", "--rm", "--entrypoint", "warm_up.sh", name).split() == ["65532", "755"]
    assert docker("run", "--rm", name, "--version").startswith("TensorFlow ModelServer: 2.19.1")


def test_another_user_makes_the_image_again_and_compiles_nothing(checkout: Checkout) -> None:
    checkout.edit(MATRIX, "  labels:", "  user: 1000\n  labels:")
    assert checkout.build_one().built().stages(V1) == packaged_again()
    image = checkout.record(V1, "package")["outputs"]["image"]
    assert docker("inspect", "--format", "{{.Config.User}}", image).strip() == "1000:1000"
