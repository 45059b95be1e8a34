"""The tables and pages of the catalogue. Made of its JSON documents, from values to text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from serving_factory.ui.layout import Column, Section, page, table

__all__ = ["differences_text", "release_page", "releases_table"]

Document = Mapping[str, Any]
"""A release, as `invoke catalogue --json` prints it."""


def releases_table(documents: Sequence[Document], *, width: int | None = None) -> str:
    """All releases, a line each."""
    columns = [
        Column(name)
        for name in (
            "release",
            "date",
            "reports",
            "Bazel",
            "Python",
            "OS",
            "compiler",
            "mkl",
            "CUDA",
            "cuDNN",
            "TensorRT",
        )
    ]
    rows = []
    for document in documents:
        cpu, mkl, gpu = (document["flavours"][flavour] for flavour in ("cpu", "mkl", "gpu"))
        rows.append(
            (
                document["release"],
                document["date"],
                document["reported_version"] or "",
                document["bazel"],
                document["python"],
                cpu["os"],
                cpu["compiler"],
                "yes" if mkl else "",
                gpu["cuda"] if gpu else "",
                gpu["cudnn"] if gpu else "",
                (gpu["tensorrt"] or "") if gpu else "",
            )
        )
    count = "1 release" if len(rows) == 1 else f"{len(rows)} releases"
    return f"{table(columns, rows, width=width)}\n{count}. `./factory catalogue RELEASE` shows one in full.\n"


def release_page(document: Document) -> str:
    """All about one release."""
    sections = [
        Section("Release", _entries(document, leave_out=("configs", "flavours", "server"))),
        *(
            Section(f"Flavour {flavour}", _entries(facts) if facts else (("exists", "no"),))
            for flavour, facts in document["flavours"].items()
        ),
        Section("Server", _entries(document["server"], leave_out=("models",))),
        Section("Models to try it with", _entries(document["server"]["models"])),
        Section("Bazel configs", tuple((name, "\n".join(flags)) for name, flags in document["configs"].items())),
    ]
    return page(str(document["release"]), sections)


def differences_text(differences: Sequence[Mapping[str, Any]]) -> str:
    """What a checkout and the catalogue disagree on, a line each: file, line, fact, both values."""
    return "\n".join(
        f"{one['file']}{':' + str(one['line']) if one['line'] else ''}: {one['what']}: "
        f"the catalogue has {one['catalogue'] or 'nothing'}, upstream {one['upstream'] or 'nothing'}"
        for one in differences
    )


def _entries(document: Document, *, leave_out: Sequence[str] = ()) -> tuple[tuple[str, str], ...]:
    return tuple((name.replace("_", " "), _text(value)) for name, value in document.items() if name not in leave_out)


def _text(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list():
            return " ".join(map(str, value)) or "none"
        case _:
            return str(value)
