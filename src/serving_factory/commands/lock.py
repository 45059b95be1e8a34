"""`lock`: pins what builds start from in the lock file, and compares that file with what there is upstream."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from serving_factory.commands.shared import Asked, print_json, width, write
from serving_factory.errors import FactoryError, MovedError, NotLockedError, UnknownNameError, UsageError, VanishedError
from serving_factory.matrix.lockfile import lock_path, lock_text
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import did_you_mean
from serving_factory.output.text import Column, count, table
from serving_factory.pipeline.pins import Pin, Upstream, compare_pins, locked_by, make_pins
from serving_factory.pipeline.records import write_atomically
from serving_factory.recipes.pins import Needs, needs_of

_SHOWN = 12
"""Digits of a digest: enough to tell apart; the file and --json have all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRow:
    """A pin as `./factory lock` shows it.

    Args:
        pin: the base image, or Bazel and its version.
        change: what became of it, in a word.
        locked: what the lock file had.
        found: what there is upstream.
    """

    pin: str
    change: str
    locked: str = ""
    found: str = ""


def pins_table(rows: Sequence[PinRow], *, width: int | None = None) -> str:
    """The pins, a line each, and how many have which change."""
    if not rows:
        return "Nothing is to be locked: no base comes from a registry, and the catalogue knows every checksum.\n"
    columns = (Column("pin"), Column("result"), Column("was locked"), Column("is now"))
    cells = [(row.pin, row.change, _short(row.locked), _short(row.found)) for row in rows]
    changes = [row.change for row in rows]
    told = ", ".join(f"{changes.count(change)} {change}" for change in dict.fromkeys(changes))
    count = "1 pin" if len(rows) == 1 else f"{len(rows)} pins"
    return f"{table(columns, cells, width=width)}\n{count}: {told}.\n"


def unpinned_note(bases: Sequence[str]) -> str:
    """Say which bases nothing pins, and how to pin them."""
    named = ", ".join(bases)
    return f"Not pinned: {named}. `./factory lock` pins base images by digest; `build --locked` insists on it.\n"


def _short(content: str) -> str:
    kind, colon, digits = content.rpartition(":")
    return f"{kind}{colon}{digits[:_SHOWN]}"


_RANKS: Mapping[type[FactoryError], int] = {VanishedError: 0, NotLockedError: 2, MovedError: 3}
"""What is told first, and gives the exit code; all others stand between: what could not be found out may be bad."""


def lock(asked: Asked, *, update: str | bool | None, dry_run: bool, json: bool) -> None:
    """Pin what is not pinned yet.

    Args:
        asked: whose matrix.
        update: True to make every pin again, or the name of one.
        dry_run: write nothing.
        json: print one JSON document.

    Raises:
        UnknownNameError: nothing of the name to update is needed.
        FactoryError: something could not be pinned; all else is, and what was locked stays.
    """
    matrix = asked.load()
    needs = needs_of(matrix.variants, matrix)
    pins = make_pins(needs, matrix.lock, Upstream(matrix.network, _report), _chosen(needs, update=update))
    made, file = locked_by(pins, matrix.lock), lock_path(asked.file)
    changed = (made.bases, made.bazel) != (matrix.lock.bases, matrix.lock.bazel)
    if changed and not dry_run:
        write_atomically(file, lock_text(made, matrix=asked.file.name))
    _print(pins, matrix, written=changed and not dry_run, json=json)
    if changed and not json:
        done = "would be written" if dry_run else "was written"
        write(f"{file} {done}. `./factory generate --matrix {asked.file}` takes it over into the Dockerfiles.\n")
    _end(pins, "could not be pinned; what was locked stays", json=json)


def check(asked: Asked, *, update: str | bool | None, dry_run: bool, json: bool) -> None:
    """Compare the lock file with what there is upstream.

    Raises:
        UsageError: an option is given that has no meaning here.
        VanishedError, NotLockedError, MovedError, FactoryError: not all is as locked; the message tells what.
    """
    if update or dry_run:
        raise UsageError("--check changes nothing", remedy="leave --update and --dry-run away, or --check")
    matrix = asked.load()
    pins = compare_pins(needs_of(matrix.variants, matrix), matrix.lock, Upstream(matrix.network, _report))
    _print(pins, matrix, written=False, json=json)
    _end(pins, "are not as locked", json=json)


def _chosen(needs: Needs, *, update: str | bool | None) -> Callable[[str], bool]:
    """Whether a pin is made again."""
    if not isinstance(update, str):
        return lambda _name: bool(update)
    names = [*(base.name for base in needs.bases), *needs.bazels]
    if update not in names:
        listed = f"there are: {', '.join(names)}" if names else "nothing is to be locked"
        raise UnknownNameError(
            f"nothing that builds start from is named {update}",
            remedy=str(did_you_mean(update, names, otherwise=listed)),
        )
    return lambda name: name == update


def _report(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _print(pins: Sequence[Pin], matrix: Matrix, *, written: bool, json: bool) -> None:
    if json:
        print_json({"file": str(matrix.lock.file), "written": written, "pins": [_document(pin) for pin in pins]})
    else:
        rows = [PinRow(pin=_name(pin), change=pin.change.value, locked=pin.locked, found=pin.found) for pin in pins]
        write(pins_table(rows, width=width()))


def _document(pin: Pin) -> dict[str, str]:
    document = {
        "name": pin.name,
        "kind": "base" if pin.is_base else "bazel",
        "change": pin.change.value,
        "locked": pin.locked,
        "found": pin.found,
    }
    return {**document, "error": str(pin.error)} if pin.error else document


def _name(pin: Pin) -> str:
    return pin.name if pin.is_base else f"Bazel {pin.name}"


def _end(pins: Sequence[Pin], what: str, *, json: bool) -> None:
    """Raise what is the worst of it, and tell the rest with it."""
    found = sorted((pin.error for pin in pins if pin.error is not None), key=lambda error: _RANKS.get(type(error), 1))
    if len(found) > 1:
        why = "" if json else "\n".join(str(error) for error in dict.fromkeys(found))
        raise type(found[0])(f"{count(len(found), 'pin')} of {len(pins)} {what}", why=why)
    if found:
        raise found[0]
