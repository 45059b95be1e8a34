"""Which parts of a matrix file can be relied on, and which cannot because something in them is wrong."""

from __future__ import annotations

from collections.abc import Iterable

from serving_factory.matrix.problems import KeyPath

__all__ = ["WHOLE", "Broken"]


class Broken:
    """The places at which something is wrong: what follows from their values is not worth telling.

    Args:
        paths: those places.
    """

    def __init__(self, paths: Iterable[KeyPath] = ()) -> None:
        # What stands in a mapping with a merge key nobody has read: the mapping itself is not whole.
        self._paths = frozenset(path[:-1] if path[-1] == "<<" else path for path in paths if path)
        self._inside: dict[KeyPath, set[str | int]] = {}
        for path in self._paths:
            for length, part in enumerate(path):
                self._inside.setdefault(path[:length], set()).add(part)

    def and_at(self, paths: Iterable[KeyPath]) -> Broken:
        """Add places."""
        return Broken((*self._paths, *paths))

    def at(self, *path: str | int) -> bool:
        """Whether a value is not whole: something is wrong with it, in it, or with what it stands in."""
        return path in self._inside or self.around(*path)

    def around(self, *path: str | int) -> bool:
        """Whether something is wrong with a value itself, or with what it stands in."""
        return any(path[:length] in self._paths for length in range(len(path) + 1))

    def inside(self, *path: str | int) -> frozenset[str | int]:
        """The keys of a value, or its indexes, at or below which something is wrong."""
        return frozenset(self._inside.get(path, ()))


WHOLE = Broken()
"""Nothing is wrong."""
