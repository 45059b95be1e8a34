"""`compare`: images under load, side by side: a page with charts, JSON, and a table."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from serving_factory.commands.compare_page import comparison_page
from serving_factory.commands.images import build_command, named_image
from serving_factory.commands.shared import CompareOptions, progress, show, width
from serving_factory.commands.watched import watched
from serving_factory.docker.engine import Engine
from serving_factory.docker.host import GpuAccess
from serving_factory.docker.process import Cancel
from serving_factory.errors import GpuMissingError, ServerNotReadyError, UnknownNameError, UsageError
from serving_factory.load.results import Figures, Results, results_of
from serving_factory.load.rounds import PATIENCE, Plan, measure
from serving_factory.load.servers import Subject, started
from serving_factory.load.statistics import CONFIDENCE, spread
from serving_factory.output.text import duration, size, table
from serving_factory.pipeline.build_lock import hold_lock
from serving_factory.pipeline.events import document_text
from serving_factory.pipeline.job import Site
from serving_factory.pipeline.records import write_atomically

_GPU_VARIABLE = "NVIDIA_VISIBLE_DEVICES"  # set in images that NVIDIA's tools are to give GPUs
_USUAL_INPUTS = 3
_PICTURES = ("picture_encoded", "picture")  # the first decodes
_NO_OP = "Op type"  # begins what a server says of an op that it does not have, or not for strings
_IDLE = 0.25  # of the CPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What was measured, and how."""

    started: str  # UTC, ISO 8601
    machine: Mapping[str, object]
    plan: Plan
    results: Results


def compare(words: Sequence[str], options: CompareOptions) -> None:
    """Measure images against each other, and write the page and its JSON; a dry run only says what would be done."""
    page = Path(options.output)
    if page.suffix == ".json":
        raise UsageError(
            f"`--output` names the page, got {options.output!r}",
            why="JSON goes beside the page, into the file of the same name that ends in .json",
            remedy=f"write it like --output {page.with_suffix('.html')}",
        )
    images = _images(words, options)
    models = _models(options)
    if options.dry_run:
        plan = _plan(options, _subjects(images, options.cpus or (1.0,), None), models[0])
        inputs = len(options.sizes or ()) or _USUAL_INPUTS
        show(_planned(plan, inputs), _plan_text(plan, options, inputs), json=options.json)
        return
    comparison = _run(images, models, options)
    document = document_of(comparison)
    write_atomically(page, comparison_page(comparison))
    write_atomically(page.with_suffix(".json"), document_text(document))
    show(document, _text(comparison, page), json=options.json)


def _run(images: Mapping[str, str], models: Sequence[Path], options: CompareOptions) -> Comparison:
    """Check what the engine has, and measure."""
    site = Site(build=options.asked.checkout.build, models=options.asked.checkout.models, report=progress)
    with hold_lock(site.build):
        engine = site.engine
        engine.remove_strays(site.owner)
        subjects = _checked(engine, images, options)
        plan = _plan(options, subjects, _loadable(engine, subjects, models, site.owner), owner=site.owner)
        return _measured(engine, plan)


def _images(words: Sequence[str], options: CompareOptions) -> dict[str, str]:
    """The name of each image as it was typed -> what `docker run` takes."""
    if not words:
        raise UsageError("`compare` takes IMAGE..., got no word", remedy="`./factory compare --help` shows examples")
    if twice := [word for number, word in enumerate(words) if word in words[:number]]:
        raise UsageError(
            f"{twice[0]} is named twice", remedy="name each image once; --cpus 1,8 gives it several limits"
        )
    variants = {one.id for one in options.asked.load().variants}
    images = {word: named_image(options.asked, word, variants) for word in words}
    return {word: image.name if image else word for word, image in images.items()}


def _models(options: CompareOptions) -> list[Path]:
    """The models to try, the first that all servers load is used."""
    if not options.model:
        return [options.asked.checkout.models / name for name in _PICTURES]
    model = Path(options.model)
    if not any((one / "saved_model.pb").is_file() for one in model.glob("[0-9]*")):
        raise UsageError(
            f"`--model` must be a folder with a numbered folder and saved_model.pb in that, got {options.model!r}",
            remedy="name the folder above the version: models/resnet, where models/resnet/1/saved_model.pb is",
        )
    return [model]


def _subjects(images: Mapping[str, str], cpus: Sequence[float], gpus: Mapping[str, GpuAccess] | None) -> list[Subject]:
    """Each image with each limit, and those for GPUs on one."""
    limits = {limit: f", {limit:g} CPU{'s' * (limit != 1)}" if len(cpus) > 1 or gpus else "" for limit in cpus}
    found = [
        Subject(name=f"{name}{text}", image=image, cpus=limit)
        for limit, text in limits.items()
        for name, image in images.items()
    ]
    return [*found, *(Subject(name=f"{name}, GPU", image=images[name], gpu=gpu) for name, gpu in (gpus or {}).items())]


def _checked(engine: Engine, images: Mapping[str, str], options: CompareOptions) -> list[Subject]:
    """The subjects, once the engine is known to have what they need."""
    for name, image in images.items():
        if engine.image_id(image) is None:
            raise UnknownNameError(
                f"the engine has no image {image}",
                remedy=f"docker pull {image}" if name == image else build_command(options.asked, name),
            )
    cpus, most = options.cpus or (1.0,), engine.capacity()[0]
    if max(cpus) > most:
        raise UsageError(
            f"`--cpus {max(cpus):g}`: the engine's machine has {most}",
            remedy=f"give --cpus {most} at most",
        )
    if not options.gpus:
        return _subjects(images, cpus, None)
    for_gpus = [name for name, image in images.items() if _GPU_VARIABLE in engine.image_environment(image)]
    if not for_gpus:
        raise UsageError(f"`--gpus`: none of the images is for GPUs: {', '.join(images)}", remedy="name a gpu variant")
    access = engine.gpu()
    if access is None:
        raise GpuMissingError(
            "`--gpus`: the engine can give containers no GPU",
            remedy="docs/gpu.md says what is missing; leave --gpus out to compare on the CPU",
        )
    return _subjects(images, cpus, dict.fromkeys(for_gpus, access))


