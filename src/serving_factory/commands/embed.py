"""`embed`: an image with a model inside, made from a variant's image."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from serving_factory.commands.plan import jobs_of
from serving_factory.commands.shared import EmbedOptions, progress, show
from serving_factory.errors import UsageError
from serving_factory.output.text import count, size
from serving_factory.pipeline.build_lock import hold_lock, hold_matrix_lock
from serving_factory.pipeline.embedding import (
    Embedded,
    Embedding,
    add_names,
    check_ops,
    make_image,
    parse_name,
    plan_embedding,
    push_embedded,
    up_to_date,
)
from serving_factory.pipeline.stages.push import check_pushable
from serving_factory.smoke.embedded import read_request


def embed(options: EmbedOptions) -> None:
    """Check the model, make the image unless it is there, name it and push it; print what was done."""
    if not options.model or not options.variant:
        raise UsageError(
            f"`embed` needs {'--variant' if options.model else 'a MODEL_DIR'}",
            remedy="write it like ./factory embed models/half_plus_two --variant 2.19.1-cpu-v3",
        )
    for name in options.tag:
        parse_name(name)
    request = read_request(Path(options.request)) if options.request else None
    (job,) = jobs_of(options.asked, (options.variant,), sign=bool(options.registry) and not options.dry_run)
    if options.registry:
        check_pushable(job.recipe, options.registry)
    with ExitStack() as locks:
        if not options.dry_run:
            # `compare` and `bench` hold the checkout's alone; without it each would remove the other's containers.
            locks.enter_context(hold_lock(options.asked.checkout.build))
            locks.enter_context(hold_matrix_lock(job.site.build))
        embedding = plan_embedding(job, Path(options.model), name=options.name, request=request)
        made = up_to_date(embedding)
        ops = "" if made else check_ops(embedding)
        facts = dict(_facts(embedding, ops))
        if options.dry_run:
            _print_plan(embedding, made, facts, options)
            return
        before = made
        if made is None:
            progress(*(f"{name}: {text}" for name, text in facts.items()))
            made = make_image(embedding, progress)
        made = add_names(embedding, made, options.tag)
        work = made != before
        if options.registry:
            made, pushed = push_embedded(embedding, made, options.tag, options.registry, progress)
            work |= pushed
    document = {**_document(embedding, facts), "image": made.image, "names": made.all_names, "size": made.size}
    document |= {"work": work, "checks": _pairs(made.checks), "pushed": _pushed(made)}
    show(document, _page(embedding, made, work=work), json=options.json)


def _facts(embedding: Embedding, ops: str) -> Iterator[tuple[str, str]]:
    """What was found out of the model, and how it will be asked."""
    model, question = embedding.model, embedding.question
    over = f"; not {', '.join(map(str, model.passed_over))}, which are lower" if model.passed_over else ""
    alone = ", for the folder is a SavedModel itself" if model.alone else ""
    held = size(sum((model.folder / name).stat().st_size for name in model.files))
    yield "model", f"{embedding.name}, version {model.version}{over}{alone}; {count(len(model.files), 'file')}, {held}"
    takes, gives = (
        ", ".join(f"{name} {kind}" for name, kind in tensors.items()) or "nothing"
        for tensors in (question.kinds.inputs, question.kinds.outputs)
    )
    yield "signature", f"{question.signature}: {takes} -> {gives}"
    if ops:
        yield "ops", ops
    for protocol, why in question.unasked.items():
        yield protocol, f"not asked to predict: {why}"


def _document(embedding: Embedding, facts: Mapping[str, str]) -> dict[str, object]:
    return {
        "variant": embedding.job.recipe.variant.id,
        "model": embedding.name,
        "version": embedding.model.version,
        "sha256": embedding.sha256,
        "signature": embedding.question.signature,
        "facts": _pairs(facts),
        "name": embedding.reference,
    }


def _pairs(texts: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "text": text} for name, text in texts.items()]


def _pushed(made: Embedded) -> list[str]:
    return [f"{one.name}:{tag}@{digest}" for one in made.places for tag, digest in one.digests.items()]


def _print_plan(embedding: Embedding, made: Embedded | None, facts: Mapping[str, str], options: EmbedOptions) -> None:
    steps = [] if made else ["build", "try", "tag"]
    steps += ["tag"] if made and set(options.tag) - set(made.names) else []
    steps += ["push"] if options.registry else []
    lines = [f"  {name:<9}  {text}" for name, text in facts.items()]
    lines += [f"  {'image':<9}  {name}" for name in (embedding.reference, *options.tag)]
    end = f"Would {', '.join(steps)}." if steps else "Nothing to do: the image is there."
    text = "".join(f"{line}\n" for line in [*lines, "", f"{end} Nothing was started."])
    show({**_document(embedding, facts), "would": steps}, text, json=options.json)


def _page(embedding: Embedding, made: Embedded, *, work: bool) -> str:
    if not work:
        return f"Nothing to do: {made.name} holds version {made.version} of {made.model} already.\n"
    gpu = ("--gpus", "all") if embedding.job.recipe.variant.cuda else ()
    command = ("docker", "run", "--rm", *gpu, "--read-only", "-p", "8500:8500", "-p", "8501:8501", made.all_names[-1])
    lines = [f"Version {made.version} of {made.model} is in {' and '.join(made.all_names)}, {size(made.size)}."]
    lines += [f"pushed  {name}" for name in _pushed(made)]
    return "".join(f"{line}\n" for line in [*lines, "", shlex.join(command)])
