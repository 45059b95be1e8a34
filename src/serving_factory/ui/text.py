"""Text made fit to print: sizes, durations, numbers of things, foreign text.

Foreign text (a compiler's, a server's) must be able neither to move a cursor nor to give an order to a CI
runner.
"""

from __future__ import annotations

import re

__all__ = ["clean", "clean_lines", "count", "duration", "size"]

_KIB = 1024
_MIB = 1024 * 1024
_GIB = 1024 * 1024 * 1024
_SECONDS_WITH_TENTHS = 10
_FIRST_BEYOND_LATIN_1 = 0x100

# ECMA-48: CSI sequences, then strings (OSC, DCS, SOS, PM, APC) up to their terminator, then the short
# escapes.
_ESCAPE_SEQUENCES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_].*?(?:\x07|\x1b\\|$)|[ -/]*[0-~])")

# Control characters of both kinds, then invisible ones: those that turn the writing direction, break lines,
# or are passed over by .NET's culture-sensitive comparison, with which GitHub's runner looks for commands;
# then what no encoding can write.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def clean(text: str) -> str:
    r"""Give foreign text as one harmless line.

    Escape sequences are dropped, of a line that was rewritten with `\r` the last state is kept, newlines
    become spaces, other control and invisible characters are shown as `\x07`. What GitHub's runner would
    take for a command (`::` at the start, whatever white space stands before it, or `##[` anywhere:
    actions/runner, ActionCommand.cs) is broken by a space.
    """
    text = _ESCAPE_SEQUENCES.sub("", text).rstrip("\r\n")
    text = " ".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")).replace("\t", "    ")
    text = _UNSAFE.sub(_visible, text)
    if text.lstrip().startswith("::"):
        text = text.replace("::", ": :", 1)
    return text.replace("##[", "## [")


def clean_lines(text: str) -> tuple[str, ...]:
    """Give foreign text as harmless lines, without the empty ones at its end."""
    return tuple(clean(line) for line in text.rstrip().split("\n")) if text.strip() else ()


def size(number: int) -> str:
    """Say a number of bytes: `12.3 MiB`; below one MiB in KiB, from one GiB on in GiB."""
    if number < _KIB:
        return f"{number} B"
    if number < _MIB:
        return f"{number / _KIB:.0f} KiB"
    return f"{number / _MIB:,.1f} MiB" if number < _GIB else f"{number / _GIB:,.1f} GiB"


def count(number: int, noun: str) -> str:
    """Say how many: `1 place`, `2 places`."""
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """Say a time span: `2.1 s`, `42 s`, `3 min 05 s`, `2 h 07 min`."""
    seconds = max(0.0, seconds)
    tenths = round(seconds, 1)
    if tenths < _SECONDS_WITH_TENTHS:
        return f"{tenths:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _visible(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < _FIRST_BEYOND_LATIN_1 else f"\\u{code:04x}"
