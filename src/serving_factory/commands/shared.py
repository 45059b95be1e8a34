"""What commands share: where the checkout is, the choice of variants, errors as exit codes, printing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from invoke.exceptions import Exit

from serving_factory.docker.client import disk_full_is_typed
from serving_factory.errors import CancelledError, FactoryError
from serving_factory.output.documents import document_text
from serving_factory.pipeline.scheduler import ending_signals

if TYPE_CHECKING:
    from serving_factory.matrix.matrix import Matrix
    from serving_factory.matrix.variant import Variant


_UNITS = {"MiB": 2**20, "GiB": 2**30}


@dataclass(frozen=True, slots=True)
class Checkout:
    """Where things are.

    Args:
        root: the checkout.
        build: its build folder.
    """

    root: Path
    build: Path

    @property
    def sample(self) -> Path:
        """The sample's matrix file."""
        return self.root / "samples" / "matrix.yaml"

    @property
    def models(self) -> Path:
        """The models that images are tried with."""
        return self.root / "samples" / "model_server" / "models"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which variants of which matrix a user asks for; names of one kind add up, kinds narrow each other down.

    Args:
        checkout: where things are.
        matrix: the matrix file; empty for the checkout's own.
        targets: names of targets.
        releases: full tags or specifiers.
        variants: ids.
        flavours: flavours.
        levels: levels.
        platforms: platforms.
        cuda: CUDA versions or specifiers.
    """

    checkout: Checkout
    matrix: str = ""
    targets: Sequence[str] = field(default=())
    releases: Sequence[str] = field(default=())
    variants: Sequence[str] = field(default=())
    flavours: Sequence[str] = field(default=())
    levels: Sequence[str] = field(default=())
    platforms: Sequence[str] = field(default=())
    cuda: Sequence[str] = field(default=())

    @property
    def file(self) -> Path:
        """The matrix file."""
        return Path(self.matrix) if self.matrix else self.checkout.root / "matrix.yaml"

    def load(self) -> Matrix:
        """Read the matrix file, and what the environment gives in its place.

        Raises:
            MatrixError: it cannot be used.
            UsageError: a variable of the environment cannot be read.
        """
        # A task's help does without the catalogue and all that reads a matrix.
        from serving_factory.matrix.environment import given
        from serving_factory.matrix.load import load_matrix

        return load_matrix(self.file, given(os.environ, Path.cwd()))

    def choose(self, matrix: Matrix) -> tuple[Variant, ...]:
        """Choose the variants.

        Raises:
            UnknownNameError: there are none such.
        """
        from serving_factory.matrix.select import select

        return select(
            matrix,
            targets=self.targets,
            releases=self.releases,
            variants=self.variants,
            flavours=self.flavours,
            levels=self.levels,
            platforms=self.platforms,
            cuda=self.cuda,
        )


@contextmanager
def errors() -> Iterator[None]:
    """Turn the errors that a user can meet into a message and an exit code."""
    for ending in ending_signals():
        if ending is not signal.SIGINT:  # which is Python's own KeyboardInterrupt already
            signal.signal(ending, _interrupt)
    try:
        with disk_full_is_typed():
            yield
    except FactoryError as error:
        raise exit_with(error) from None
    except BrokenPipeError:
        # Whoever read has read enough; what is left in the buffer has nowhere to go.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        told = FactoryError(f"a file cannot be used: {error}", remedy="see who owns it, and whether it can be written")
        raise exit_with(told) from None
    except KeyboardInterrupt:
        raise Exit("Cancelled.", code=CancelledError.exit_code) from None


def exit_with(error: FactoryError, *, code: int | None = None) -> Exit:
    """Give what ends the process with an error's message; GitHub shows it on the run's page.

    Args:
        error: what to tell.
        code: the exit code, where another one than the error's own says more.
    """
    from serving_factory.output.errors import render_error

    text = render_error(error)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        from serving_factory.output.github import annotation

        text += annotation("serving-factory", str(error))
    return Exit(text.rstrip(), code=error.exit_code if code is None else code)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def write(text: str) -> None:
    """Print, as it is."""
    sys.stdout.write(text)
    sys.stdout.flush()


def show(document: Mapping[str, object], text: str, *, json: bool) -> None:
    """Print a result: the document for machines, or the text."""
    write(document_text(document) if json else text)


def progress(text: str) -> None:
    """Print on stderr what is being done."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def width() -> int | None:
    """Columns of the terminal; None where nobody looks at one."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def bytes_of(text: str) -> int | None:
    """Read a size as options and the matrix file have it, such as `16GiB`; None where it is none."""
    match = re.fullmatch(r"([0-9]{1,7})(MiB|GiB)", text)
    return int(match[1]) * _UNITS[match[2]] if match else None
