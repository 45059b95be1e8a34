"""A full disk of this machine, as an error that a user can act on."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from serving_factory.errors import DiskFullError

FREE_SOME_SPACE = (
    "Free some space on the engine's disk: 'docker system df' shows what takes it, './factory cache prune --max-size "
    "20GiB' leaves what Bazel used last ('docker buildx prune' would drop Bazel's caches as well)"
)
"""The remedy for a full disk of the engine, without the full stop."""


@contextlib.contextmanager
def disk_full_is_typed() -> Iterator[None]:
    """Turn the system's word for a full disk, or for a used-up quota, into the factory's.

    Raises:
        DiskFullError: the disk is full.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT}:
            raise
        raise DiskFullError(
            "This machine's disk is full.",
            why=str(error),
            remedy="Free some space, then run the same command again: finished stages are kept.",
        ) from error
