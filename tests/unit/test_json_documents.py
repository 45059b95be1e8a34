"""What `--json` prints: docs/json.md describes all of it, and it holds what the tables for people show."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from serving_factory.catalogue.levels import Level, level_facts
from serving_factory.commands import bench as benching
from serving_factory.commands import build as building
from serving_factory.commands import cache as caching
from serving_factory.commands import changes as changing
from serving_factory.commands import combine as combining
from serving_factory.commands import compare as comparing
from serving_factory.commands import doctor as doctoring
from serving_factory.commands import inputs as filling
from serving_factory.commands import preflight as looking
from serving_factory.commands import publish as publishing
from serving_factory.commands import refresh as refreshing
from serving_factory.commands.images import recorded_image
from serving_factory.commands.shared import Asked
from serving_factory.docker.engine import Engine
from serving_factory.errors import CompileError
from serving_factory.load.rounds import Load, Measured
from serving_factory.load.servers import Subject
from serving_factory.output.reporters import JsonLinesReporter, RunView
from serving_factory.output.text import Stream, duration, label, size
from serving_factory.pipeline.budget import Budget
from serving_factory.pipeline.caches import Changed
from serving_factory.pipeline.estimates import Basis, Estimate, add_up
from serving_factory.pipeline.events import SCHEMA_VERSION, Event, EventKind, Status, VariantResult
from serving_factory.pipeline.history import Recorder
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.offline.overrides import Override
from serving_factory.pipeline.offline.packages import Downloaded
from serving_factory.pipeline.outdated import Compared, Outdated
from serving_factory.pipeline.preflight import Declared
from serving_factory.pipeline.records import Record, build_folder, write_record
from serving_factory.pipeline.stages import STAGES
from serving_factory.proofs import verify as checking
from serving_factory.proofs.verify import Check, Verdict
from serving_factory.recipes.recipe import recipe_for

from .matrices import ROOT, document, load
from .stage_records import write_records
from .test_bazel_caches import CACHES
from .test_bench import sample
from .test_changes import ANOTHER, OLD, of
from .test_compare import both_loads, comparison
from .test_offline_inputs import repository
from .test_preflight import recorded
from .test_publish import FakeRegistry
from .test_tasks import Factory, factory, module  # noqa: F401 - fixtures
from .upstream_trees import tree_2_19_1, write_tree

DOC = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
V1 = "2.19.1-cpu-v1"
PIN = "sha256:" + "ab" * 32
MODEL = str(ROOT / "samples" / "model_server" / "models" / "half_plus_two")
NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")

# --- documents --------------------------------------------------------------------------------------------------------

CASES: Mapping[str, tuple[str, list[str]]] = {
    "list": ("list", ["list"]),
    "explain": ("explain", ["explain", V1]),
    "explain what cannot be built": ("explain", ["explain", "2.3.4-cpu-v1"]),
    "explain --dropped": ("explain", ["explain", "--dropped"]),
    "catalogue": ("catalogue", ["catalogue"]),
    "catalogue of a release": ("catalogue", ["catalogue", "2.19.1"]),
    "catalogue of an old release": ("catalogue", ["catalogue", "1.9.1"]),
    "catalogue --check-upstream": ("catalogue", ["catalogue", "2.18.1", "--check-upstream", "serving"]),
    "preflight": ("preflight", ["preflight", V1]),
    "inputs archive": ("inputs", ["inputs", "archive", "mirrors/re2", "v1.0", "--output", "made"]),
    "inputs fill": ("inputs", ["inputs", "fill", V1, "--mirrors", "mirrors"]),
    "inputs override": ("inputs", ["inputs", "override", "re2", "--from", "re2.tar", "--variant", V1]),
    "inputs packages": ("inputs", ["inputs", "packages", V1]),
    "lock": ("lock", ["lock"]),
    "refresh --check": ("refresh", ["refresh", "--check"]),
    "lock --check": ("lock", ["lock", "--check"]),
    "history": ("history", ["history"]),
    "history of a run": ("history", ["history", "2"]),
    "history of two runs": ("history", ["history", "1", "2"]),
    "changes": ("changes", ["changes", "serving:old", "serving:new"]),
    "report": ("report", ["report"]),
    "bench": ("bench", ["bench", "--gate", "0.9"]),
    "bench --dry-run": ("bench", ["bench", "--dry-run"]),
    "doctor": ("doctor", ["doctor"]),
    "doctor --driver": ("doctor", ["doctor", "--driver", "535.54.03"]),
    "which": ("which", ["which", "--cpuinfo", "cpuinfo"]),
    "embed": ("embed", ["embed", MODEL, "--variant", "2.19.1-cpu-v3", "--dry-run"]),
    "verify": ("verify", ["verify", "r.example/team/serving:x"]),
    "deploy kubernetes": ("deploy", ["deploy", "kubernetes", "2.19.1-cpu-v3"]),
    "deploy compose": ("deploy", ["deploy", "compose", "2.19.1-cpu-v3"]),
    "compare": ("compare", ["compare", "one:1", "two:1"]),
    "compare --dry-run": ("compare", ["compare", "one:1", "two:1", "--cpus", "1,8", "--dry-run"]),
    "cache show": ("cache", ["cache", "show"]),
    "cache prune": ("cache", ["cache", "prune", "--max-size", "1GiB"]),
    "cache export": ("cache", ["cache", "export", "caches.tar"]),
    "cache import": ("cache", ["cache", "import", "matrix.yaml"]),
    "build --dry-run": ("build --dry-run", ["build", "--dry-run"]),
    "publish --dry-run": ("publish --dry-run", ["publish", "--dry-run", "--registry", "r.example"]),
    "combine --dry-run": ("combine --dry-run", ["combine", "--dry-run", "--release", "2.19.1"]),
    "push --dry-run": ("push --dry-run", ["push", "--dry-run", "--registry", "registry.example.com"]),
}
"""Each case: its section in docs/json.md, and the command but for --matrix and --json."""

WITHOUT_MATRIX = {"catalogue", "changes"}
MATRIX = document(
    releases=["2.19.1", "2.3.4"],
    image={"repository": "team/serving", "aliases": ["{id}"], "labels": {"com.example.team": "a team", "b": "c"}},
    targets={"standard": {"flavour": "cpu", "levels": ["x86-64", "x86-64-v3", "avx"]}},
    exclude=[{"reason": "no user", "levels": ["avx"]}],
    source="source",
    bazel={"distdir": "archives", "overrides": "overrides", "options": ["-k", "--jobs=3"]},
    network={"apt": {"mirror": "packages"}, "git_mirrors": {"https://a/": "https://b/", "https://c/": "https://d/"}},
)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git mirror and a checkout, which the cases only read."""
    folder = tmp_path_factory.mktemp("upstream")
    repository(folder / "mirrors" / "re2", a="a")
    write_tree(folder / "serving", tree_2_19_1())
    return folder