def _plan(options: CompareOptions, subjects: Sequence[Subject], model: Path, owner: str = "factory") -> Plan:
    chosen = {name: value for name in ("rates", "rounds", "seconds") if (value := getattr(options, name)) is not None}
    return Plan(subjects=subjects, model=model, sizes=options.sizes or (), owner=owner, **chosen)


def _loadable(engine: Engine, subjects: Sequence[Subject], models: Sequence[Path], owner: str) -> Path:
    """The first model that all servers load: one that lacks an op of the first loads the second."""
    for model in models[:-1]:
        try:
            for subject in {one.image: one for one in subjects}.values():
                progress(f"{subject.name}: does it load {model.name}?")
                with started(engine, subject, model, owner=owner, patience=PATIENCE, cancel=Cancel()):
                    pass
        except ServerNotReadyError as error:
            if _NO_OP not in error.what:
                raise
            progress(f"{subject.name} cannot decode pictures: the client decodes, and sends pixels.")
        else:
            return model
    return models[-1]


def _measured(engine: Engine, plan: Plan) -> Comparison:
    cpus, memory = engine.capacity()
    began = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    load = round(os.getloadavg()[0], 2)
    machine = {"cpus": cpus, "memory": memory, "load_average": load}
    with watched() as on_step:
        measured = measure(engine, plan, cancel=Cancel(), on_step=on_step)
    sizes = {one.image: engine.image_size(one.image) for one in plan.subjects}
    results = results_of(measured, plan.subjects, sizes)
    if load > _IDLE * cpus:
        busy = f"The machine was busy before this began: a load average of {load:g} on {cpus} CPUs."
        results = replace(results, notes=(busy, *results.notes))
    return Comparison(started=began, machine=machine, plan=plan, results=results)


# --- what is printed --------------------------------------------------------------------------------------------------


def _planned(plan: Plan, inputs: int) -> dict[str, object]:
    return {
        "plan": _plan_document(plan),
        "estimate": round(plan.estimate(inputs)),
        "estimate_decoding": round(plan.estimate(2 * inputs)) if plan.model.name in _PICTURES else None,
    }


def _plan_document(plan: Plan) -> dict[str, object]:
    return {
        "servers": [
            {"name": one.name, "image": one.image, "cpus": one.cpus, "gpu": one.gpu is not None}
            for one in plan.subjects
        ],
        "model": str(plan.model),
        "sizes": list(plan.sizes),
        "protocols": list(plan.protocols),
        "rates": None if plan.rates is None else list(plan.rates),
        "rounds": plan.rounds,
        "seconds": plan.seconds,
        "warm_up": plan.warm_up,
        "connections": plan.connections,
    }


def document_of(comparison: Comparison) -> dict[str, object]:
    """The document of `--json`, which is also written beside the page."""
    return {
        "started": comparison.started,
        "machine": comparison.machine,
        "plan": _plan_document(comparison.plan),
        "confidence": CONFIDENCE,
        **{name: getattr(comparison.results, name) for name in ("servers", "figures", "notes")},
    }


def _plan_text(plan: Plan, options: CompareOptions, inputs: int) -> str:
    rows = [(one.name, one.image, "all" if one.gpu else f"{one.cpus:g}") for one in plan.subjects]
    decoding = "" if options.model else f"; {duration(plan.estimate(2 * inputs))} where all decode, PNG and JPEG"
    usual = "half and four fifths of what the slowest answers"
    rates = f"{', '.join(f'{rate:g}' for rate in plan.rates)} requests/s" if plan.rates else usual
    return (
        f"{table(('server', 'image', '>CPUs'), rows, width=width())}\n"
        f"  model     {options.model or 'a picture model, which decodes pictures where all servers can'}\n"
        f"  sizes     {', '.join(map(str, plan.sizes)) or 'the usual ones'}\n"
        f"  load      {' and '.join(plan.protocols)} on {plan.connections} connections: without pause, at set rates\n"
        f"  rates     {rates}\n"
        f"  rounds    {plan.rounds}, each of {plan.seconds:g} s for each load\n"
        f"  estimate  {duration(plan.estimate(inputs))}{decoding}\n"
        f"  writes    {options.output}, {Path(options.output).with_suffix('.json')}\n"
    )


def _text(comparison: Comparison, page: Path) -> str:
    results = comparison.results
    servers = [(one.name, size(one.image_size), f"{spread(one.start)} s") for one in results.servers]
    heads = ("server", "protocol", "input", ">rate", ">answers/s", ">p50 ms", ">p99 ms", ">ratio", "")
    return (
        f"{table(('server', '>image', '>start'), servers, width=width())}\n"
        f"{table(heads, [_row(one) for one in results.figures], width=width())}\n"
        + "".join(f"Note: {note}\n" for note in results.notes)
        + f"Written: {page}, {page.with_suffix('.json')}\n"
    )


def _row(one: Figures) -> tuple[str, ...]:
    first, *_, last = one.latencies
    ratio = f"{spread(one.ratio)}" if one.ratio else ""
    certain = {True: "", False: "not certain", None: ""}[one.differs]
    return (
        *(one.server, one.protocol, one.input, f"{one.rate:g}" if one.rate else "most"),
        *(
            spread(one.per_second),
            *(spread(each.seconds, factor=1000) for each in (first, last)),
            ratio,
            certain,
        ),
    )
