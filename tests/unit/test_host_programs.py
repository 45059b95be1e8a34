"""Which programs of the host build rules call, and whether toolchains have them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from serving_factory.catalogue.distributions import build_packages, distributions, left_out
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.host_programs import HostCall, genrule_programs, host_calls, uncovered
from serving_factory.catalogue.levels import Level
from serving_factory.catalogue.releases import releases
from serving_factory.catalogue.shell_programs import UNKNOWN, shell_programs
from serving_factory.catalogue.starlark import parse_starlark
from serving_factory.matrix.settings import Settings
from serving_factory.matrix.variant import Variant
from serving_factory.recipes.toolchain import Toolchain, toolchain_for

RECORDED = yaml.safe_load((Path(__file__).parent / "recorded" / "host_programs.yaml").read_text(encoding="utf-8"))

LIBEVENT = r"""
genrule(
    name = "libevent-srcs",
    outs = include_files,
    cmd = "\n".join([
        "export INSTALL_DIR=$$(pwd)/$(@D)/libevent",
        "export TMP_DIR=$$(mktemp -d -t libevent.XXXXX)",
        "mkdir -p $$TMP_DIR",
        "cd $$TMP_DIR && ./autogen.sh",
        "./configure --prefix=$$INSTALL_DIR CFLAGS=-fPIC",
        "make install",
    ]),
)
"""


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ("cp a b", ["cp"]),
        ("cd x && ./autogen.sh; make install", ["./autogen.sh", "make"]),
        ("A=1 B='x y' cmake ..", ["cmake"]),
        ("cat a | sed 's/;/&&/' > b 2>&1", ["cat", "sed"]),
        ('echo "$(uname -s) `hostname`"', ["uname", "hostname"]),
        ("if grep -q x y; then zip -r z .; else touch z; fi", ["grep", "zip", "touch"]),
        ("for f in a b; do mv $f c; done", ["mv"]),
        ("for (( i=0; i < 9; ++i )); do cp $i x; done", ["cp"]),
        ("cat > x <<'EOF'\n%define A\nrm -rf /\nEOF\nnasm x", ["cat", "nasm"]),
        ("bash -c 'patch -p1 < a'", ["bash", "patch"]),
        ("find . -name '*.py' -exec md5sum {} +", ["find", "md5sum"]),
        ("find . | xargs -0 rm -f", ["find", "xargs", "rm"]),
        ("env LC_ALL=C sort # not a | program", ["env", "sort"]),
        ("helper() { ln -s a b; }\nhelper x", ["ln"]),
        ("exec perl x.pl", ["perl"]),
        ("A=${B// /,}\ntar x", ["tar"]),
        ("sh ./configure && bash autogen.sh -x", ["sh", "./configure", "bash", "./autogen.sh"]),
        ("bash -e -c 'nasm x' && sh -lc 'yasm y'", ["bash", "nasm", "sh", "yasm"]),
        ("timeout -k 5 10 foo; time -p bar; nice -n 10 baz", ["timeout", "foo", "bar", "nice", "baz"]),
        ("env -u A B=1 foo; xargs -n 1 bar < x; stdbuf -oL baz", ["env", "foo", "xargs", "bar", "stdbuf", "baz"]),
        ("command foo; eval 'bar x'; setsid baz", ["foo", "bar", "setsid", "baz"]),
        ("function f { foo; }\nf", ["foo"]),
        ("diff <(sort a) <(foo b)", ["diff", "sort", "foo"]),
        ("case $x in a) foo;; b|c)\n bar;;\n *) baz;; esac; cp a b", ["foo", "bar", "baz", "cp"]),
        ("x=(a b); cp $x c", ["cp"]),
        (f"{UNKNOWN} --out x", [UNKNOWN]),
        ("", []),
    ],
)
def test_programs_of_a_shell_text(text: str, programs: list[str]) -> None:
    assert list(shell_programs(text)) == programs


def tree(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("_bzl", ".bzl")).write_text(text, encoding="utf-8")
    return folder


def programs_in(folder: Path) -> list[str]:
    return sorted({call.program for call in host_calls(folder)})


def test_a_genrule_that_configures(tmp_path: Path) -> None:
    (tmp_path / "libevent.BUILD").write_text(LIBEVENT, encoding="utf-8")
    found = host_calls(tmp_path)
    assert [call.program for call in found] == ["./autogen.sh", "./configure", "make", "mkdir", "mktemp"]
    assert {(call.file, call.line) for call in found} == {("libevent.BUILD", 2)}


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ('genrule(name = "x", cmd = "$(location //t:tool) $< > $@")', []),
        ('genrule(name = "x", cmd = select({"a": "cmake .", "//conditions:default": "ninja"}))', ["cmake", "ninja"]),
        ('X = "swig "\ngenrule(name = "x", cmd = X + "$(SRCS)")', ["swig"]),
        ('genrule(name = "x", cmd = "%s -o $@" % tool)', ["<…>"]),
        ('genrule(name = "x", cmd = "awk \'{print $$1}\' $<")', ["awk"]),
        ('tf_genrule(name = "x", cmd_bash = "gperf")', ["gperf"]),
        ('http_archive(name = "x", patch_cmds = ["sed -i s/a/b/ c", "find . -delete"])', ["find", "sed"]),
    ],
)
def test_commands_of_rules(tmp_path: Path, text: str, programs: list[str]) -> None:
    assert programs_in(tree(tmp_path, BUILD=text)) == programs


@pytest.mark.parametrize(
    ("text", "programs"),
    [
        ('def f(ctx):\n    ctx.which("objdump")\n    ctx.execute(["nm", "-D"])', ["nm", "objdump"]),
        ('def f(ctx):\n    p = ctx.which("python")\n    ctx.execute([p, "x.py"])', ["python"]),
        ('def f(ctx):\n    ctx.execute([_bash(ctx), "-c", "curl x | tar -x"])', ["<_bash(ctx)>", "curl", "tar"]),
        (
            """