@pytest.fixture
def run(
    tmp_path: Path,
    upstream: Path,
    monkeypatch: pytest.MonkeyPatch,
    factory: Factory,  # noqa: F811 - the fixture
) -> Callable[..., str]:
    """Runs a case in a folder where every command finds something; without an engine, a network or Bazel."""
    for name in ("archives", "overrides", "packages", "source"):
        (tmp_path / name).mkdir()
    (tmp_path / "source" / "WORKSPACE").touch()
    for name in ("mirrors", "serving"):
        (tmp_path / name).symlink_to(upstream / name)
    matrix = load(tmp_path, MATRIX)
    (tmp_path / "matrix.lock").write_text(
        f"bases: {{'ubuntu:20.04': {PIN}}}\npackages: {{'ubuntu:20.04': {{libssl1.1: 1.1.1f-1}}}}\n"
    )
    monkeypatch.chdir(tmp_path)
    left_behind(
        tmp_path, Job(recipe=recipe_for(matrix.variants[0], matrix), site=Site(build=tmp_path, models=tmp_path))
    )
    report = recorded("4.2.3")
    override = Override(
        folder=tmp_path / "re2",
        followed=(("strip_prefix", "re2-1.0"),),
        not_followed=(("patches", "a reason"),),
        absent=("a.h",),
        left_out=("b.h",),
    )
    downloaded = Downloaded(
        folder=tmp_path / "packages", packages=70, new=3, bytes=12_000_000, wheels=(tmp_path / "x.whl",)
    )
    engine = SimpleNamespace(registry=lambda *_, **__: FakeRegistry())
    idle = SimpleNamespace(image_id=lambda _name: "sha256:id", remove_strays=lambda _owner: 0)
    image = recorded_image(Asked(matrix="matrix.yaml").folder / "2.19.1-cpu-v3")
    assert image
    subject = Subject(name="2.19.1-cpu-v3", image=image.name, cpus=1)
    measured = Measured()
    measured.samples[subject, Load("gRPC", "1 row")] = [sample(1000)] * 7
    site = Site(build=tmp_path, models=tmp_path, connect=lambda: cast("Engine", engine))
    changed = Changed(bytes=3000, files=4, caches=CACHES)
    level = {"level": "x86-64", "binary_size": 5 * 2**20, "binary_sha256": "1" * 64, "image_size": 50 * 2**20}
    planned = {"variant": "2.19.1-cpu-all", "run": ("package",), "names": ["team/serving:all"], "size": 60 * 2**20}
    planned["levels"] = [level]
    for place, name, value in (
        (looking, "run_preflight", report),
        (filling, "run_preflight", report),
        (filling, "_made_override", override),
        (filling, "declared_by_name", {"re2": Declared(name="re2", rule="http_archive")}),
        (filling, "download_packages", downloaded),
        (caching, "show_caches", CACHES),
        (caching, "export_caches", CACHES),
        (caching, "prune_caches", changed),
        (caching, "import_caches", changed),
        (comparing, "_run", comparison(both_loads())),
        (checking, "verify", [Check(name="user", verdict=Verdict.OK, found="65532", error=CompileError)]),
        (building, "budget_of", Budget(cpus=8, memory=64 * 2**30)),
        (doctoring, "reach_all", {}),
        (publishing, "site_of", site),
        (combining, "_planned", planned),
        (refreshing, "compare_images", (compared(),)),
        (changing, "facts_in_engine", OLD),
        (changing, "site_of", SimpleNamespace(engine=idle, owner="o")),
        (changing, "compare_facts", changing.compare_facts(OLD, of(binary={**ANOTHER, "compiler": "gcc 11"}))),
        (benching, "site_of", SimpleNamespace(engine=idle, owner="o")),
        (benching, "measure", measured),
        (benching, "cpu_flags", None),
    ):
        monkeypatch.setattr(place, name, lambda *_, value=value, **_more: value)

    def run(case: str, *more: str) -> str:
        words = [*CASES[case][1], *more]
        return factory(*words, *([] if words[0] in WITHOUT_MATRIX else ["--matrix", "matrix.yaml"])).out

    return run


