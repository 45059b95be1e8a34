"""`lock`: pins what builds start from in the lock file, and compares that file with upstream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from serving_factory.commands.shared import Asked, progress, show, width, write
from serving_factory.errors import FactoryError, MovedError, NotLockedError, UnknownNameError, UsageError, VanishedError
from serving_factory.matrix.lockfile import lock_path, lock_text
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import DidYouMean
from serving_factory.output.text import count, table, words
from serving_factory.pipeline.pins import Pin, Upstream, compare_pins, locked_by, make_pins
from serving_factory.pipeline.records import write_atomically
from serving_factory.recipes.pins import Needs, needs_of

_SHOWN = 12  # digits of a digest in the table; the file and --json have all
# Which error gives the exit code, the least rank first; all others have rank 1: what is unknown may be bad.
_RANKS: Mapping[type[FactoryError], int] = {VanishedError: 0, NotLockedError: 2, MovedError: 3}


def lock(asked: Asked, *, update: str | bool | None, dry_run: bool, json: bool) -> None:
    """Pin what is not pinned; `update` is True to make every pin again, or the name of one."""
    matrix = asked.load()
    needs = needs_of(matrix.variants, matrix)
    pins = make_pins(needs, matrix.lock, Upstream(matrix.network, progress), _chosen(needs, update=update))
    made, file = locked_by(pins, matrix.lock), lock_path(asked.file)
    changed = (made.bases, made.bazel) != (matrix.lock.bases, matrix.lock.bazel)
    if changed and not dry_run:
        write_atomically(file, lock_text(made, matrix=asked.file.name))
    _show(pins, matrix, written=changed and not dry_run, json=json)
    if changed and not json:
        done = "Would write" if dry_run else "Wrote"
        write(f"{done} {file}. `./factory generate --matrix {asked.file}` puts the digests into the Dockerfiles.\n")
    _raise_worst(pins, "could not be pinned; the lock file keeps what it had", json=json)


def check(asked: Asked, *, update: str | bool | None, dry_run: bool, json: bool) -> None:
    """Compare the lock file with upstream."""
    if update or dry_run:
        raise UsageError("--check changes nothing", remedy="give either --check, or --update and --dry-run")
    matrix = asked.load()
    pins = compare_pins(needs_of(matrix.variants, matrix), matrix.lock, Upstream(matrix.network, progress))
    _show(pins, matrix, written=False, json=json)
    _raise_worst(pins, "differ from the lock file", json=json)


def _chosen(needs: Needs, *, update: str | bool | None) -> Callable[[str], bool]:
    """Whether a pin is made again."""
    if not isinstance(update, str):
        return lambda _name: bool(update)
    names = [*(base.name for base in needs.bases), *needs.bazels]
    if update not in names:
        listed = f"pins: {', '.join(names)}" if names else "there is nothing to lock"
        raise UnknownNameError(f"no pin is named {update}", remedy=str(DidYouMean(update, names, listed)))
    return lambda name: name == update


def _show(pins: Sequence[Pin], matrix: Matrix, *, written: bool, json: bool) -> None:
    documents = [
        {
            "name": pin.name,
            "kind": "base" if pin.base else "bazel",
            "change": pin.change,
            "locked": pin.locked or None,
            "found": pin.found or None,
            "error": str(pin.error) if pin.error else None,
        }
        for pin in pins
    ]
    document = {"file": matrix.lock.file, "written": written, "pins": documents}
    show(document, pins_table(pins, width=width()), json=json)


def pins_table(pins: Sequence[Pin], *, width: int | None = None) -> str:
    """A line for each pin, and how many have which change."""
    if not pins:
        return "There is nothing to lock: no base comes from a registry, and the catalogue knows every checksum.\n"
    cells = [(pin.title, pin.change, _short(pin.locked), _short(pin.found)) for pin in pins]
    counts = words(Counter(pin.change for pin in pins))
    text = table(("pin", "result", "locked", "upstream"), cells, width=width)
    return f"{text}\n{count(len(pins), 'pin')}: {counts}.\n"


def _short(content: str) -> str:
    kind, colon, digits = content.rpartition(":")
    return f"{kind}{colon}{digits[:_SHOWN]}"


def _raise_worst(pins: Sequence[Pin], what: str, *, json: bool) -> None:
    found = sorted((pin.error for pin in pins if pin.error is not None), key=lambda error: _RANKS.get(type(error), 1))
    if len(found) > 1:
        why = "" if json else "\n".join(str(error) for error in dict.fromkeys(found))
        raise type(found[0])(f"{count(len(found), 'pin')} of {len(pins)} {what}", why=why)
    if found:
        raise found[0]
