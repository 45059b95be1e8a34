#!/usr/bin/env python3
"""Tries a gpu image on a machine with a GPU and without Docker, from its root file system. docs/gpu.md has the steps.

    docker export $(docker create IMAGE) | gzip >image.tar.gz     # on the machine that built it
    python3 scripts/gpu_smoke.py image.tar.gz                     # on the machine with the GPU, in a checkout

Python 3.8 and tar are enough; root is not needed. Exit codes are those of docs/exit-codes.md: 0 when the GPU computed
rightly in every way, 32 a wrong answer, 35 no GPU here, 36 a driver that is too old, 37 a server that left the GPU out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from serving_factory.errors import (  # noqa: E402
    FactoryError,
    GpuDriverError,
    GpuMissingError,
    ServerNotReadyError,
    SmokeError,
    UsageError,
)
from serving_factory.smoke.gpu import REPEATS, WAYS, Served, Trial, Way  # noqa: E402

_SERVERS = ("usr/lib/serving-factory/tensorflow_model_server", "usr/bin/tensorflow_model_server")
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64")
_LOADER = "ld-linux-x86-64.so.2"
# Where drivers are that the loader's cache does not name: NVIDIA's containers and Google's machines, WSL2
_DRIVER_FOLDERS = ("/usr/local/nvidia/lib64", "/usr/lib/wsl/lib")
_DRIVER = re.compile(r"lib(?:cuda|nvidia-[\w-]+)\.so[\d.]*")
_VERSION = re.compile(r"\b\d{3,4}(?:\.\d+){1,2}\b")
_TAIL = 30  # lines of a log in an error
_WITHOUT_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def unpack(image: Path, folder: Path) -> Path:
    """Unpack what `docker export` wrote; a folder is taken as it is."""
    if image.is_dir():
        return image
    command = ["tar", "-xf", str(image), "-C", str(folder), "--no-same-owner", "--exclude=dev/*", "--exclude=./dev/*"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise UsageError(
            f"{image} cannot be unpacked.", why=done.stderr.strip(), remedy="name what `docker export` wrote"
        )
    return folder


def image_facts(root: Path) -> dict[str, str]:
    """Read what the image says of itself, `NAME="value"` a line."""
    file = root / "usr/share/serving-factory/image.env"
    if not file.is_file():
        raise UsageError(f"{root} is no root file system of an image of serving-factory.", remedy="use `docker export`")
    pairs = (line.partition("=") for line in file.read_text(encoding="utf-8").splitlines())
    return {name: value.strip('"') for name, _, value in pairs}


def driver_libraries() -> dict[str, Path]:
    """Find the driver's libraries on this machine, by name; those that the loader itself would take go first."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, text=True, check=False).stdout
    found = [Path(line.rpartition(" => ")[2]) for line in listed.splitlines() if "x86-64" in line]
    found += [file for folder in _DRIVER_FOLDERS for file in sorted(Path(folder).glob("lib*.so*"))]
    by_name: dict[str, Path] = {}
    for file in found:
        if _DRIVER.fullmatch(file.name):
            by_name.setdefault(file.name, file)
    return by_name


def driver_version(libraries: Mapping[str, Path]) -> str:
    """Find the driver's version, by the file that libcuda is, or by the kernel module; empty if neither has it."""
    module = Path("/proc/driver/nvidia/version")
    texts = [libraries["libcuda.so.1"].resolve().name.partition(".so.")[2]] if "libcuda.so.1" in libraries else []
    texts += [module.read_text(encoding="utf-8")] if module.is_file() else []
    found = (_VERSION.search(text) for text in texts)
    return next((match[0] for match in found if match), "")


def check_driver(facts: Mapping[str, str], libraries: Mapping[str, Path]) -> str:
    """Refuse a driver that is too old for the image's CUDA, as `smoke` does; give its version."""
    driver, needed = driver_version(libraries), facts.get("DRIVER", "")
    if driver and needed and tuple(map(int, driver.split("."))) < tuple(map(int, needed.split("."))):
        raise GpuDriverError(
            "This machine's NVIDIA driver is too old.",
            why=f"CUDA {facts.get('CUDA')} needs driver {needed} or later, not {driver}.",
            remedy="install a newer driver, or use an image of a release with an older CUDA",
        )
    return driver


class Server:
    """The image's server, which runs on this machine."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, model: str, log: Path, patience: float) -> None:
        self.process = process
        self.port = port
        self.model = model
        self.log = log
        self.patience = patience
        self.refusal = ""

    def fault(self, kind: type[FactoryError], what: str, why: str = "") -> FactoryError:
        """Make an error that ends with the server's log."""
        tail = "\n".join(f"  {line}" for line in self.log.read_text(errors="replace").splitlines()[-_TAIL:])
        remedy = f"Read the whole log: {self.log}"
        return kind(what, why="\n".join(filter(None, (why, "Last lines of its log:", tail))), remedy=remedy)

    def ask(self, path: str = "", body: bytes | None = None) -> Any:  # noqa: ANN401 - JSON
        """Ask over REST; None where the server does not answer or refuses, and then `refusal` says how."""
        url = f"http://127.0.0.1:{self.port}/v1/models/{self.model}{path}"
        try:
            with _WITHOUT_PROXY.open(url, body, timeout=self.patience) as answer:
                return json.loads(answer.read())
        except urllib.error.HTTPError as error:
            self.refusal = f"HTTP {error.code}: {error.read().decode(errors='replace').strip()}"
        except (OSError, ValueError) as error:
            self.refusal = str(error)
        return None

    def predict(self, body: bytes) -> Any:  # noqa: ANN401 - JSON
        """Ask for predictions, which must come."""
        answer = self.ask(":predict", body)
        if answer is None:
            raise self.fault(SmokeError, f"The server did not answer {self.model}.", self.refusal)
        return answer

    def wait(self, ask: Callable[[], Any], found: Callable[[Any], bool]) -> tuple[Any, float]:
        """Ask until the answer is what is looked for; give it, with the seconds that it took."""
        began = time.monotonic()
        while True:
            answer = ask()
            seconds = time.monotonic() - began
            if answer is not None and found(answer):
                return answer, seconds
            if self.process.poll() is not None:
                raise self.fault(ServerNotReadyError, f"The server ended with exit code {self.process.returncode}.")
            if seconds > self.patience:
                what = f"The server gave no answer within {self.patience:g} s."
                raise self.fault(ServerNotReadyError, what, self.refusal)
            time.sleep(0.05)