def compared() -> Compared:
    """An image with packages that are outdated, with and without a changelog, and one of another vendor."""
    newer = {"installed": "3.0.16-1", "available": "3.0.17-1"}
    outdated = (
        Outdated(package="libssl3", cves=("CVE-2026-1234", "CVE-2026-2345"), **newer),
        Outdated(package="zlib1g", cves=None, **newer),
    )
    return Compared(
        variant="2.19.1-cpu-v3", image=PIN, base="ubuntu:20.04", packages=90, outdated=outdated, unknown=("vendors",)
    )


def left_behind(folder: Path, job: Job) -> None:
    """What two runs leave: records and a history."""
    place = build_folder(folder / "matrix.yaml", folder, folder / "build") / V1
    for stage, outputs in (
        ("compile", {"actions": 61, "runners": {"remote cache hit": 3}, "peak_memory_bytes": 123_456_789}),
        ("extract", {"size": 5_000_000, "sha256": "cd" * 32}),
        ("smoke", {"checks": {"REST: predict": 1.25}}),
    ):
        write_record(
            place,
            Record(
                variant=V1, stage=stage, key="k", started="2026-01-31T23:39:55+00:00", seconds=71.4, outputs=outputs
            ),
        )
    write_records(Asked(matrix="matrix.yaml").folder / "2.19.1-cpu-v3", *STAGES)
    (folder / "cpuinfo").write_text(f"flags : {' '.join(level_facts(Level.V3).cpuinfo)}\n")
    at = Job(recipe=job.recipe, site=Site(build=place.parent, models=folder))
    for status in (Status.FAILED, Status.UP_TO_DATE):
        recorder = Recorder(folder / "build", [at], command="build", matrix="matrix.yaml")
        for kind in (EventKind.STARTED, EventKind.FINISHED):
            recorder.handle(Event(variant=V1, stage="compile", kind=kind))
        recorder.end([VariantResult(variant=V1, status=status, seconds=3.0)])


