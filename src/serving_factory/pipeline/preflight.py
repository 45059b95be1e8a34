"""A preflight: Bazel says what of a variant's inputs is missing, before hours of building."""

from __future__ import annotations

import ast
import base64
import json
import re
import uuid
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from serving_factory.catalogue.host_programs import genrule_programs, package_of
from serving_factory.catalogue.starlark import parse_starlark
from serving_factory.docker.buildx import BuildFailed
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.records import write_atomically
from serving_factory.pipeline.stages.compile import build_error, logged_build, ready_request

_FAILED = re.compile(r"no such package '@+(?P<name>[^/']+)//[^']*': (?P<reason>.*?)(?: and referenced by '.*)?$")
_DOWNLOAD = re.compile(r"Error downloading \[(?P<urls>[^\]]*)\] to \S*/(?P<file>[^/\s]+): (?P<reason>.*)")
_NOT_IN_DISTDIR = re.compile(r"FileNotFoundException: \S*/inputs/distdir/(?P<file>[^/\s]+) \(")
_STOPPED = re.compile(
    r"error loading package '(?:external)?': |^ERROR: Error computing the main repository mapping: "
    r"|^ERROR: (?:no such package '@|(?:\S+: )?While resolving toolchains )"
)
# Bazel 7 says `no such package` of each that a target needs, too.
_ANALYSED = re.compile(r"^ERROR: .*(?: depends on @| and referenced by ')")
_BAZEL_DECLARES = re.compile(r"^# /DEFAULT\.WORKSPACE\S*\n\w+\(\n  name = \"([^\"]+)\"", re.MULTILINE)
_LABELS = {"Label", "clean_dep", "str"}  # functions that return the label that they are given
_BAZELS_OWN = re.compile(r"bazel_tools$|local_config_|platforms$")


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """An external repository, as WORKSPACE or a file that it loads declares it."""

    name: str
    rule: str  # the rule, such as `http_archive`
    urls: tuple[str, ...] = ()  # where the rule looks, as far as these are literals
    sha256: str | None = None  # of its archive, 64 hex digits; None where nothing is said
    # the attributes that are literals, by name; the text of the others
    attributes: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)
    unread: Mapping[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def ref(self) -> str:
        """The commit or the tag that it names; empty where it names none."""
        return next((ref for name in ("commit", "tag") if isinstance(ref := self.attributes.get(name), str)), "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A repository that the build needs and cannot get."""

    name: str
    rule: str  # the rule that declares it; empty where that is unknown
    file: str  # the name that Bazel looks for in a distdir; empty where it is no archive, or unknown
    urls: tuple[str, ...]  # where it would come from
    sha256: str | None  # of the archive; None where unknown
    problem: str  # why it cannot be had
    cached: bool = False  # whether this engine's cache of downloads has it: only other engines miss it


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A repository that is there."""

    name: str
    origin: str  # `override`, `distdir`, `cache`, `download`, or `local` for what needs no archive
    file: str = ""  # the archive's name in the distdir; empty where it is not from there


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingProgram:
    """A program of the host that rules of the build call and the toolchain does not have."""

    name: str
    rules: tuple[str, ...]
    package: str  # the distribution's package that has it; empty where that is not known


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a preflight found."""

    missing: tuple[Missing, ...]  # what the build needs and cannot get
    programs: tuple[MissingProgram, ...] = ()  # missing in the toolchain; known only once nothing else is missing
    unasked: bool = False  # whether nothing is missing, and yet Bazel did not say what its rules call
    found: tuple[Found, ...]  # what it needs and has
    # what is declared, would have to be downloaded, and was not looked at: it may or may not be needed
    unseen: tuple[Declared, ...]
    stopped: bool  # whether `missing` kept Bazel from looking at what the targets need at all
    failed: bool  # whether Bazel's analysis failed
    errors: tuple[str, ...] = ()  # what Bazel says is wrong, where nothing is missing


def read_report(folder: Path) -> Report:
    """Read what preflight.sh left, whose comments say what that is."""
    log = _lines(folder / "bazel.log")
    distdir = {name: sha256 for sha256, name in (line.split("  ", 1) for line in _lines(folder / "distdir"))}
    declared = declared_by_name(folder)
    missing = _missing([*log, *_lines(folder / "query.log")], declared, distdir)
    gone = {one.name for one in missing}
    external = [line.partition(" -> ")[0] for line in _lines(folder / "external")]
    overrides, cache = set(_lines(folder / "overrides")), set(_lines(folder / "cache"))
    built_in = declared_by_bazel("\n".join(_lines(folder / "query.build")))
    found = tuple(
        _found(name, declared.get(name), distdir, overrides, cache)
        for name in external
        if name not in gone and not is_bazels_own(name, declared.get(name), built_in)
    )
    seen = {*gone, *overrides, *external, *built_in}
    failed = _lines(folder / "bazel.exit") != ["0"]
    return Report(
        missing=missing,
        programs=() if missing else tuple(_missing_programs(folder)),
        unasked=not missing and not failed and _lines(folder / "genrules.exit") not in (["0"], ["3"]),
        found=found,
        unseen=tuple(
            one
            for one in declared.values()
            if one.name not in seen and (one.urls or one.sha256) and one.sha256 not in distdir.values()
        ),
        stopped=bool(missing) and any(map(_STOPPED.search, log)) and not any(map(_ANALYSED.search, log)),
        failed=failed,
        errors=() if missing else tuple(dict.fromkeys(line for line in log if line.startswith("ERROR: "))),
    )


def declared_by_name(folder: Path) -> Mapping[str, Declared]:
    """Give what the sources declare, by name: as Bazel said in a preflight, or else as their files say in literals."""
    # The files also say what nothing loads. Of two declarations of a name, the first with a checksum counts.
    query = list(declared_repositories("\n".join(_lines(folder / "query.build"))))
    files = () if query else sorted(path for path in (folder / "sources").rglob("*") if path.is_file())
    declared = query or [one for path in files for one in declared_repositories("\n".join(_lines(path)))]
    found: dict[str, Declared] = {}
    for one in declared:
        known = found.setdefault(one.name, one)
        if one.sha256 and not known.sha256:
            found[one.name] = one
    return found


def only_cached(report: Report, declared: Mapping[str, Declared]) -> tuple[Missing, ...]:
    """What only the engine's own cache of downloads has: another engine, with the same folders, misses it."""
    problem = "only this engine's cache of downloads has it"
    cached = [declared[one.name] for one in report.found if one.origin == "cache" and one.name in declared]
    return tuple(replace(_one_missing(one, [problem], {}), cached=True) for one in cached)


def declared_repositories(text: str) -> Iterator[Declared]:
    """Find the repositories that a text declares: of `bazel query --output=build`, a WORKSPACE or a .bzl file."""
    # Starlark's syntax is Python's, so Python reads it; names that are not literals are passed over.
    for block in parse_starlark(text):
        for node in ast.walk(block):
            if isinstance(node, ast.Call) and (one := _declared(node)):
                yield one


def declared_by_bazel(query: str) -> frozenset[str]:
    """Find what Bazel itself declares, in the text of `bazel query --output=build`."""
    return frozenset(_BAZEL_DECLARES.findall(query))


def is_bazels_own(name: str, declared: Declared | None, built_in: Container[str]) -> bool:
    """Whether a repository is a part of Bazel, or made by it of the machine; not what it downloads."""
    return bool(_BAZELS_OWN.match(name)) or (name in built_in and not (declared and (declared.urls or declared.sha256)))


def _declared(call: ast.Call) -> Declared | None:
    given = {one.arg: one.value for one in call.keywords if one.arg}
    values = {name: _literal(node) for name, node in given.items()}
    name = values.get("name")
    if not isinstance(name, str):
        return None
    return Declared(
        name=name,
        rule=ast.unparse(call.func),
        urls=_urls(values),
        sha256=_sha256(values),
        attributes={key: value for key, value in values.items() if value is not None},
        unread={
            key: ast.unparse(node)
            for key, node in given.items()
            if values[key] is None and not (isinstance(node, ast.Constant) and node.value is None)
        },
    )


def _literal(node: ast.expr) -> object:
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        return _literal(node.args[0]) if ast.unparse(node.func) in _LABELS else None
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return None


def _urls(values: Mapping[str, object]) -> tuple[str, ...]:
    given = [values.get("url"), values.get("remote")]
    many = values.get("urls")
    given += many if isinstance(many, list) else []
    return tuple(url for url in given if isinstance(url, str) and url)


def _sha256(values: Mapping[str, object]) -> str | None:
    sha256, integrity = values.get("sha256"), values.get("integrity")
    if isinstance(sha256, str) and sha256:
        return sha256
    if isinstance(integrity, str) and integrity.startswith("sha256-"):
        with suppress(ValueError):
            return base64.b64decode(integrity.removeprefix("sha256-")).hex()
    return None


def _missing(lines: Sequence[str], declared: Mapping[str, Declared], distdir: Mapping[str, str]) -> tuple[Missing, ...]:
    """Gather all that is said of each missing repository; what Bazel says first is what is wrong with it."""
    reasons: dict[str, list[str]] = {}
    for line in lines:
        if match := _FAILED.search(line):
            reasons.setdefault(match["name"], []).append(match["reason"])
    return tuple(
        _one_missing(declared.get(name) or Declared(name=name, rule=""), said, distdir)
        for name, said in sorted(reasons.items())
    )


def _one_missing(declared: Declared, reasons: Sequence[str], distdir: Mapping[str, str]) -> Missing:
    downloads = [match for reason in reasons if (match := _DOWNLOAD.search(reason))]
    absent = [match for reason in reasons if (match := _NOT_IN_DISTDIR.search(reason))]
    urls = declared.urls or (tuple(downloads[0]["urls"].split(", ")) if downloads else ())
    file = next((match["file"] for match in (*absent, *downloads)), urls[0].rpartition("/")[2] if urls else "")
    name, rule, sha256 = declared.name, declared.rule, declared.sha256
    problem = downloads[0]["reason"] if downloads else reasons[0]
    if absent:
        problem = "not in the distdir"
    elif file in distdir and distdir[file] != sha256:
        problem = f"the distdir's file of that name has sha256 {distdir[file]}"
    return Missing(name=name, rule=rule, file=file, urls=urls, sha256=sha256, problem=problem)


def _missing_programs(folder: Path) -> Iterator[MissingProgram]:
    there = set(_lines(folder / "programs"))
    for name, rules in genrule_programs("\n".join(_lines(folder / "genrules"))).items():
        if there and name not in there:
            yield MissingProgram(name=name, rules=rules, package=package_of(name) or "")


def _found(
    name: str, declared: Declared | None, distdir: Mapping[str, str], overrides: set[str], cache: set[str]
) -> Found:
    if name in overrides:
        return Found(name=name, origin="override")
    sha256 = declared.sha256 if declared else None
    if file := next((file for file, digest in distdir.items() if digest == sha256), ""):
        return Found(name=name, origin="distdir", file=file)
    if sha256 in cache:
        return Found(name=name, origin="cache")
    return Found(name=name, origin="download" if declared and (declared.urls or sha256) else "local")


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []


def preflight_folder(job: Job) -> Path:
    """Where the results of a preflight lie: the report, Bazel's log, and what both were made of."""
    return job.folder / "preflight"


def run_preflight(job: Job, progress: Callable[[str], None]) -> Report:
    """Build the toolchain, get the sources, and let Bazel analyse them; the report stays in the variant's folder."""
    folder, log = preflight_folder(job), job.log("preflight")
    with ready_request(job, target="preflight", output=folder) as request:
        # Without a new value the engine would give the answer of the last time.
        asked = replace(request, build_args=(*request.build_args, ("PREFLIGHT", uuid.uuid4().hex)))
        try:
            logged_build(asked, log, progress=progress)
        except BuildFailed as failed:
            progress(f"Bazel could not be asked; the whole log is {log}")
            raise build_error(job, failed, log) from None
    report = read_report(folder)
    document = preflight_document(job, report)
    write_atomically(folder / "report.json", json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    return report


def preflight_document(job: Job, report: Report) -> dict[str, object]:
    """The report for machines."""
    document = {"variant": job.recipe.variant.id, **asdict(report)}
    for declared in document["unseen"]:
        del declared["attributes"], declared["unread"]
    return document
