"""`doctor`: whether this machine can build what is chosen."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence

from serving_factory.catalogue.cuda import Cuda
from serving_factory.catalogue.levels import Level, emulated_cpus
from serving_factory.commands.plan import Plan, plan_run, site_of
from serving_factory.commands.shared import Asked, RunOptions, show
from serving_factory.docker.caches import cache_sizes
from serving_factory.docker.emulator import Emulator
from serving_factory.docker.engine import Engine
from serving_factory.docker.host import EngineFacts, collection_rules, engine_facts
from serving_factory.docker.http import reach_all
from serving_factory.doctor import checks as doctor_checks
from serving_factory.doctor import probes
from serving_factory.doctor.checks import Check, Verdict, fail, newest_served, seen_here
from serving_factory.errors import EngineError, EngineUnavailableError, MachineUnfitError
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.variant import Variant
from serving_factory.output.text import clean, clean_lines, count, words
from serving_factory.pipeline.budget import LIGHT, Budget, Turn
from serving_factory.pipeline.history import disk_of
from serving_factory.pipeline.job import Job
from serving_factory.pipeline.pins import route_of
from serving_factory.pipeline.runner import plan_stages
from serving_factory.pipeline.stages import stages_for
from serving_factory.recipes.addresses import Kind, downloads_of
from serving_factory.recipes.recipe import CACHES, Recipe, recipes_for


def examine(asked: Asked, *, driver: str = "", json: bool) -> None:
    """Print what is found on this machine; MachineUnfitError where a build of the chosen variants would fail.

    With `driver`, only whether a machine that has it can serve them.
    """
    matrix = asked.load()
    variants = asked.choose(matrix)
    needed = {one.id: cuda for one in variants if (cuda := matrix.cuda_of(one))}
    if driver:
        checks = [doctor_checks.check_driver(driver, needed, asked=True)]
    else:
        checks = list(_checks(asked, matrix, variants, needed))
        driver = probes.gpu_driver() or ""
    document: dict[str, object] = {"checks": checks, "driver": None}
    if driver:
        served = {"newest_release": newest_served(driver), "newest_release_with_ptx": newest_served(driver, ptx=True)}
        document["driver"] = {"version": driver, **served}
    show(document, doctor_page(checks), json=json)
    failed = [check.name for check in checks if check.verdict is Verdict.FAIL]
    if failed:
        raise MachineUnfitError(
            f"{count(len(failed), 'check')} failed: {', '.join(failed)}",
            remedy="do what each of them says, and run the doctor again",
        )


def doctor_page(checks: Sequence[Check]) -> str:
    """A line per check; below it the consequence and the remedy, where it is not ok."""
    margin = max((len(check.name) for check in checks), default=0)
    lines: list[str] = []
    for check in checks:
        lines.append(f"{check.verdict:<4}  {check.name:<{margin}}  {clean(check.found)}")
        for label, text in (("Consequence", check.means), ("What to do", check.remedy)):
            lines += [f"{'':<{margin + 8}}{label}: {' '.join(clean_lines(text))}"] if text else []
    totals = words({verdict: sum(check.verdict is verdict for check in checks) for verdict in Verdict})
    return "".join(f"{line}\n" for line in [*lines, "", f"{count(len(checks), 'check')}: {totals}."])


def _checks(asked: Asked, matrix: Matrix, variants: Sequence[Variant], needed: Mapping[str, Cuda]) -> Iterator[Check]:
    recipes, _ = recipes_for(variants, matrix)
    try:
        facts = engine_facts()
    except EngineUnavailableError as error:
        found = " ".join(filter(None, (error.what, error.why)))
        yield fail("engine", found, "nothing can be built; checks that need the engine are left out", error.remedy)
        facts = None
    budget = Budget.of_machine(cpus=facts.cpus, memory=facts.memory) if facts else None
    site = site_of(asked)
    jobs = [Job(recipe=recipe, site=site) for recipe in recipes]
    limits = RunOptions(asked=asked).limits(matrix.resources)
    work = [one for one in plan_stages(jobs, stages_for(registry=False)) if one.run]
    plan = plan_run(asked, jobs, work, limits=limits, budget=budget)
    compiles = {one.variant for one in work if one.compiles}
    disk = [disk_of(recipe) for recipe in recipes if recipe.variant.id in compiles]
    if facts:
        yield from _engine_checks(facts, planned=sum(disk))
        yield from _gpu_checks(facts, needed)
        yield _memory(facts, plan)
        free = probes.free_disk(facts)
        yield doctor_checks.check_disk(free=free, one=max(disk, default=0), planned=sum(disk))
    yield from _machine_checks(matrix, variants, facts)
    yield _emulator(site.emulator, {one.level for one in variants})
    yield from _network_checks(matrix, recipes, facts)


def _engine_checks(facts: EngineFacts, *, planned: int) -> Iterator[Check]:
    yield from (check(facts) for check in doctor_checks.ENGINE_CHECKS)
    if facts.buildx:
        yield _collection(facts, planned)


def _gpu_checks(facts: EngineFacts, needed: Mapping[str, Cuda]) -> Iterator[Check]:
    driver, elsewhere = probes.gpu_driver(), probes.engine_elsewhere(facts)
    yield seen_here(doctor_checks.check_gpu(facts.gpu, driver, planned=bool(needed)), elsewhere)
    if driver and needed:
        yield seen_here(doctor_checks.check_driver(driver, needed, asked=False), elsewhere)


def _collection(facts: EngineFacts, planned: int) -> Check:
    try:
        rules = collection_rules()
        held, caches = cache_sizes(CACHES)
    except EngineUnavailableError as error:
        return fail("garbage collection", f"{error.what} {error.why}", "buildx does not work", error.remedy)
    free = probes.free_disk(facts)
    return doctor_checks.check_collection(rules, held=held, caches=caches, planned=planned, free=free)


def _memory(facts: EngineFacts, plan: Plan) -> Check:
    expected = {one.variant: one.memory or 0 for one in plan.estimate.variants}
    waves: dict[int, list[Turn]] = {}
    for turn in plan.schedule.turns:
        if turn.share.jobs:
            waves.setdefault(turn.wave, []).append(turn)
    largest = max(waves.values(), key=lambda turns: sum(expected.get(turn.variant, 0) for turn in turns), default=[])
    return doctor_checks.check_memory(
        cpus=facts.cpus,
        memory=facts.memory,
        at_once=len(largest),
        share=largest[0].share if largest else LIGHT,
        needed=plan.estimate.memory,
    )


def _machine_checks(matrix: Matrix, variants: Sequence[Variant], facts: EngineFacts | None) -> Iterator[Check]:
    elsewhere = probes.engine_elsewhere(facts)
    if elsewhere:
        yield doctor_checks.check_place(elsewhere)
    yield seen_here(doctor_checks.check_inotify(probes.inotify_limits()), elsewhere)
    levels = {one.id: one.level for one in matrix.variants}
    cpu = doctor_checks.check_cpu(
        probes.cpu_flags(),
        {one.id: one.level for one in variants},
        {name: [levels[id_] for id_ in ids] for name, ids in matrix.targets.items()},
    )
    yield seen_here(cpu, elsewhere)


def _emulator(emulator: Emulator | None, planned: Collection[Level]) -> Check:
    if emulator is None:
        return doctor_checks.check_emulator("", {})
    cpus = {level: cpu for level, cpu in emulated_cpus().items() if level in planned}
    refused = {level: why for level, cpu in cpus.items() if (why := emulator.why_not(cpu))}
    return doctor_checks.check_emulator(f"qemu {emulator.version}, {emulator.path}", refused)


def _network_checks(matrix: Matrix, recipes: Sequence[Recipe], facts: EngineFacts | None) -> Iterator[Check]:
    network = matrix.network
    proxies = {"http": network.proxies.http, "https": network.proxies.https, "no": network.proxies.no}
    yield doctor_checks.check_proxies(
        probes.environment_proxies(os.environ),
        facts.proxies if facts else {},
        {name: value for name, value in proxies.items() if value},
    )
    downloads = tuple(dict.fromkeys(one for recipe in recipes for one in downloads_of(recipe, network)))
    places = [one.place for one in downloads if one.kind in {Kind.FILE, Kind.HOST}]
    yield doctor_checks.check_downloads(downloads, reach_all(places, route=route_of(network)))
    yield doctor_checks.check_login(*probes.login(matrix.images.repository, facts))
    if facts and doctor_checks.check_engine(facts).verdict is not Verdict.FAIL:
        yield _bases(
            tuple(dict.fromkeys(one.image for recipe in recipes for one in (recipe.base, recipe.runtime_base)))
        )


def _bases(bases: Sequence[str]) -> Check:
    try:
        engine = Engine.connect()
        return doctor_checks.check_bases({base: probes.base_state(base, engine) for base in bases})
    except (EngineUnavailableError, EngineError) as error:
        found = f"{error.what} {error.why}".rstrip()
        return fail("base images", found, "the docker command reaches the engine, the factory does not", error.remedy)