def keys(value: object) -> Iterator[str]:
    """The names of members, at all levels."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def leaves(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list):
        yield len(value)
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def words(text: str) -> set[str]:
    return set(re.findall(r"[^\s,;()]+", text))


def rendered(value: object) -> set[str]:
    """All words with which people may be shown a value."""
    if isinstance(value, bool):
        return {str(value), "yes" if value else "no"}
    if isinstance(value, int | float):
        return words(f"{value} {duration(value)} {size(int(value))}")
    return {"none"} if value is None else words(f"{value} {label(str(value))}")


def shown(text: str) -> Iterator[str]:
    """The words in the rows of tables and pages, without headings and labels."""
    lines = text.splitlines()
    for index, line in enumerate(lines):
        cells = re.split(r"\s{2,}", line.strip())
        heading = index + 1 < len(lines) and re.fullmatch(r"-+( +-+)*", lines[index + 1])
        if len(cells) < 2 or heading or re.fullmatch(r"[-\s]+", line):
            continue
        for cell in cells[1:] if line.startswith("  ") else cells:
            yield from words(cell)


CONSTANT = {
    "verify": {"checks"},
    "catalogue": {"none", "yes", "no", "exists"},
    "cache": {"total", "all", "builds", "for", "downloads"},
    "report": {"absent"},
    "build --dry-run": {"nothing", "after", "about", "of", "memory"},
    "combine --dry-run": {"was", "built", "or", "pushed."},
    "push --dry-run": {"nothing", "`./factory", "build`", "first:"},
    "list": {"cannot", "be", "built"},
    "refresh": {"no", "changelog"},
    "inputs": {"not", "pinned", "as"},
    "which": {"pushed", "by", "its", "digest", "would", "run", "too", "and", "is", "not", "built"},
    "history": {"running", "did", "end", "-"},
    "compare": {
        *("most", "never", "to", "10.0", "not", "certain"),  # latencies are in milliseconds
        *(
            "a",
            "model",
            "which",
            "decodes",
            "pictures",
            "where",
            "all",
            "servers",
            "can",
            "the",
            "usual",
            "ones",
            "half",
        ),
        *("and", "four", "fifths", "of", "what", "slowest", "answers", "on", "without", "pause", "at", "set", "rates"),
        *("each", "for", "load", "connections:", "decode", "PNG", "JPEG", "compare.html", "compare.json"),
    },
    "changes": {"since", "became", "because", "of:"},
    "bench": {"500.0", "990.0"},  # milliseconds
}
"""Words of a command's tables that are no facts."""


@pytest.mark.parametrize("case", CASES)
def test_a_document_has_its_version_documented_snake_case_names_and_the_facts_of_the_table(
    case: str, run: Callable[..., str]
) -> None:
    found: dict[str, Any] = json.loads(run(case, "--json"))
    assert next(iter(found.items())) == ("schema_version", SCHEMA_VERSION)
    used = set(keys(found))
    assert [name for name in used if not NAME.fullmatch(name)] == []
    heading = CASES[case][0]
    section = DOC.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    assert used - names(section) - {"schema_version"} == set(), "docs/json.md does not have them"
    held = {word for leaf in leaves(found) for word in rendered(leaf)} | CONSTANT.get(heading, set())
    text = run(case)
    assert text or "check-upstream" in case
    missing = {word for word in shown(text) if word not in held and not any(one.startswith(word) for one in held)}
    assert missing == set(), "JSON does not have these"


def test_every_task_with_json_is_a_case_or_prints_events(module: Any) -> None:  # noqa: ANN401, F811 - the fixture
    of_events = {"build", "compile", "inspect", "package", "smoke", "push", "publish", "combine", "demo"}
    with_json = {
        name
        for name in module.ns.task_names
        if "json" in {argument.name for argument in module.ns[name].get_arguments()}
    }
    assert with_json == of_events | {words[0] for _, words in CASES.values()}


