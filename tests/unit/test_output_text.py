from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving_factory.output.text import clean, clean_lines, duration, size


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1024 * 1024, "1.0 MiB"),
        (12_897_485, "12.3 MiB"),
        (1024**3 - 2**20, "1,023.0 MiB"),
        (7 * 1024**3, "7.0 GiB"),
        (4_200_000_000_000, "3,911.6 GiB"),
    ],
)
def test_size(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 s"),
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.6, "1 min 00 s"),
        (71.4, "1 min 11 s"),
        (3599.7, "1 h 00 min"),
        (7620, "2 h 07 min"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("foreign", "harmless"),
    [
        ("plain", "plain"),
        ("\x1b[31merror:\x1b[0m bad", "error: bad"),
        ("\x1b]0;new title\x07text", "text"),
        ("\x1b]8;;http://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]0;never ended", ""),
        ("up\x1b[2A\x1b[2Kgone", "upgone"),
        ("\x1b\x1b[[31m", "\\x1b31m"),
        ("\x9b31m", "\\x9b31m"),
        ("10 %\r20 %\r30 %\r\n", "30 %"),
        ("bell\x07 back\x08space null\x00", "bell\\x07 back\\x08space null\\x00"),
        ("a\tb", "a    b"),
        ("a\nb", "a b"),
        ("right\u202eleft", "right\\u202eleft"),
        ("\ud800", "\\ud800"),
        ("::error::no", ": :error::no"),
        ("  \t::stop-commands::x", "      : :stop-commands::x"),
        ("\x1b[0m::error::no", ": :error::no"),
        ("\u200b::error::no", "\\u200b::error::no"),
        ("a::b", "a::b"),
        ("text ##[error]no", "text ## [error]no"),
    ],
)
def test_clean(foreign: str, harmless: str) -> None:
    assert clean(foreign) == harmless


@given(st.text(alphabet=st.sampled_from("\x1b[]:#\r\n\t A0m\x07\\\u200b\x9b")))
def test_clean_leaves_nothing_that_acts(text: str) -> None:
    cleaned = clean(text)
    assert cleaned.isprintable()
    assert not cleaned.lstrip().startswith("::")
    assert "##[" not in cleaned
    assert clean(cleaned) == cleaned


def test_clean_lines_keeps_lines_and_drops_empty_ones_at_the_end() -> None:
    assert clean_lines("a\r\n\nb\x1b[K\n\n") == ("a", "", "b")
    assert clean_lines(" \n ") == ()
