"""scripts/gpu_smoke.py on fake images: a Python script stands for the loader that starts the server."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from serving_factory.errors import (
    GpuDriverError,
    GpuMissingError,
    GpuUnusedError,
    ServerNotReadyError,
    SmokeError,
    UsageError,
    WrongAnswerError,
)

from .matrices import ROOT

SCRIPT = ROOT / "scripts" / "gpu_smoke.py"
FACTS = {
    "VARIANT": "2.19.1-gpu-cuda12.2-sm80-90-v3",
    "FLAVOUR": "gpu",
    "REST": "yes",
    "MODEL_STATUS": "yes",
    "CUDA": "12.2",
    "DRIVER": "525.60.13",
    "CAPABILITIES": "sm_80 sm_90 compute_80",
}
LOADER = r"""
import http.server, json, os, pathlib, sys

does = json.loads((pathlib.Path(__file__).resolve().parents[3] / "does.json").read_text())
way = (
    "gpu-hidden" if os.environ["CUDA_VISIBLE_DEVICES"] == ""
    else "gpu-machine-code" if "CUDA_DISABLE_PTX_JIT" in os.environ
    else "gpu-ptx" if "CUDA_FORCE_PTX_JIT" in os.environ
    else "gpu"
)
given = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv if "=" in word)
paths = sys.argv[sys.argv.index("--library-path") + 1].split(":")
print("libcuda.so.1 is there" if any(os.path.exists(f"{path}/libcuda.so.1") for path in paths) else "no libcuda.so.1")
print("LD_LIBRARY_PATH" in os.environ and "the machine's libraries")
print(given["model_name"], flush=True)
if way in does.get("dies", ()):
    sys.exit(134)
if way != "gpu-hidden" and way not in does.get("falls_back", ()):
    print("Created device GPU:0, name: A GPU, compute capability: " + does.get("capability", "8.0"), flush=True)
