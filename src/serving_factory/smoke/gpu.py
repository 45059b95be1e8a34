"""How a gpu image is tried on a GPU: the ways to serve, what is asked, and what logs and answers must show.

Of the standard library and for Python 3.8, as `errors` is: scripts/gpu_smoke.py works where nothing else is installed.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serving_factory.errors import GpuUnusedError, SmokeError, WrongAnswerError

TOLERANCE = 1e-4
REPEATS = 20  # answers after the first, of which the mean is reported


@dataclass(frozen=True)
class Question:
    """What a model is asked: rows of numbers."""

    model: str
    rows: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Way:
    """One way to serve; `patience` is how many seconds a first answer may take, `note` why it may take long."""

    check: str
    environment: Mapping[str, str]
    on_gpu: bool = True
    patience: float = 120.0
    note: str = ""


_numbers = random.Random(20190613)  # noqa: S311 - any numbers do, the same in each run
DENSE = Question("dense", [[_numbers.randrange(-128, 129) / 128 for _ in range(256)] for _ in range(8)])
HALF_PLUS_TWO = Question("half_plus_two", [[1.0], [2.0], [5.0]])
HALF_PLUS_TWO_ANSWER = (2.5, 3.0, 4.5)

# TensorFlow multiplies with TF32 from 2.4 on where the GPU can, which alone makes a difference of 1e-4 here; what the
# driver has translated before must not shorten a first answer.
_ON_GPU = {"CUDA_VISIBLE_DEVICES": "0", "NVIDIA_TF32_OVERRIDE": "0", "CUDA_CACHE_DISABLE": "1"}
CPU = Way("gpu-hidden", {"CUDA_VISIBLE_DEVICES": ""}, on_gpu=False)
GPU = Way("gpu", _ON_GPU)
MACHINE_CODE = Way("gpu-machine-code", {**_ON_GPU, "CUDA_DISABLE_PTX_JIT": "1"})
# "could take 30 minutes or longer", says TensorFlow (gpu_device.cc).
PTX = Way(
    "gpu-ptx",
    {**_ON_GPU, "CUDA_FORCE_PTX_JIT": "1"},
    patience=3600.0,
    note="the driver translates all device code, which may take half an hour",
)
WAYS = (CPU, GPU, MACHINE_CODE, PTX)


@dataclass(frozen=True)
class Gpu:
    """A GPU by its name, and its compute capability, `8.0`."""

    name: str
    capability: str

    def __str__(self) -> str:
        return f"{self.name}, capability {self.capability}"


@dataclass(frozen=True)
class Served:
    """How one way served: seconds until ready, for the first answer, and for each after it; how far from the CPU's."""

    way: str  # the check's name
    ready: float
    first: float
    later: float
    difference: float | None  # None of the CPU itself

    def __str__(self) -> str:
        text = f"ready after {self.ready:.2f} s, first answer {self.first:.3f} s, then {1000 * self.later:.1f} ms each"
        return text if self.difference is None else f"{text}; within {self.difference:.1e} of what is right"


@dataclass(frozen=True)
class OnGpu:
    """An image that computed on a GPU: on which, how the container got it, and how each way served."""

    name: str
    capability: str
    access: str  # the option of `docker run`
    driver: str | None  # None where it is not known
    served: tuple[Served, ...]


# gpu_device.cc: "Creating TensorFlow device (/device:GPU:0) -> (device: 0, name: N, ..., compute capability: 3.7)" to
# 1.6, "Created TensorFlow device (" to 2.5, "Created device " from 2.6 on.
_DEVICE = re.compile(
    r"Creat(?:ed|ing) (?:TensorFlow )?device \(?\S*GPU:\d.*?\bname: ([^,]+),.*?\bcompute capability: (\d+\.\d+)"
)
_IGNORED = re.compile(r".*\b(?:Ignoring visible gpu device|failed call to cu\w+|Cannot dlopen).*")
_CODE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def gpu_in(log: str) -> Gpu | None:
    """The first GPU that TensorFlow made a device of, by its log."""
    found = _DEVICE.search(log)
    return Gpu(found[1], found[2]) if found else None


