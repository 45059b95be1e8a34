"""Chromium without a window and without a network, in a container, asked over its DevTools protocol."""

from __future__ import annotations

import base64
import io
import itertools
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageStat

from .containers import LABEL
from .pipeline import docker

FOLDER = Path(__file__).with_name("browser_image")
OPTIONS = "--no-sandbox --disable-gpu --remote-debugging-pipe"  # in its container it is root
KEYS: dict[str, dict[str, object]] = {
    "Tab": {"windowsVirtualKeyCode": 9},
    "Enter": {"windowsVirtualKeyCode": 13, "text": "\r"},
}


@dataclass(slots=True)
class Browser:
    """One tab. `messages` are its console's, `requests` the addresses that it asked for, both since `open`."""

    questions: IO[bytes]
    answers: IO[bytes]
    session: str = ""
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    loaded: bool = False
    numbers: Iterator[int] = field(default_factory=itertools.count)

    @classmethod
    @contextmanager
    def run(cls, pages: Path) -> Iterator[Browser]:
        """Start it, with a folder of pages."""
        image = docker("buildx", "build", "--quiet", "--load", str(FOLDER), seconds=500).strip()
        options = ["--interactive", "--rm", "--init", "--label", LABEL, "--network", "none"]
        options += ["--volume", f"{pages}:/pages:ro"]
        # The protocol's pipes are descriptors 3 and 4.
        line = f"exec chromium-headless-shell {OPTIONS} about:blank 3<&0 4>&1 >&2 2>/dev/null"
        argv = ["docker", "run", *options, image, "sh", "-c", line]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdin
            assert process.stdout
            browser = cls(process.stdin, process.stdout)
            try:
                browser._attach()
                yield browser
            finally:
                process.stdin.close()  # then it ends
                process.wait(30)
        docker("rmi", image)

    def _attach(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        """Call a method of the protocol; give its result."""
        number = next(self.numbers)
        session = {"sessionId": self.session} if self.session else {}
        message = {"id": number, "method": method, "params": params, **session}
        self.questions.write(json.dumps(message).encode() + b"\0")
        self.questions.flush()
        while (answer := self._read()).get("id") != number:
            self._handle(answer)
        assert "result" in answer, answer
        return dict(answer["result"])

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self.answers.read(1)) != b"\0":
            assert byte, "it ended"
            text += byte
        return dict(json.loads(text))

    def _handle(self, event: dict[str, Any]) -> None:
        params = event["params"]
        match event["method"]:
            case "Page.loadEventFired":
                self.loaded = True
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.messages.append(json.dumps(params))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def open(self, name: str, *, scheme: str = "light", width: int = 1200) -> None:
        """Open a page of the folder, and wait until it is there."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.messages, self.requests, self.loaded = [], [], False
        self.call("Page.navigate", url=f"file:///pages/{name}")
        while not self.loaded:
            self._handle(self._read())
        self.ask("document.title")  # what came before the answer has been handled

    def ask(self, script: str) -> Any:  # noqa: ANN401 - any JSON
        """The value of an expression in the page."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **KEYS[key])

    def picture(self) -> Image.Image:
        """What is to be seen."""
        return Image.open(io.BytesIO(base64.b64decode(self.call("Page.captureScreenshot")["data"])))

    def faults(self, name: str, *, scheme: str, width: int) -> list[str]:
        """What a reader of a page would miss, and what its console says."""
        self.open(name, scheme=scheme, width=width)
        found = [f"console: {one}" for one in self.messages]
        found += [f"asked for {one}" for one in self.requests if one != f"file:///pages/{name}"]
        if self.ask("document.documentElement.scrollWidth > innerWidth"):
            found.append("wider than the window")
        picture = self.picture().convert("L")
        (paper,) = ImageStat.Stat(picture).median
        inked = 1 - sum(picture.histogram()[max(0, paper - 8) : paper + 9]) / (picture.width * picture.height)
        if inked < 0.005:
            found.append("blank")
        if (paper > 128) is not (scheme == "light"):
            found.append(f"not {scheme}")
        return found