def test_no_entry_is_lost_where_names_repeat(run: Callable[..., str]) -> None:
    entries = json.loads(run("explain", "--json"))["entries"]
    repeated = [(one["name"], one["of"], one["value"]) for one in entries if one["name"] in {"label", "git_mirror"}]
    assert repeated == [
        ("label", "b", "c"),
        ("label", "com.example.team", "a team"),
        ("git_mirror", "https://a/", "https://b/"),
        ("git_mirror", "https://c/", "https://d/"),
    ]
    places = [(one["section"], one["name"], one["of"]) for one in entries]
    assert len(places) == len(set(places))
    documented = names(DOC.partition("| section |")[2].partition("\n\n")[0])
    assert {name for section, name, _ in places for name in (section, name)} <= documented


# --- events -----------------------------------------------------------------------------------------------------------

EVERYWHERE = {"event", "time"}
MEMBERS_OF_KIND: Mapping[EventKind, Mapping[str, Any]] = {
    EventKind.STARTED: {"text": "the artifact is missing or was changed"},
    EventKind.PROGRESS: {"text": "1/2 Compiling x.cc"},
    EventKind.RETRIED: {"text": "a download failed; try 2 of 4 in 3 s"},
    EventKind.FINISHED: {"seconds": 1.0, "log": "l"},
    EventKind.FAILED: {"text": "no", "seconds": 1.0, "log": "l"},
    EventKind.SKIPPED: {"text": "because"},
    EventKind.CANCELLED: {"seconds": 1.0, "log": "l"},
}
"""What the line gives an event, as `Event` says it."""


def table(heading: str) -> dict[str, str]:
    """The rows of a table: names in its first cell → the other cells."""
    lines = DOC.partition(heading)[2].partition("\n\n")[0].splitlines()
    rows = [line.strip("|").split(" | ") for line in lines if line.startswith("| `")]
    return {name: " ".join(rest) for first, *rest in rows for name in names(first)}


def names(text: str) -> set[str]:
    return set(re.findall(r"`([a-z][a-z0-9_]*)`", text))


EVENTS = table("| `event` |")
SUMMARY = table("| member of the summary |")


def printed() -> Iterator[dict[str, Any]]:
    """A document of each kind, with all its members."""
    out = io.StringIO()
    estimate = Estimate(variant="w", seconds=1.0, memory=1, download=1, basis=Basis.VARIANT)
    error = CompileError("what", why="why", remedy="remedy")
    facts = {"binary_size": 1, "image_size": 1, "rest": (1.0,), "grpc": (1.0,), "pushed": ["r/x:1@sha256:0"]}
    result = VariantResult(
        variant="v", status=Status.FAILED, seconds=1.0, image="i", because="b", log="l", facts=facts, error=error
    )
    with JsonLinesReporter(Stream(out), RunView(variants=["v", "w"], estimate=add_up([estimate]))) as reporter:
        for kind in EventKind:
            reporter.handle(Event(variant="v", stage="compile", kind=kind, **MEMBERS_OF_KIND.get(kind, {})))
        done = VariantResult(variant="w", status=Status.BUILT, seconds=1.0, memory=1, download=1)
        reporter.summary([replace(result, memory=1, download=1), done])
    yield from map(json.loads, out.getvalue().splitlines())


DOCUMENTS = {document["event"]: document for document in printed()}


def test_every_event_is_documented_and_no_other() -> None:
    assert set(EVENTS) == set(DOCUMENTS)
    assert all(f"`{stage}`" in DOC.partition("`stage` is one of")[2].partition("\n")[0] for stage in STAGES)


@pytest.mark.parametrize("event", sorted({*EventKind, "begin", "estimate"}))
def test_an_events_members_are_those_documented(event: str) -> None:
    members = set(DOCUMENTS[event]) - EVERYWHERE
    documented = names(EVENTS[event])
    inner = {name for one in DOCUMENTS[event].get("variants", ()) if isinstance(one, dict) for name in one}
    assert (members | inner) - {"variant"} == documented - {"variant"}


def test_the_summarys_members_are_documented() -> None:
    summary = DOCUMENTS["summary"]
    assert set(summary) - EVERYWHERE == set(SUMMARY)
    assert names(SUMMARY["counts"]) == set(Status)
    result = summary["results"][0]
    inner = {*result, *result["facts"], *result["error"]}
    assert inner <= names(SUMMARY["results"])
