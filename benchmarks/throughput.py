"""How many requests an image answers against another one: the same dense model, over gRPC, in one run.

usage: python -m benchmarks.throughput IMAGE REFERENCE

Both servers run; each round asks one for some seconds and then the other. A request is a batch of 64 rows for the
sample's perceptron (256-512-512-10, some 51 million floating-point operations); two clients wait for their answers.
It prints each image's requests per second, best of the rounds, and the ratio of each round's pair: lowest, median and
highest.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc

from benchmarks.measuring import parser
from serving_factory.docker.engine import Container, ContainerSpec, Engine, Mount
from serving_factory.smoke import messages_pb2 as pb
from tests.integration.pipeline import MODEL, ROOT, wait_until

ROWS, COLUMNS = 64, 256
PORT = 8500
CLIENTS = 2


def request() -> bytes:
    """A PredictRequest of one batch."""
    shape = pb.TensorShapeProto(dim=[pb.TensorShapeProto.Dim(size=size) for size in (ROWS, COLUMNS)])
    values = [((7 * number) % 13 - 6) / 8 for number in range(ROWS * COLUMNS)]
    tensor = pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=shape, float_val=values)
    spec = pb.ModelSpec(name="dense", signature_name="serving_default")
    return pb.PredictRequest(model_spec=spec, inputs={"x": tensor}).SerializeToString()


class Server:
    """One image's server, and a channel to it for each client."""

    def __init__(self, container: Container) -> None:
        address = f"127.0.0.1:{container.port(PORT)}"
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.insecure_channel(address, options=options) for _ in range(CLIENTS)]
        self._request = request()

    def ask(self, channel: grpc.Channel) -> None:
        """Send a request and wait for its answer."""
        method: Callable[..., bytes] = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        method(self._request, timeout=10)

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            self.ask(self._channels[0])
        except grpc.RpcError:
            return False
        return True

    def per_second(self, seconds: float) -> float:
        """Requests that are answered in a second."""
        began = time.perf_counter()

        def answered(channel: grpc.Channel) -> int:
            count = 0
            while time.perf_counter() - began < seconds:
                self.ask(channel)
                count += 1
            return count

        with ThreadPoolExecutor(CLIENTS) as clients:
            return sum(clients.map(answered, self._channels)) / (time.perf_counter() - began)


def measured(images: Sequence[str], rounds: int, seconds: float) -> list[list[float]]:
    """Requests per second: for each round, of each image."""
    mount = Mount(source=ROOT / MODEL / "models" / "dense", target="/models/dense")
    environment = (("MODEL_NAME", "dense"),)
    with ExitStack() as stack:
        engine = Engine.connect()
        servers = []
        for image in images:
            spec = ContainerSpec(image=image, environment=environment, ports=(PORT,), mounts=(mount,), owner="test")
            servers.append(Server(stack.enter_context(engine.container(spec))))
        for image, server in zip(images, servers, strict=True):
            if not wait_until(server.ready):
                sys.exit(f"{image} does not answer")
        return [[server.per_second(seconds) for server in servers] for _ in range(rounds)]


def main() -> None:
    """Measure, and print."""
    arguments = parser(__doc__)
    arguments.add_argument("image")
    arguments.add_argument("reference")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--seconds", type=float, default=4.0, help="how long each server is asked in a round")
    options = arguments.parse_args()
    images = (options.image, options.reference)
    rounds = measured(images, options.rounds, options.seconds)
    for number, image in enumerate(images):
        print(f"{image}: {max(values[number] for values in rounds):.0f} requests/s")
    ratios = sorted(ours / theirs for ours, theirs in rounds)
    print(f"ratio: {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
