"""Where the inputs of real builds are: no test may download them, and a build takes hours."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "REAL_MATRIX"


@pytest.fixture(scope="session")
def real_matrix() -> Path:
    """The matrix file of an offline build, with all its inputs."""
    named = os.environ.get(VARIABLE, "")
    if not named:
        pytest.skip(f"{VARIABLE} names no matrix file with the inputs of an offline build (docs/closed-network.md)")
    return Path(named).absolute()