def _within(root: Path, names: Sequence[str]) -> Path:
    """Find the first of these files that is in the image, also where links lead."""
    for name in names:
        if (root / name).is_file() and root in (root / name).resolve().parents:
            return root / name
    raise UsageError(f"{root} has none of these: {', '.join(names)}.", remedy="use `docker export` of a whole image")


@contextmanager
def serving(root: Path, libraries: Path, way: Way, model: Path, logs: Path) -> Iterator[Server]:
    """Serve a model in a way, with the image's own loader and libraries and this machine's driver."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = _within(root, _SERVERS)
    # lib64's is a link to an absolute path: here, to this machine's own loader.
    loader = _within(root, [f"{folder}/{_LOADER}" for folder in _LIBRARIES])
    paths = [str(root / name) for name in _LIBRARIES if (root / name).is_dir()] + [str(libraries)]
    command = [str(loader), "--library-path", ":".join(paths), str(server), "--port=0"]
    command += [f"--rest_api_port={port}", f"--model_name={model.name}", f"--model_base_path={model}"]
    log = logs / f"{way.check}.log"
    environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(logs), **way.environment}
    with log.open("w") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield Server(process, port, model.name, log, way.patience)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def try_way(server: Server, facts: Mapping[str, str], way: Way, trial: Trial) -> Served:
    """Ask what a way is asked, and verify it."""
    ready = 0.0
    if facts.get("MODEL_STATUS") == "yes":
        states = ("model_version_status", "AVAILABLE")
        _, ready = server.wait(server.ask, lambda answer: states[1] in json.dumps(answer.get(states[0])))
    rows = trial.question(way).rows
    body = json.dumps({"instances": rows}).encode()
    if ready:
        began = time.monotonic()
        answer = server.predict(body)
        first = time.monotonic() - began
    else:  # before 1.12 REST does not say when a model is ready
        answer, first = server.wait(lambda: server.ask(":predict", body), lambda _: True)
    began = time.monotonic()
    for _ in range(REPEATS):
        server.predict(body)
    later = (time.monotonic() - began) / REPEATS
    numbers = [number for row in answer["predictions"] for number in (row if isinstance(row, list) else [row])]
    log = server.log.read_text(errors="replace")
    try:
        return trial.verify(way, log, numbers, seconds=(ready, first, later))
    except FactoryError as error:
        raise server.fault(type(error), error.what, error.why) from error


def try_image(root: Path, models: Path, logs: Path, scratch: Path) -> None:
    """Try an image in every way, and print what each showed."""
    facts = image_facts(root)
    if facts.get("REST") == "no":
        raise UsageError("This release has no REST, and gRPC needs more than Python.", remedy="use `./factory smoke`")
    libraries = driver_libraries()
    driver = check_driver(facts, libraries)
    folder = scratch / "driver"
    folder.mkdir()
    for name, file in libraries.items():
        (folder / name).symlink_to(file)
    code = facts["CAPABILITIES"].split() if facts.get("CAPABILITIES") else None
    trial = Trial(code=code, library=any(root.rglob("libcublas.so*")))
    print(f"{facts.get('VARIANT')}, driver {driver or 'unknown'}")
    for way in WAYS:
        if way.on_gpu and "libcuda.so.1" not in libraries:
            raise GpuMissingError(
                "No GPU computed: this machine has no NVIDIA driver.",
                why="There is no libcuda.so.1. What was tried on the CPU passed.",
                remedy="run this on a machine with a GPU",
            )
        if reason := trial.why_not(way):
            print(f"{way.check:<17} left out: {reason}")
            continue
        if way.note:
            print(f"{way.check:<17} {way.note} ...", flush=True)
        with serving(root, folder, way, models / trial.question(way).model, logs) as server:
            print(f"{way.check:<17} {try_way(server, facts, way, trial)}", flush=True)
    print(f"{trial.gpu} computed rightly")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image", type=Path, help="what `docker export` wrote, or a folder with that")
    parser.add_argument(
        "--models", type=Path, default=ROOT / "samples/model_server/models", help="default: the sample's"
    )
    parser.add_argument("--logs", type=Path, default=Path("gpu-smoke"), help="folder for the servers' logs")
    arguments = parser.parse_args()
    arguments.logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gpu-smoke-") as scratch:
        try:
            (Path(scratch) / "root").mkdir()
            root = unpack(arguments.image, Path(scratch) / "root")
            try_image(root.resolve(), arguments.models.resolve(), arguments.logs.resolve(), Path(scratch))
        except FactoryError as error:
            print(f"Error: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