def run(ctx, cmd):
    return ctx.execute(cmd, timeout = 9)

def f(ctx):
    run(ctx, ["patch", "-p1"])
    run(ctx, wrap(ctx, ["rm"] + files))
""",
            ["patch", "rm"],
        ),
        ('def f(ctx):\n    ctx.actions.run_shell(command = "tac a")', ["tac"]),
        ('def f(ctx):\n    ctx.actions.run(executable = "nasm")', ["nasm"]),
        ("def f(ctx):\n    ctx.actions.run(executable = ctx.executable._tool)", []),
        ("def f(ctx):\n    ctx.execute([found])", ["<found>"]),
        ('def f(ctx):\n    cmd = ["git"]\n    cmd = cmd + ["x"]\n    ctx.execute(cmd)', ["git"]),
        ('def f(ctx):\n    for t in ["nasm", "yasm"]:\n        ctx.which(t)', ["nasm", "yasm"]),
        ('def f(ctx, tool = "nasm"):\n    ctx.which(tool)', ["nasm"]),
        ('def g(ctx, program):\n    ctx.which(program)\n\ndef f(ctx):\n    g(ctx, program = "nasm")', ["nasm"]),
        ('T = "nasm"\n\ndef f(ctx):\n    ctx.actions.run(executable = T)', ["nasm"]),
        ('P = ["sed x"]\n\nhttp_archive(name = "a", patch_cmds = P + ["nasm x"])', ["nasm", "sed"]),
        (
            'def f():\n    cmd = "cp a b"\n    cmd += " && nasm x"\n    native.genrule(name = "g", cmd = cmd)',
            ["cp", "nasm"],
        ),
        ('load(":other.bzl", "CMD")\n\ndef f():\n    native.genrule(name = "g", cmd = CMD)', ["nasm"]),
        ('genrule(name = "g", cmd = "&&".join([select({})]))', ["<…>"]),
        (f'genrule(name = "g", cmd = {" + ".join(["x"] * 3000)})', ["<unreadable>"]),
        (
            """
def f(ctx):
    cmd = "from os import path"
    ctx.execute(["python", "-c", cmd])

def g(ctx):
    cmd = "nm x"
    ctx.execute(["bash", "-c", cmd])
""",
            ["bash", "nm", "python"],
        ),
    ],
)
def test_calls_of_bzl_files(tmp_path: Path, text: str, programs: list[str]) -> None:
    folder = tree(tmp_path, rules_bzl=text, other_bzl='CMD = "nasm x"\n')
    assert programs_in(folder) == programs


def test_what_python_cannot_read_hides_nothing_else(tmp_path: Path) -> None:
    text = 'genrule(\n    name = "a",\n    cmd = "zip x",\n)\nthis is no Starlark(\n)\n'
    folder = tree(tmp_path, BUILD=text)
    calls = [(one.program, one.line) for one in host_calls(folder)]
    assert calls == [("zip", 1), ("<unreadable>", 4)]
    (missing,) = uncovered(host_calls(folder), {"zip"})
    assert missing.why == "this part of the file cannot be read"


def test_octal_numbers_and_gaps_of_templates_are_read(tmp_path: Path) -> None:
    text = 'def f(ctx):\n    ctx.file("x", "", 0644)\n    ctx.execute(["nasm", "0644", \'%{a}\'], %{options})\n'
    assert programs_in(tree(tmp_path, rules_bzl=text)) == ["nasm"]
    (block,) = parse_starlark(text)
    assert {node.value for node in ast.walk(block) if isinstance(node, ast.Constant)} == {
        *("x", "", 0o644, "nasm", "0644", "%{a}"),
    }


def test_what_only_bazel_knows_is_excused_where_it_is_known_alone(tmp_path: Path) -> None:
    text = 'def f(ctx):\n    ctx.actions.run_shell(command = "%s --x" % tool)\n'
    assert uncovered(host_calls(tree(tmp_path, rules_bzl=text)), set())
    (tmp_path / "third_party/mlir").mkdir(parents=True)
    (tmp_path / "rules.bzl").rename(tmp_path / "third_party/mlir/tblgen.bzl")
    assert not uncovered(host_calls(tmp_path), set())


def test_of_genrules_only_what_every_branch_calls_is_sure() -> None:
    text = """