def runs(code: Iterable[str], capability: str, *, ptx: bool = False) -> bool:
    """Whether device code (`sm_80`, `compute_90`) has machine code, or else PTX, that a GPU of a capability can run."""
    # Machine code runs on its major version, PTX on any; neither below what it is made for. `sm_90a` is for 9.0 alone.
    own = tuple(map(int, capability.split(".")))
    for found in filter(None, map(_CODE.fullmatch, code)):
        made_for = int(found[2]), int(found[3])
        fits = made_for == own if found[4] else made_for <= own and (ptx or made_for[0] == own[0])
        if fits and ptx == (found[1] == "compute"):
            return True
    return False


def worst(got: Sequence[float], expected: Sequence[float]) -> float:
    """The greatest difference between two answers; infinite where they are of different lengths, or no numbers."""
    if len(got) != len(expected):
        return math.inf
    differences = [abs(one - other) for one, other in zip(got, expected)]  # noqa: B905 - not known to Python 3.8
    return max(one if math.isfinite(one) else math.inf for one in differences)


class Trial:
    """What the ways that were tried have shown. They are tried in the order of WAYS.

    Args:
        code: the binary's device code, `sm_80` and `compute_90`; None where it is not known.
        library: whether MatMul is computed by NVIDIA's cuBLAS, and not by the server's own device code.
    """

    def __init__(self, *, code: Sequence[str] | None, library: bool) -> None:
        self.gpu: Gpu | None = None
        self.served: list[Served] = []
        self._code = code
        self._library = library
        self._reference: Sequence[float] = ()

    def question(self, way: Way) -> Question:
        """What to ask a server of a way."""
        # cuBLAS itself has no PTX for most of its kernels, and none below its highest capability (read from 12.2.5).
        return HALF_PLUS_TWO if way is PTX and self._library else DENSE

    def why_not(self, way: Way) -> str:
        """Why a way cannot be tried: the binary has no such device code for this GPU. Empty if it can."""
        if self._code is None or self.gpu is None:
            return ""
        if way in (MACHINE_CODE, PTX) and not runs(self._code, self.gpu.capability, ptx=way is PTX):
            what = "the binary has no PTX" if way is PTX else "not all of the binary has machine code"
            return f"{what} for capability {self.gpu.capability}"
        return ""

    def verify(self, way: Way, log: str, answer: Sequence[float], *, seconds: tuple[float, float, float]) -> Served:
        """Compare a way's log and answer with what they must be; `seconds`: until ready, the first answer, the later.

        Raises:
            GpuUnusedError: the server had a GPU and made no device of it.
            WrongAnswerError: the answer differs from the CPU's by more than TOLERANCE.
            SmokeError: the CPU's answer is none, or a GPU was used that was hidden.
        """
        found, asked = gpu_in(log), self.question(way)
        expected = HALF_PLUS_TWO_ANSWER if asked is HALF_PLUS_TWO else self._reference
        if way.on_gpu and found is None:
            said = "\n".join(match[0].strip() for match in _IGNORED.finditer(log))
            raise GpuUnusedError(
                "The server was given a GPU, and computed on the CPU.",
                why=said or "Its log has no line of a device that TensorFlow created.",
                remedy="Read in the log why TensorFlow left the GPU out; docs/gpu.md says what its messages mean.",
            )
        if not way.on_gpu:
            if found is not None:
                raise SmokeError(f"The server used a GPU that was hidden from it: {found.name}.")
            if not any(answer):
                raise SmokeError(
                    f"The CPU's answer of {asked.model} is {list(answer)[:3]}...: nothing can be compared."
                )
            self._reference = answer
        elif worst(answer, expected) > TOLERANCE:
            raise WrongAnswerError(
                f"The GPU answered {asked.model} wrongly.",
                why=f"Got {_some(answer)}, expected {_some(expected)}; "
                f"the greatest difference is {worst(answer, expected):.1e}, and {TOLERANCE:.0e} is allowed.",
            )
        self.gpu = found or self.gpu
        difference = worst(answer, expected) if way.on_gpu else None
        ready, first, later = (round(one, 4) for one in seconds)
        self.served.append(Served(way.check, ready, first, later, difference))
        return self.served[-1]


def _some(numbers: Sequence[float]) -> str:
    return f"[{', '.join(f'{one:.6g}' for one in numbers[:4])}{', ...' if len(numbers) > 4 else ''}]"  # noqa: PLR2004
