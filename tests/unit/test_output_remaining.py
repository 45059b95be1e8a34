"""What is left of a running stage."""

from __future__ import annotations

import pytest

from serving_factory.output.progress import Counted, remaining, see


def after(*texts: tuple[float, str]) -> Counted | None:
    counted = None
    for now, text in texts:
        counted = see(counted, text, now)
    return counted


@pytest.mark.parametrize(
    ("text", "running", "expected", "left"),
    [
        ("Loading packages", 300.0, None, None),
        ("Loading packages", 300.0, 1000.0, 700.0),
        ("", 900.0, 800.0, None),
        ("10/1,000 Compiling a.cc", 300.0, None, None),  # too little is done
        ("500/1,000 Compiling a.cc", 300.0, None, 300.0),
        ("500/1,000 Compiling a.cc", 300.0, 1000.0, 675.0),  # a sixteenth of 300, the rest of 700
        ("900/1,000 Compiling a.cc", 900.0, 2000.0, 443.9),
        ("300/1,000 Compiling a.cc", 1000.0, 1000.0, 713.2),  # when what was expected is over, there is still a rest
        ("1,000/1,000", 900.0, 1000.0, 0.0),
        ("0/0", 900.0, None, None),
    ],
)
def test_what_is_left(text: str, running: float, expected: float | None, left: float | None) -> None:
    found = remaining(after((0.0, text)), running=running, expected=expected, now=running)
    assert found == (None if left is None else pytest.approx(left, abs=0.1))


def test_a_total_that_grows_gives_no_estimate() -> None:
    """Seen of 1.15.0: 134 of 140 after two minutes, 1,170 of 1,856 after six, 3,716 from the eleventh on."""
    texts = [(120.0, "134/140 a"), (360.0, "1,170/1,856 a"), (660.0, "2,310/3,716 a"), (670.0, "2,320/3,720 a")]
    for count, (now, _) in enumerate(texts, start=1):
        assert remaining(after(*texts[:count]), running=now, expected=None, now=now) is None
    assert remaining(after(*texts), running=730.0, expected=None, now=730.0) is not None


def test_an_end_that_moves_away_is_none() -> None:
    # Bazel 0.24 on 1.15.0, after 43 minutes
    counted = None
    for seconds, text in ((0, "3,635/4,242 a"), (120, "4,208/4,242 a"), (180, "4,297/4,301 a"), (190, "4,348/4,352 a")):
        counted = see(counted, text, float(seconds))
        left = remaining(counted, running=2600.0, expected=None, now=float(seconds))
    assert left is None


def test_an_end_that_moves_away_slowly_is_none() -> None:
    left, counted = [], None
    for step in range(40):
        counted = see(counted, f"{4000 + 5 * step}/{4010 + 5 * step} a", 10.0 * step)
        left.append(remaining(counted, running=2600.0, expected=None, now=10.0 * step))
    assert left == [None] * 40


def test_the_end_of_bazel_is_no_way_back_to_what_was_expected() -> None:
    collecting = after((0.0, "900/1,000 Linking"), (70.0, "[binary_build 3/3] RUN collect.sh"))
    assert remaining(collecting, running=80.0, expected=3000.0, now=80.0) is None
    clipped = after((0.0, "900/1,000 Linking"), (70.0, "still at work; BuildKit shows no more of it"))
    assert remaining(clipped, running=80.0, expected=3000.0, now=80.0) is not None


def test_the_estimate_does_not_jump_when_the_estimated_time_is_over() -> None:
    counted = after((0.0, "300/1,000 a"))
    before, behind = (remaining(counted, running=now, expected=1680.0, now=now) for now in (1679.0, 1681.0))
    assert before is not None
    assert behind == pytest.approx(before, rel=0.01)