genrule(name = "a", cmd = select({"//:w": "cmd.exe /c x", "//conditions:default": "nasm x && hexdump y"}))
genrule(name = "b", cmd = select({"//:w": "nasm x; cp a b", "//conditions:default": "nasm y"}))
genrule(name = "c", cmd = "case $$x in a) nasm;; one|b) yasm 10;; esac; sh ./configure")
"""
    assert genrule_programs(text) == {"cc": ("c",), "make": ("c",), "nasm": ("b", "c"), "sh": ("c",), "yasm": ("c",)}


def test_what_a_query_prints() -> None:
    printed = (
        'genrule(\n  name = "srcs",\n  cmd = "./autogen.sh && make",\n)\n'
        'genrule(\n  name = "copy",\n  cmd = "cp $< $@",\n)\ngenrule(\n  name = "two",\n  cmd = "cp $< $@; make",\n)\n'
    )
    autotools = dict.fromkeys(["aclocal", "autoconf", "autoheader", "automake", "libtoolize"], ("srcs",))
    assert genrule_programs(printed) == {**autotools, "cp": ("copy", "two"), "make": ("srcs", "two")}


def call(program: str) -> HostCall:
    name, _, file = program.partition(" in ")
    return HostCall(program=name, file=file or "BUILD", line=1)


@pytest.mark.parametrize(
    ("program", "packages", "why"),
    [
        ("./autogen.sh", {"build-essential"}, "aclocal is in automake, which the toolchain lacks"),
        ("./configure", {"automake"}, "cc is in build-essential, which the toolchain lacks"),
        ("cmake", {"build-essential"}, "nothing is known of cmake"),
        ("./bootstrap.sh", {"build-essential"}, "nothing is known of ./bootstrap.sh"),
        ("<new_expression>", set(), "nothing is known of <new_expression>"),
    ],
)
def test_what_a_toolchain_lacks_is_named(program: str, packages: set[str], why: str) -> None:
    (found,) = uncovered([call(program)], packages)
    assert why in found.why


@pytest.mark.parametrize("program", ["sed", "/usr/bin/env", "cmd.exe", "<bazel_sh>"])
def test_what_every_base_has_or_nothing_calls(program: str) -> None:
    assert not uncovered([call(program)], set())


def toolchains(tag: str) -> Iterator[Toolchain]:
    release = releases()[tag]
    for flavour, facts in release.flavours.items():
        cuda = facts.gpu.cuda if facts.gpu else None
        yield toolchain_for(Variant(release=tag, flavour=flavour, level=Level.V1, cuda=cuda), release, Settings())


def test_what_upstreams_rules_call_is_in_every_toolchain() -> None:
    for group in (group for repository in RECORDED.values() for group in repository):
        calls = list(map(call, group["programs"]))
        for toolchain in (toolchain for tag in group["tags"] for toolchain in toolchains(tag)):
            assert not uncovered(calls, toolchain.packages), group["tags"]


def test_the_record_is_of_every_release() -> None:
    assert [tag for group in RECORDED["serving"] for tag in group["tags"]] == list(releases())


def test_a_minimal_toolchain_would_not_do() -> None:
    """Every release from 1.8 on configures libevent."""
    minimal = {"binutils", "ca-certificates", "gcc-9", "g++-9", "git", "libc6-dev", "patch", "unzip", "zip"}
    missing = {
        tag: {found.call.program for found in uncovered(map(call, group["programs"]), minimal)}
        for group in RECORDED["serving"]
        for tag in group["tags"]
        if releases()[tag].series not in {"1.5", "1.6", "1.7"}
    }
    assert {tag: found for tag, found in missing.items() if found != {"./autogen.sh", "./configure", "make"}} == {}


def test_upstreams_packages_but_those_that_are_proven_unneeded() -> None:
    for tag, release in releases().items():
        unneeded = {name for entry in left_out() if release.version in entry.releases for name in entry.packages}
        for flavour, facts in release.flavours.items():
            distribution = distributions()[facts.os]
            expected = {distribution.names.get(name, name) for name in facts.packages if name not in unneeded}
            assert set(build_packages(release, flavour, distribution)) == expected, (tag, flavour)
            assert unneeded & set(facts.packages), "mlocate, at least, is in each list"


def test_a_package_has_its_name_on_each_base() -> None:
    release = releases()["1.13.0"]
    names = {
        base: {
            name
            for name in build_packages(release, Flavour.CPU, distribution)
            if name.startswith(("libpng", "libcurl"))
        }
        for base, distribution in distributions().items()
    }
    assert names["ubuntu:16.04"] == {"libcurl4-openssl-dev", "libpng12-dev"}
    assert names["debian:bookworm"] == {"libcurl4-openssl-dev", "libpng-dev"}


def test_a_toolchain_has_a_java_until_it_is_proven_unneeded() -> None:
    for tag, required in {"1.15.0": False, "2.1.4": False, "2.2.0": True, "2.19.1": True, "2.20.0": True}.items():
        for toolchain in toolchains(tag):
            assert any("jdk" in name for name in toolchain.packages) == required, tag
