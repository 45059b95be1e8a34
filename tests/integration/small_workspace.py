"""A Bazel workspace of five actions under upstream's target name, in a checkout with caches of its own.

Three actions are no level's business: a tool of the host is compiled and linked, and makes a header. Two are: the
server is compiled and linked.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from .pipeline import LABEL, MODEL, ROOT, Checkout, Outcome

HOST_ACTIONS, LEVEL_ACTIONS = 3, 2
ALL_ACTIONS = HOST_ACTIONS + LEVEL_ACTIONS

BUILD = """\
cc_binary(name = "tool", srcs = ["tool.cc"])
genrule(name = "header", outs = ["made.h"], cmd = "$(location :tool) > $@", tools = [":tool"])
cc_binary(name = "tensorflow_model_server", srcs = ["server.cc", "made.h"], visibility = ["//visibility:public"])
"""
# The header is big, so that there is something to remove from a cache.
TOOL = """\
#include <cstdio>
int main() {
  std::puts("#define VERSION \\"2.19.1\\"");
  for (int line = 0; line < 40000; ++line) std::puts("// ------------------------------------------------------------");
}
"""
# Other levels and other OTHERs make another object, or the link would be found in the cache.
SERVER = """\
#include <cstdio>
#ifndef OTHER
#define OTHER 0
#endif
#ifdef __AVX2__
int level = 3;
#endif
int other = OTHER;
#include "tensorflow_serving/model_servers/made.h"
int main() { std::printf("TensorFlow ModelServer: %s-rc0\\nTensorFlow Library: %s\\n", VERSION, VERSION); }
"""
WORKSPACE = """\
workspace(name = "tf_serving")
local_repository(name = "rules_cc", path = "third_party/rules_cc")
local_repository(name = "rules_java", path = "third_party/rules_java")
"""
# As upstream's.
BAZELRC = """\
build --announce_rc
build --spawn_strategy=standalone
build --genrule_strategy=standalone
"""
MATRIX = """\
image: {{repository: {repository}, aliases: ["{{id}}"], labels: {{{label}: {mark}}}}}
releases: ["2.19.1"]
targets:
  cpu: {{flavour: cpu, levels: [x86-64, x86-64-v3], copts: [{copts}]}}
source: source
bazel:
  version: "4.2.3"
  package: bazel-bootstrap
  startup_options: ["{startup_option}"]
  options: [{options}]
  remote: {{{remote}}}
{more}
{toolchain}
"""
MATRIX_FILE = "small.yaml"
SERVER_FILE = "source/tensorflow_serving/model_servers/server.cc"
STARTUP_OPTION = "--host_jvm_args=-XX:TieredStopAtLevel=1"  # as samples/matrix.yaml, and for the same reason
V1, V3 = "2.19.1-cpu-v1", "2.19.1-cpu-v3"


@dataclass(frozen=True, slots=True)
class SmallWorkspace:
    """The workspace's checkout, and its commands."""

    checkout: Checkout

    @classmethod
    def make(cls, folder: Path) -> Self:
        checkout = Checkout.make(folder)
        checkout.take_own_caches()
        source = checkout.folder / "source"
        servers = source / "tensorflow_serving" / "model_servers"
        servers.mkdir(parents=True)
        for name in ("rules_cc", "rules_java"):
            shutil.copytree(ROOT / MODEL / "third_party" / name, source / "third_party" / name)
        shutil.copy(ROOT / MODEL / "LICENSE", source)
        (source / "WORKSPACE").write_text(WORKSPACE)
        (source / ".bazelrc").write_text(BAZELRC)
        for name, text in {"BUILD": BUILD, "tool.cc": TOOL, "server.cc": SERVER}.items():
            (servers / name).write_text(text)
        return cls(checkout)

    @property
    def mark_option(self) -> str:
        """Tells its Bazel runs from another checkout's, which BuildKit would take for them."""
        return f"--define=mark={self.checkout.mark}"

    def configure(self, *, copts: str = "", options: str = "", remote: str = "", more: str = "") -> None:
        """Write the matrix. Other copts change the server's two actions; other options only run Bazel again."""
        sample = (ROOT / "samples" / "matrix.yaml").read_text(encoding="utf-8")
        toolchain = sample[sample.index("toolchain:") :]
        text = MATRIX.format(
            repository=self.checkout.repository,
            label=LABEL,
            mark=self.checkout.mark,
            copts=copts,
            startup_option=STARTUP_OPTION,
            options=", ".join(word for word in (self.mark_option, options) if word),
            remote=remote,
            toolchain="\n".join(line for line in toolchain.splitlines() if not line.startswith("bazel:")),
            more=more,
        )
        (self.checkout.folder / MATRIX_FILE).write_text(text, encoding="utf-8")

    def compile(self, variant: str = V1, **env: str) -> dict[str, Any]:
        """Compile, and give what the record tells."""
        arguments = ("compile", "--matrix", MATRIX_FILE, "--json", "--variant", variant)
        self.checkout.run(*arguments, env=env).built()
        return self.record(variant)

    def record(self, variant: str = V1) -> dict[str, Any]:
        (folder,) = self.checkout.folder.glob("build/matrix-*")
        record: dict[str, Any] = Checkout.read_json(folder / variant / "compile.json")["outputs"]
        return record

    def run(self, *arguments: str) -> Outcome:
        return self.checkout.run(*arguments, "--matrix", MATRIX_FILE)

    def empty_caches(self) -> None:
        self.run("cache", "prune", "--max-size", "0MiB").built()

    def clear(self) -> None:
        """Leave nothing, its caches included."""
        self.checkout.drop_caches()
        self.checkout.clear()
