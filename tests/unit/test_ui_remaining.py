"""What is left of a running stage."""

from __future__ import annotations

import pytest

from serving_factory.ui.remaining import remaining


@pytest.mark.parametrize(
    ("text", "running", "foretold", "left"),
    [
        ("Loading packages", 300.0, None, None),
        ("Loading packages", 300.0, 1000.0, 700.0),
        ("10/1,000 Compiling a.cc", 300.0, None, None),  # too little is done
        ("500/1,000 Compiling a.cc", 30.0, None, None),  # it has just begun: cache hits
        ("500/1,000 Compiling a.cc", 300.0, None, 300.0),
        ("500/1,000 Compiling a.cc", 300.0, 1000.0, 500.0),  # half of 300, half of 700
        ("900/1,000 Compiling a.cc", 900.0, 2000.0, 200.0),  # nine tenths of 100, a tenth of 1,100
        ("900/1,000 Compiling a.cc", 900.0, 800.0, 100.0),  # it has taken longer than was foretold
        ("1,000/1,000", 900.0, 1000.0, 0.0),
        ("0/0", 900.0, None, None),
        ("", 900.0, 800.0, None),
    ],
)
def test_what_is_left(text: str, running: float, foretold: float | None, left: float | None) -> None:
    found = remaining(text, running=running, foretold=foretold)
    assert found == (None if left is None else pytest.approx(left))