error = does.get("error", {}).get(way, 0)

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(200, {"model_version_status": [{"version": "1", "state": "AVAILABLE"}]})

    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        if way in does.get("refuses", ()):
            self.answer(500, {"error": "CUDA error 209: no kernel image"})
        elif given["model_name"] == "half_plus_two":
            self.answer(200, {"predictions": [[0.5 * row[0] + 2 + error] for row in rows]})
        else:
            self.answer(200, {"predictions": [[sum(row), len(row) + error] for row in rows]})

    def answer(self, code, document):
        data = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(given["rest_api_port"])), Handler).serve_forever()
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, on a machine with a driver."""
    spec = importlib.util.spec_from_file_location("gpu_smoke", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "libcuda.so.535.54.03").touch()
    (tmp_path / "libcuda.so.1").symlink_to("libcuda.so.535.54.03")
    monkeypatch.setattr(module, "driver_libraries", lambda: {"libcuda.so.1": tmp_path / "libcuda.so.1"})
    monkeypatch.setattr(module, "REPEATS", 2)
    return module


def image(folder: Path, *, facts: dict[str, str] | None = None, **does: Any) -> Path:  # noqa: ANN401 - JSON
    """The root file system of an image, whose loader's usual name leads to the machine's, as Debian's does."""
    root = folder / "image"
    files = {
        "usr/lib/serving-factory/tensorflow_model_server": "",
        "usr/share/serving-factory/image.env": "".join(
            f'{name}="{value}"\n' for name, value in {**FACTS, **(facts or {})}.items()
        ),
        "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": f"#!{sys.executable} -IS\n{LOADER}",
        "does.json": json.dumps(does),
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
        (root / name).chmod(0o755)
    (root / "lib64").mkdir()
    (root / "lib64" / "ld-linux-x86-64.so.2").symlink_to("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2")
    return root


def run(script: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, given: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["gpu_smoke.py", str(given), "--logs", str(folder / "logs")])
    code: int = script.main()
    return code


def test_a_gpu_that_computes(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/usr/local/cuda/lib64")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert run(script, monkeypatch, tmp_path, image(tmp_path)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2.19.1-gpu-cuda12.2-sm80-90-v3, driver 535.54.03"
    assert [line.split()[0] for line in lines[1:-1]] == ["gpu-hidden", "gpu", "gpu-machine-code", "gpu-ptx", "gpu-ptx"]
    assert lines[4].endswith("half an hour ...")
    assert "first answer" in lines[2]
    assert "within 0.0e+00" in lines[2]
    assert lines[-1] == "A GPU, capability 8.0 computed rightly"
    log = (tmp_path / "logs" / "gpu.log").read_text(encoding="utf-8")
    assert log.startswith("libcuda.so.1 is there\nFalse\n"), "the driver is found, and the machine's CUDA is not"


def test_a_tarball_is_unpacked_without_devices(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = image(tmp_path)
    (root / "dev").mkdir()
    (root / "dev" / "console").touch()
    with tarfile.open(tmp_path / "image.tar.gz", "w:gz") as tar:
        for path in sorted(root.iterdir()):
            tar.add(path, path.name)
    assert run(script, monkeypatch, tmp_path, tmp_path / "image.tar.gz") == 0
    (tmp_path / "out").mkdir()
    assert not list(script.unpack(tmp_path / "image.tar.gz", tmp_path / "out").glob("dev/*"))


@pytest.mark.parametrize(
    ("does", "error", "said"),
    [
        ({"falls_back": ["gpu"]}, GpuUnusedError, "computed on the CPU"),
        ({"falls_back": ["gpu-ptx"]}, GpuUnusedError, "computed on the CPU"),
        ({"error": {"gpu": 2e-4}}, WrongAnswerError, "The GPU answered dense wrongly"),
        ({"error": {"gpu-machine-code": -1.0}}, WrongAnswerError, "1e-04 is allowed"),
        ({"refuses": ["gpu"]}, SmokeError, "CUDA error 209: no kernel image"),
        ({"dies": ["gpu-machine-code"]}, ServerNotReadyError, "exit code 134"),
        ({"dies": ["gpu-hidden"]}, ServerNotReadyError, "exit code 134"),
    ],
)
def test_a_gpu_that_does_not_compute(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    does: dict[str, Any],
    error: type[SmokeError],
    said: str,
) -> None:
    assert run(script, monkeypatch, tmp_path, image(tmp_path, **does)) == error.exit_code
    found = capsys.readouterr()
    assert said in found.err
    assert "libcuda.so.1 is there" in found.err, "the server's log is shown"
    assert "computed rightly" not in found.out


def test_a_machine_without_a_driver_tries_the_cpu(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(script, "driver_libraries", dict)
    assert run(script, monkeypatch, tmp_path, image(tmp_path)) == GpuMissingError.exit_code
    found = capsys.readouterr()
    assert "gpu-hidden" in found.out
    assert "No GPU computed" in found.err


def test_a_driver_that_is_too_old_is_refused_before_anything_is_served(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image(tmp_path, facts={"DRIVER": "535.54.04"})
    assert run(script, monkeypatch, tmp_path, root) == GpuDriverError.exit_code
    found = capsys.readouterr()
    assert "CUDA 12.2 needs driver 535.54.04 or later, not 535.54.03." in found.err
    assert found.out == ""


def test_what_the_binary_has_no_device_code_for_is_left_out(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image(tmp_path, facts={"CAPABILITIES": "sm_80 compute_90"}, dies=["gpu-ptx"])
    assert run(script, monkeypatch, tmp_path, root) == 0
    assert "gpu-ptx           left out: the binary has no PTX for capability 8.0" in capsys.readouterr().out


@pytest.mark.parametrize(("error", "code"), [(0.0, 0), (0.1, WrongAnswerError.exit_code)])
def test_ptx_of_cublas_is_not_asked_for(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: float, code: int
) -> None:
    root = image(tmp_path, error={"gpu-ptx": error})
    (root / "usr" / "lib" / "x86_64-linux-gnu" / "libcublas.so.12").touch()
    assert run(script, monkeypatch, tmp_path, root) == code
    assert "half_plus_two" in (tmp_path / "logs" / "gpu-ptx.log").read_text(encoding="utf-8")


@pytest.mark.parametrize("facts", [{"MODEL_STATUS": "no"}, {"CAPABILITIES": ""}])
def test_an_older_image(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, facts: dict[str, str]
) -> None:
    assert run(script, monkeypatch, tmp_path, image(tmp_path, facts=facts)) == 0


@pytest.mark.parametrize(("what", "said"), [("nothing", "cannot be unpacked"), ("folder", "no root file system")])
def test_what_is_no_image(
    script: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    what: str,
    said: str,
) -> None:
    (tmp_path / "folder").mkdir()
    assert run(script, monkeypatch, tmp_path, tmp_path / what) == UsageError.exit_code
    assert said in capsys.readouterr().err


def test_a_release_without_rest_is_refused(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(script, monkeypatch, tmp_path, image(tmp_path, facts={"REST": "no"})) == UsageError.exit_code
    assert "has no REST" in capsys.readouterr().err


def test_an_image_whose_loader_leads_to_the_machines_own_is_refused(script: ModuleType, tmp_path: Path) -> None:
    root = image(tmp_path)
    assert script._within(root, ["usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"]).is_file()
    with pytest.raises(UsageError, match="has none of these"):
        script._within(root, ["lib64/ld-linux-x86-64.so.2"])


def test_the_script_needs_nothing_but_a_checkout(tmp_path: Path) -> None:
    """-I: neither PYTHONPATH nor packages of the user; -S: none of the environment."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), str(tmp_path), "--logs", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == UsageError.exit_code
    assert "no root file system of an image" in done.stderr
