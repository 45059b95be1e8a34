"""The sample's models and its arithmetic against TensorFlow itself, in an environment of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import venv
from pathlib import Path

import pytest

from .conftest import MODELS, StartServer

HALF_PLUS_TWO = [[1.0], [2.0], [5.0], [-4.0]]
DENSE = [[((7 * row + column) % 13 - 6) / 8 for column in range(256)] for row in range(4)]
PICTURE = [
    [[[float((7 * (row * 9 + column) + c) % 13 * 20) for c in range(3)] for column in range(9)] for row in range(8)]
]
RUN_MODEL = textwrap.dedent("""
    import json, sys
    import tensorflow as tf

    def ask(folder, x):
        y = tf.saved_model.load(folder).signatures["serving_default"](x=x)["y"]
        print("RESULT " + json.dumps(y.numpy().tolist()))

    for folder, rows in json.load(sys.stdin):
        ask(folder, tf.constant(rows, tf.float32))
        if folder.endswith("picture/1"):  # a picture's file is decoded by its own model
            pixels = tf.cast(rows, tf.uint8)[0]
            for file in (tf.io.encode_png(pixels), tf.io.encode_jpeg(pixels, quality=100)):
                ask(folder.replace("picture/1", "picture_encoded/1"), tf.stack([file]))
                ask(folder, tf.cast(tf.io.decode_image(file, 3)[None], tf.float32))
""")


def tensorflow_python(folder: Path) -> Path:
    """The interpreter of a new environment that has TensorFlow."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "tensorflow-cpu"], check=True)
    return python


@pytest.mark.tensorflow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(sys.platform != "linux", reason="tensorflow-cpu has wheels for Linux only")
def test_the_server_computes_what_tensorflow_computes(start_server: StartServer, tmp_path: Path) -> None:
    python = tensorflow_python(tmp_path / "venv")
    work = [
        (str(MODELS / "half_plus_two/00000123"), HALF_PLUS_TWO),
        (str(MODELS / "dense/1"), DENSE),
        (str(MODELS / "picture/1"), PICTURE),
    ]
    done = subprocess.run([python, "-c", RUN_MODEL], input=json.dumps(work), check=True, text=True, capture_output=True)
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    half_plus_two, dense, picture, *of_files = (json.loads(line.removeprefix("RESULT ")) for line in lines)

    assert start_server(MODELS, "half_plus_two").predict("half_plus_two", HALF_PLUS_TWO) == half_plus_two
    for ours, theirs in zip(start_server(MODELS, "dense").predict("dense", DENSE), dense, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    assert start_server(MODELS, "picture").predict("picture", PICTURE)[0] == pytest.approx(
        picture[0], rel=1e-4, abs=1e-3
    )
    png, of_png, jpeg, of_jpeg = of_files
    assert (png, jpeg) == (of_png, of_jpeg)
    assert png == picture
