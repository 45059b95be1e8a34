"""`bench`: what the CPU levels of a release answer, against each other, in one run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from serving_factory.catalogue.levels import level_facts
from serving_factory.commands.history import bench_table
from serving_factory.commands.images import Image, build_command, recorded_image
from serving_factory.commands.plan import site_of
from serving_factory.commands.shared import BenchOptions, progress, show, width
from serving_factory.commands.watched import watched
from serving_factory.docker.client import run_docker
from serving_factory.docker.engine import Engine
from serving_factory.docker.process import Cancel
from serving_factory.doctor.probes import cpu_flags
from serving_factory.errors import CpuLevelError, EngineError, LevelSlowerError, NotBuiltError
from serving_factory.load.generator import SATURATED
from serving_factory.load.levels import LevelFigures, Verdict, level_figures
from serving_factory.load.rounds import Plan, measure
from serving_factory.load.servers import Subject
from serving_factory.load.statistics import CONFIDENCE, FEWEST_ROUNDS, spread
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.variant import Variant
from serving_factory.output.text import count, duration, table
from serving_factory.pipeline.build_lock import hold_lock
from serving_factory.pipeline.history import Recorder
from serving_factory.pipeline.records import matrix_name
from serving_factory.smoke.gpu import DENSE

_ROWS = (1, 32)
_PULL_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class _Built:
    """A variant and its image."""

    variant: Variant
    image: Image


@dataclass(frozen=True, slots=True)
class _Group:
    """Levels of one release and flavour, the lowest first: they are measured together."""

    name: str
    members: tuple[_Built, ...]


def bench(words: Sequence[str], options: BenchOptions) -> None:
    """Measure, print and record; a gate that a level certainly does not pass is an error."""
    asked = replace(options.asked, variant=tuple(words))
    matrix = asked.load()
    groups, left_out = _groups(matrix, asked.choose(matrix), options, named=bool(words))
    if options.dry_run:
        _show_plan(groups, left_out, options)
        return
    progress(*(f"Left out: {id_}: {why}" for id_, why in left_out.items()))
    site, checkout = site_of(asked), asked.checkout
    figures: list[LevelFigures] = []
    with hold_lock(checkout.build):
        site.engine.remove_strays(site.owner)
        for one in (one for group in groups for one in group.members):
            _pull(site.engine, one)
        recorder = Recorder(
            checkout.build, [], command=shlex.join(sys.argv[1:]), matrix=matrix_name(asked.file, checkout.root)
        )
        for group in groups:
            found = _measured(site.engine, group, options, site.owner)
            if _slower(found):
                # Of a hundred comparisons on a noisy machine one may look certain by chance; twice it does not.
                progress(f"{group.name}: measured once more, for a level looks slower than the gate allows")
                found = _measured(site.engine, group, options, site.owner)
            for each in found:
                recorder.add(each)
            figures += found
        recorder.end(())
    if recorder.trouble:
        progress(f"Note: {recorder.trouble}")
    notes = notes_of(figures)
    document = {
        "confidence": CONFIDENCE,
        "figures": figures,
        "left_out": [{"variant": id_, "reason": why} for id_, why in left_out.items()],
        "notes": notes,
    }
    show(document, bench_table(figures) + "".join(f"Note: {note}\n" for note in notes), json=options.json)
    require_gate(figures)


# --- what is measured -------------------------------------------------------------------------------------------------


def _groups(
    matrix: Matrix, chosen: Sequence[Variant], options: BenchOptions, *, named: bool
) -> tuple[list[_Group], dict[str, str]]:
    """The chosen variants that have an image and run here, with what they are compared with; why others do not."""
    built = {
        one.id: _Built(one, image)
        for one in matrix.variants
        if (image := recorded_image(options.asked.folder / one.id))
    }
    missing = [one.id for one in chosen if one.id not in built]
    if missing and (named or len(missing) == len(chosen)):
        raise NotBuiltError(
            f"{missing[0]} has no image that passed its smoke test", remedy=build_command(options.asked, missing[0])
        )
    flags = cpu_flags()
    lacks = {
        id_: f"this machine's CPU lacks {', '.join(absent)}"
        for id_, one in built.items()
        if flags and (absent := [flag for flag in level_facts(one.variant.level).cpuinfo if flag not in flags])
    }
    left_out = {one.id: lacks[one.id] for one in chosen if one.id in lacks}
    ids = {one.id for one in chosen if one.id in built and one.id not in lacks}
    if not ids:
        id_, why = next(iter(left_out.items()))
        remedy = "measure on a machine with that CPU, or a lower level here"
        raise CpuLevelError(f"{id_} cannot be measured here: {why}.", remedy=remedy)
    groups: dict[str, list[_Built]] = {}
    for one in sorted(built.values(), key=lambda one: one.variant.order):
        if one.variant.id not in lacks:
            groups.setdefault(_group_name(one.variant), []).append(one)
    found = [_Group(name, _compared(members, ids)) for name, members in groups.items()]
    return [group for group in found if group.members], left_out


def _group_name(variant: Variant) -> str:
    cuda = f"-cuda{variant.cuda}" if variant.cuda else ""
    return f"{variant.release_name}-{variant.flavour}{cuda} on {variant.platform}"


def _compared(members: Sequence[_Built], chosen: set[str]) -> tuple[_Built, ...]:
    """The chosen ones of a group, with its lowest level and the levels below theirs; none where none is chosen."""
    places = [place for place, one in enumerate(members) if one.variant.id in chosen]
    lower = [
        max((p for p in range(place) if members[p].variant.level != members[place].variant.level), default=0)
        for place in places
    ]
    return tuple(members[place] for place in sorted({*places, *lower, *([0] if places else [])}))


def _pull(engine: Engine, one: _Built) -> None:
    """Have the engine have an image: a published one is pulled."""
    name = one.image.name
    if engine.image_id(name) is not None:
        return
    if not one.image.published:
        remedy = f"./factory build --variant {one.variant.id}"
        raise EngineError(f"the engine has no image {name}, which the records name", remedy=remedy)
    progress(f"pulling {name}")
    run_docker("pull", "--quiet", name, timeout=_PULL_SECONDS)


def _plan(group: _Group, options: BenchOptions, *, gpu: bool, engine: Engine | None, owner: str) -> Plan:
    access = engine.gpu() if engine and gpu else None
    return Plan(
        subjects=[Subject(name=one.variant.id, image=one.image.name, cpus=1, gpu=access) for one in group.members],
        model=options.asked.checkout.models / DENSE.model,
        sizes=_ROWS,
        rates=(),
        rounds=options.rounds,
        seconds=options.seconds,
        owner=owner,
    )


def _measured(engine: Engine, group: _Group, options: BenchOptions, owner: str) -> tuple[LevelFigures, ...]:
    gpu = any(one.variant.cuda for one in group.members)
    plan = _plan(group, options, gpu=gpu, engine=engine, owner=owner)
    progress(f"Measuring {group.name}: {', '.join(one.variant.id for one in group.members)}")
    with watched() as on_step:
        measured = measure(engine, plan, cancel=Cancel(), on_step=on_step)
    levels = [one.variant.level.value for one in group.members]
    return level_figures(measured, list(zip(plan.subjects, levels, strict=True)), gate=options.gate)


def _slower(figures: Sequence[LevelFigures]) -> list[LevelFigures]:
    return [one for one in figures if one.verdict is Verdict.SLOWER]


def require_gate(figures: Sequence[LevelFigures]) -> None:
    """Raise LevelSlowerError where a level is certainly slower than the gate allows."""
    if slower := _slower(figures):
        variants = ", ".join(dict.fromkeys(one.variant for one in slower))
        raise LevelSlowerError(
            f"{variants}: slower than the level below by more than --gate {slower[0].gate:g} allows.",
            why="\n".join(
                f"{one.variant}, {one.protocol}, {one.input}: {spread(one.to_below, '.2f')} of what {one.below} answers"
                for one in slower
                if one.to_below
            ),
            remedy="`./factory explain` shows the flags that each was compiled with; publish the lower level meanwhile",
        )


def notes_of(figures: Sequence[LevelFigures]) -> list[str]:
    """What the figures do not show, each in a sentence."""
    found = []
    unsure = [one for one in figures if one.verdict is Verdict.UNCERTAIN]
    if unsure and any(one.to_below and one.to_below.confidence < CONFIDENCE for one in unsure):
        found.append(f"Nothing is said of the gate: {FEWEST_ROUNDS} rounds or more are needed for that.")
    elif unsure:
        names = ", ".join(f"{one.variant}, {one.protocol}, {one.input}" for one in unsure)
        found.append(
            f"Whether the gate is passed cannot be said of {names}: from round to round the ratio varies around it. "
            "Leave the machine idle, and take more --rounds and --seconds."
        )
    if busy := [one for one in figures if one.client >= SATURATED]:
        found.append(
            f"The client was the limit in {count(len(busy), 'figure')} of {len(figures)}: there the servers may do "
            "more than is shown, and differ by more."
        )
    if failing := [one for one in figures if one.p99 is None]:
        names = ", ".join(f"{one.variant}, {one.protocol}, {one.input}" for one in failing)
        found.append(f"More than one request of a hundred had no usable answer, in some round: {names}.")
    alone = [one.variant for one in figures if one.lowest is None]
    compared = {one.lowest for one in figures}
    if only := [name for name in dict.fromkeys(alone) if name not in compared]:
        found.append(f"There is nothing to compare with {', '.join(only)}: no other level of it is built.")
    return found


# --- what is printed --------------------------------------------------------------------------------------------------


def _show_plan(groups: Sequence[_Group], left_out: Mapping[str, str], options: BenchOptions) -> None:
    seconds = sum(_plan(one, options, gpu=False, engine=None, owner="").estimate(len(_ROWS)) for one in groups)
    rows = [
        (group.name, one.variant.id, one.variant.level.value, one.image.name)
        for group in groups
        for one in group.members
    ]
    document = {
        "groups": [
            {
                "name": group.name,
                "variants": [
                    {"variant": one.variant.id, "level": one.variant.level, "image": one.image.name}
                    for one in group.members
                ],
            }
            for group in groups
        ],
        "left_out": [{"variant": id_, "reason": why} for id_, why in left_out.items()],
        "rounds": options.rounds,
        "seconds": options.seconds,
        "gate": options.gate,
        "estimate": round(seconds),
    }
    text = table(("measured together", "variant", "level", "image"), rows, width=width())
    text += "".join(f"Left out: {id_}: {why}\n" for id_, why in left_out.items())
    text += f"{count(options.rounds, 'round')} of {options.seconds:g} s for each load; about {duration(seconds)}.\n"
    show(document, text, json=options.json)
