"""`publish`: one name for the images of a release and flavour, by which each client gets that of its CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from serving_factory.commands.build import run_stage
from serving_factory.commands.keys import signer_of
from serving_factory.commands.plan import site_of
from serving_factory.commands.shared import PublishOptions, RunOptions, progress, show, width, write
from serving_factory.docker.registry import ImageName, Manifest, Registry
from serving_factory.errors import IndexIncompleteError, UsageError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.problems import WHOLE, matrix_error
from serving_factory.matrix.tags import Index, indexes_of, tag_findings
from serving_factory.output.text import label, table
from serving_factory.pipeline.build_lock import hold_lock, hold_matrix_lock
from serving_factory.pipeline.events import SCHEMA_VERSION, json_line, utc_now
from serving_factory.pipeline.job import Job, Site
from serving_factory.pipeline.publish import (
    Draft,
    Published,
    asker,
    entries_of,
    held_index,
    later_release,
    platforms_of,
    sign_index,
)
from serving_factory.pipeline.publish import publish as publish_indexes
from serving_factory.pipeline.runner import why_not_ready
from serving_factory.pipeline.stages.push import PUSH, push_names
from serving_factory.recipes.recipe import recipes_for


class State(StrEnum):
    """Where an image of an index is."""

    PUSHED = "pushed"  # by this factory, in the registry
    TO_PUSH = "to_push"  # ready in the engine
    IN_INDEX = "in_index"  # in the index that is there, by another publisher
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Member:
    """An image that belongs into an index."""

    platform: str
    variant: str
    state: State
    digest: str = ""
    because: str = ""  # why it is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """An index in one registry."""

    index: Index
    place: ImageName
    members: tuple[_Member, ...]
    later: str  # the later release that the tag stays at

    @property
    def name(self) -> str:
        return f"{self.place}:{self.index.tag}"

    @property
    def missing(self) -> tuple[_Member, ...]:
        return tuple(one for one in self.members if one.state is State.MISSING)


def publish(options: PublishOptions) -> None:
    """Push what is not pushed yet, and put the indexes of the chosen variants; or print the plan."""
    matrix = options.asked.load()
    chosen = frozenset(one.id for one in options.asked.choose(matrix))
    signer = signer_of(matrix, dry_run=options.dry_run)
    indexes, site = _indexes(matrix, chosen), site_of(options.asked, options.registry, signer)
    places = push_names(matrix.images.repository, options.registry)
    registries = {one: site.engine.registry(one.registry, report=progress) for one in places}

    def plan() -> list[_Planned]:
        where = _whereabouts(matrix, indexes, site, chosen)
        return [_planned(index, place, registries[place], where) for place in places for index in indexes]

    planned = plan()
    if options.dry_run:
        show({"indexes": [_row(one) for one in planned]}, _text(planned), json=options.json)
        return
    planned = _publishable(planned, partial=options.partial)
    if to_push := {member.variant for one in planned for member in one.members if member.state is State.TO_PUSH}:
        asked = replace(options.asked, variant=tuple(sorted(to_push)), target=(), release=())
        run_stage("push", RunOptions(asked=asked, registry=options.registry, json=options.json))
        planned = _publishable(plan(), partial=options.partial, quiet=True)
    drafts = [
        Draft(
            index=one.index,
            place=one.place,
            registry=registries[one.place],
            images={member.variant: member.digest for member in one.members if member.state is State.PUSHED},
        )
        for one in planned
    ]

    def sign(draft: Draft, index: Manifest) -> None:
        if signer:
            sign_index(signer, draft, index)

    with hold_lock(options.asked.checkout.build), hold_matrix_lock(site.build):
        published = publish_indexes(drafts, site.build, progress, sign=sign)
    if options.json:
        rows = [_row(one, *published[one.name]) for one in planned]
        write(json_line("indexes", {"schema_version": SCHEMA_VERSION, "indexes": rows}, at=utc_now()))
    else:
        write(_text(planned) + _list(planned, published))


def _indexes(matrix: Matrix, chosen: frozenset[str]) -> tuple[Index, ...]:
    """The indexes with any of the chosen variants; MatrixError where two would have one tag."""
    problems = tag_findings(matrix.document, matrix.images, matrix.candidates, WHOLE, used={"indexes"})
    if located := [matrix.document.located(one) for one in problems]:
        raise matrix_error(matrix.file, located)
    found = indexes_of(matrix.images, matrix.candidates)
    found = tuple(one for one in found if not {variant.id for variant in one.variants}.isdisjoint(chosen))
    if not found:
        raise UsageError(
            "no index has any of the chosen variants",
            why="image.indexes in the matrix file names the indexes; an image of level `native` is in none",
            remedy="choose others with --target, --release or --variant, or name an index at image.indexes",
        )
    return found


@dataclass(frozen=True, slots=True)
class _Where:
    """Where a variant's image is, by this factory's records."""

    state: State
    because: str = ""
    digests: Mapping[ImageName, str] = field(default_factory=dict)


def _whereabouts(matrix: Matrix, indexes: Sequence[Index], site: Site, chosen: frozenset[str]) -> Mapping[str, _Where]:
    """Where the image of each variant is, by its id."""
    recipes, unbuildable = recipes_for({one.id: one for index in indexes for one in index.variants}.values(), matrix)
    found = {one.variant.id: _Where(State.MISSING, one.error.what) for one in unbuildable}
    return found | {one.variant.id: _where(Job(recipe=one, site=site), chosen) for one in recipes}


def _where(job: Job, chosen: frozenset[str]) -> _Where:
    if why := why_not_ready(job, PUSH):
        return _Where(State.MISSING, why)
    if why := PUSH.reason(job):
        is_chosen = job.recipe.variant.id in chosen
        return _Where(State.TO_PUSH) if is_chosen else _Where(State.MISSING, f"{why}, and it is not chosen")
    places = job.record(PUSH).outputs.places
    return _Where(State.PUSHED, digests={one.name: next(iter(one.digests.values())) for one in places})


def _planned(index: Index, place: ImageName, registry: Registry, where: Mapping[str, _Where]) -> _Planned:
    held = held_index(registry, place, index, asker(progress))
    there = {one.variant: one.digest for one in entries_of(held)} if held else {}
    members = []
    for id_, platform in platforms_of(index).items():
        state, because, digest = where[id_].state, where[id_].because, where[id_].digests.get(place, "")
        if state is State.MISSING and id_ in there:
            state, because, digest = State.IN_INDEX, "", there[id_]
        members.append(_Member(platform=platform, variant=id_, state=state, digest=digest, because=because))
    return _Planned(index=index, place=place, members=tuple(members), later=later_release(held, index))


def _publishable(planned: Sequence[_Planned], *, partial: bool, quiet: bool = False) -> list[_Planned]:
    """Refuse indexes without all their images; with `partial` only those without any are left out. Says so."""
    incomplete = [one for one in planned if one.missing and not one.later]
    some = [one for one in planned if len(one.missing) < len(one.members)]
    if incomplete and not (partial and some):
        raise IndexIncompleteError(
            f"images are missing of {', '.join(one.name for one in incomplete)}",
            why="\n".join(dict.fromkeys(line for one in incomplete for line in _missing_lines(one))),
            remedy="run `./factory build` for them, or choose them"
            + ("" if partial else "; --partial publishes the others"),
        )
    for one in () if quiet else incomplete:
        progress(*(f"Note: missing in {one.name}: {line}" for line in _missing_lines(one)))
        if one in some and one.members[0] in one.missing:
            progress(
                f"Note: {one.name} has no entry without a variant: docker finds an image only on a CPU of a level that "
                "is there, and containerd, podman and skopeo find none"
            )
    return some


def _missing_lines(planned: _Planned) -> Iterator[str]:
    yield from (f"{one.platform}: {one.variant}: {one.because}" for one in planned.missing)


def _row(planned: _Planned, published: Published | None = None, status: str = "") -> dict[str, object]:
    """An index as JSON has it (docs/json.md)."""
    return {
        "name": planned.name,
        "release": planned.index.release,
        "digest": (published.digest or None) if published else None,
        "status": status or ("not_moved" if planned.later else "incomplete" if planned.missing else "complete"),
        "later": planned.later or None,
        "images": planned.members,
        "entries": published.entries if published else None,
    }


def _text(planned: Sequence[_Planned]) -> str:
    """A line for each image of each index."""
    rows = [
        (one.name, member.platform, member.variant, member.state.replace("_", " "), member.digest or member.because)
        for one in planned
        for member in one.members
    ]
    return table(("index", "platform", "variant", "image", "digest, or reason"), rows, width=width())


def _list(planned: Sequence[_Planned], published: Mapping[str, tuple[Published, str]]) -> str:
    """What is there now, a name in each line."""
    lines = [""]
    for one in planned:
        what, status = published[one.name]
        where = f"stays at {what.later}" if what.later else f"{label(status)}: {what.digest}"
        lines.append(f"{one.name}  {where}")
    return "".join(f"{line}\n" for line in lines)
