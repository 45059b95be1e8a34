"""Measures subjects in rounds: each starts again in each round, and each load goes to one after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from serving_factory.docker.engine import Engine
from serving_factory.docker.process import Cancel
from serving_factory.load.generator import Sample, Send, closed_loop, open_loop
from serving_factory.load.inputs import Input, inputs_for
from serving_factory.load.servers import GRPC, MODEL, REST, Running, Subject, started

SHARES = (0.5, 0.8)
"""Rates where none are set: these shares of what the slowest subject answered to an input in the first round."""
PATIENCE = 120.0  # seconds that a start may take
_START = 2.0  # seconds that a start is estimated with
_LONGEST_ANSWER = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to measure; at least `statistics.FEWEST_ROUNDS` rounds make figures with a confidence."""

    subjects: Sequence[Subject]
    model: Path  # the folder with the model's version folders
    sizes: Sequence[int] = ()  # of inputs; none for the usual ones of the model's signature (`inputs.inputs_for`)
    protocols: Sequence[str] = (REST, GRPC)
    rates: Sequence[float] | None = None  # requests a second to send; None for SHARES, none for the most only
    rounds: int = 7
    seconds: float = 1.0  # how long each load is sent to a subject in each round
    connections: int = 4
    patience: float = PATIENCE
    owner: str = "factory"  # the containers' label

    @property
    def warm_up(self) -> float:
        """Seconds without pause before each measurement without pause; they do not count."""
        return self.seconds / 2

    def estimate(self, inputs: int) -> float:
        """About how many seconds it takes, with so many inputs."""
        loads = len(self.protocols) * inputs
        rates = len(SHARES if self.rates is None else self.rates)
        each = _START + loads * (self.warm_up + self.seconds * (1 + rates))
        return self.rounds * len(self.subjects) * each


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent: over which protocol, which input (by its name), and how often a second; None for without pause."""

    protocol: str
    input: str
    rate: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """A sample of each round; loads in the order in which they were sent."""

    samples: dict[tuple[Subject, Load], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    starts: dict[Subject, list[float]] = field(default_factory=lambda: defaultdict(list))  # seconds until it served
    sizes: dict[str, Mapping[str, int]] = field(default_factory=dict)  # input -> protocol -> bytes of a request
    without_rest: set[Subject] = field(default_factory=set)

    def loads(self) -> list[Load]:
        """All loads, each once."""
        return list(dict.fromkeys(load for _, load in self.samples))


OnStep = Callable[[int, int, str], None]
"""Gets steps done, steps in all (0 where not known yet), and what is being done."""


def measure(engine: Engine, plan: Plan, *, cancel: Cancel, on_step: OnStep) -> Measured:
    """Measure; no container is left, however it ends. Raises ServerNotReadyError, LoadError, CancelledError."""
    run = _Run(engine, plan, cancel, on_step)
    for number in range(plan.rounds):
        run.round(number)
    return run.measured


class _Run:
    """One run, and what it has found so far."""

    def __init__(self, engine: Engine, plan: Plan, cancel: Cancel, on_step: OnStep) -> None:
        self.measured = Measured()
        self._engine, self._plan, self._cancel, self._on_step = engine, plan, cancel, on_step
        self._inputs: list[Input] = []
        self._rates: dict[tuple[str, str], Sequence[float]] = {}
        self._done = 0
        self._where = ""

    def round(self, number: int) -> None:
        """Start all subjects, send each load to each of them, and stop them."""
        plan, self._where = self._plan, f"round {number + 1} of {self._plan.rounds}"
        with ExitStack() as stack:
            # To be the first may be an advantage, so that another one is in each round.
            running = [stack.enter_context(self._started(one)) for one in _turned(plan.subjects, number)]
            self._inputs = self._inputs or inputs_for(MODEL, running[0].signature, plan.sizes)
            if not number and REST in plan.protocols:
                self.measured.without_rest.update(
                    one.subject for one in running if not one.has_rest(self._inputs[0], self._cancel)
                )
            for protocol in plan.protocols:
                those = [one for one in running if protocol != REST or one.subject not in self.measured.without_rest]
                for asked in self._inputs if those else ():
                    self._ask(protocol, asked, those)

    @contextmanager
    def _started(self, subject: Subject) -> Iterator[Running]:
        plan = self._plan
        self._step(f"{subject.name} starts")
        with started(
            self._engine, subject, plan.model, owner=plan.owner, patience=plan.patience, cancel=self._cancel
        ) as running:
            self.measured.starts[subject].append(running.seconds)
            yield running

    def _ask(self, protocol: str, asked: Input, running: Sequence[Running]) -> None:
        """Send an input to all of them: without pause, then at each rate."""
        plan, first, key = self._plan, Load(protocol, asked.name), (protocol, asked.name)
        self.measured.sizes[asked.name] = {REST: len(asked.rest), GRPC: len(asked.grpc)}
        with ExitStack() as stack:
            opened = [one.connections(protocol, asked, plan.connections, _LONGEST_ANSWER) for one in running]
            sends = [stack.enter_context(one) for one in opened]

            def send(load: Load, run: Callable[[Sequence[Send]], Sample]) -> None:
                for one, connections in zip(running, sends, strict=True):
                    self._step(f"{one.subject.name}, {protocol}, {asked.name}")
                    sample = run(connections)
                    if not sample.latencies:
                        raise one.fault(sample.failures[0] if sample.failures else "no answer in time")
                    self.measured.samples[one.subject, load].append(sample)

            send(first, self._warmed_up)
            if key not in self._rates:
                slowest = min(self.measured.samples[one.subject, first][0].per_second for one in running)
                shares = [float(f"{slowest * share:.2g}") for share in SHARES]
                self._rates[key] = shares if plan.rates is None else plan.rates
            for rate in self._rates[key]:
                send(Load(protocol, asked.name, rate), partial(open_loop, rate=rate, seconds=plan.seconds))

    def _warmed_up(self, sends: Sequence[Send]) -> Sample:
        closed_loop(sends, self._plan.warm_up)
        return closed_loop(sends, self._plan.seconds)

    def _step(self, text: str) -> None:
        self._cancel.check()
        plan = self._plan
        rates = len(SHARES if plan.rates is None else plan.rates)
        loads = len(plan.protocols) * len(self._inputs) * (1 + rates)
        steps = plan.rounds * len(plan.subjects) * (1 + loads) if self._inputs else 0
        self._on_step(self._done, steps, f"{self._where}: {text}")
        self._done += 1


def _turned(subjects: Sequence[Subject], by: int) -> Sequence[Subject]:
    by %= len(subjects)
    return [*subjects[by:], *subjects[:by]]
