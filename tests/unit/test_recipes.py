"""recipes/: from a variant to everything that builds it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jinja2 import UndefinedError

from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, level_facts
from serving_factory.catalogue.releases import releases
from serving_factory.errors import RecipeError
from serving_factory.matrix.load import load_matrix
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.settings import AllSettings
from serving_factory.pipeline.stages.compile import devel_image_command
from serving_factory.recipes import recipe as recipe_module
from serving_factory.recipes import toolchain
from serving_factory.recipes.explain import Explained, explain, explain_matrix, explain_upstream
from serving_factory.recipes.labels import BuiltBinary, image_env, image_json, image_labels
from serving_factory.recipes.recipe import CONTEXT, Recipe, key_of, recipe_for, recipes_for, render, short

from .matrices import SHIPPED, document, load, tree

LEVELS = ["x86-64", "avx", "x86-64-v3", "native"]
BINARY = BuiltBinary(
    sha256="a" * 64,
    build_id=None,
    version="2.19.1",
    compiler="gcc 10",
    bazel="6.5.0",
    base_digest="",
    source="c0ffee",
    compile_key="k" * 64,
    device_code=("sm_80", "compute_80"),
    cpu_flags=("pni", "avx2"),
)

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
parts = st.dictionaries(st.text("abcd", min_size=1, max_size=3), json_values, min_size=1, max_size=4)


def levels_matrix(folder: Path, **sections: object) -> Matrix:
    """One release, cpu on four levels and mkl on one."""
    targets = {"cpu": {"flavour": "cpu", "levels": LEVELS}, "mkl": {"flavour": "mkl", "levels": ["x86-64-v4"]}}
    image = {"repository": "r.io/x", "aliases": ["{id}"], "labels": {"my.label": "mine"}}
    return load(folder, document(**{"image": image, "targets": targets, **sections}))


def recipes(matrix: Matrix) -> dict[str, Recipe]:
    return {variant.id.removeprefix("2.19.1-"): recipe_for(variant, matrix) for variant in matrix.variants}


# --- keys -------------------------------------------------------------------------------------------------------------


@settings(max_examples=50)
@given(parts, st.randoms())
def test_a_key_does_not_depend_on_order(values: dict[str, object], random: object) -> None:
    shuffled = list(values.items())
    getattr(random, "shuffle")(shuffled)  # noqa: B009 - a Random of hypothesis' own
    assert key_of(**dict(shuffled)) == key_of(**values)
    assert len(key_of(**values)) == 64


@settings(max_examples=50)
@given(parts, parts)
def test_keys_differ_where_any_part_differs(one: dict[str, object], other: dict[str, object]) -> None:
    # Through JSON, because 0 == False for Python and is another value for a key.
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key_of(**one) == key_of(**other)) == same


def test_a_part_is_known_by_its_name() -> None:
    assert key_of(a="1", b="2") != key_of(a="2", b="1")
    assert key_of(a=["x", "y"]) != key_of(a=["xy"])
    assert key_of(a=None) != key_of()
    assert key_of(a="") != key_of(a=None)


def test_what_means_the_same_gives_the_same_key() -> None:
    assert key_of(a=(1, (2, 3))) == key_of(a=[1, [2, 3]])
    assert key_of(a=frozenset({"x", "y", "z"})) == key_of(a=["x", "y", "z"])
    assert key_of(a=Level.V3) == key_of(a="x86-64-v3")
    assert key_of(a=MappingProxyType({"x": 1})) == key_of(a={"x": 1})


def test_the_values_of_a_mapping_count_whatever_its_type() -> None:
    assert key_of(a=MappingProxyType({"x": 1})) != key_of(a=MappingProxyType({"x": 2}))


@pytest.mark.parametrize("value", [Path("x"), b"x", {1, 2}, object(), iter([1]), BINARY])
def test_what_has_no_one_text_is_no_part_of_a_key(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be part of a key"):
        key_of(a=value)


def test_a_short_key() -> None:
    assert short("sha256:0123456789abcdef") == short("0123456789abcdef") == "0123456789ab"


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: path.parent.name)
def test_variants_that_share_a_file_have_the_same_text_in_it(file: Path) -> None:
    """generate keeps one devel and one runtime file for a release and flavour: a level must not show in them."""
    texts: dict[tuple[str, str], set[tuple[str, str]]] = {}
    matrix = load_matrix(file)
    for variant in matrix.variants:
        for level in Level:
            recipe = recipe_for(replace(variant, level=level, copts=("-O3",)), matrix)
            texts.setdefault((variant.release, variant.flavour), set()).add((recipe.devel, recipe.runtime))
    # The last patch of a line, which the default file builds, may have no recipe yet.
    assert texts or file == SHIPPED[0]
    assert {len(pairs) for pairs in texts.values()} <= {1}


def test_what_levels_share_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    matrix = levels_matrix(tmp_path)
    alone = tuple(recipe_for(variant, matrix) for variant in matrix.variants)
    rendered: list[str] = []

    def counting(name: str, **values: object) -> str:
        rendered.append(name)
        return render(name, **values)

    monkeypatch.setattr(recipe_module, "render", counting)
    together, _ = recipes_for(matrix.variants, matrix)
    assert together == alone
    assert len(together) == len(LEVELS) + 1
    assert rendered == ["devel.Dockerfile.j2", "runtime.Dockerfile.j2"] * 2, "cpu's, and mkl's"


def test_a_neighbour_with_another_toolchain_lends_nothing(tmp_path: Path) -> None:
    matrix = levels_matrix(tmp_path)
    one, other, *_ = matrix.variants
    neighbour = recipe_for(one, matrix)
    lent = replace(neighbour, devel="lent", runtime="lent")
    assert recipe_for(other, matrix, neighbour=lent).devel == "lent"
    lent = replace(lent, toolchain=replace(lent.toolchain, compiler="gcc-9"))
    assert recipe_for(other, matrix, neighbour=lent) == recipe_for(other, matrix)


def test_a_level_changes_the_flags_and_the_key(tmp_path: Path) -> None:
    made = recipes(levels_matrix(tmp_path))
    assert len({recipe.compile_key for recipe in made.values()}) == len(made)
    assert made["cpu-v1"].build_args == (("COPTS", ""),)
    assert made["cpu-avx"].build_args == (("COPTS", "--copt=-mavx --copt=-msse4.2"),)


def with_settings(matrix: Matrix, **values: Any) -> Matrix:  # noqa: ANN401 - the dataclasses give the types
    return replace(matrix, settings=AllSettings(replace(matrix.settings.usual, **values), {}))


def with_toolchain(matrix: Matrix, **values: Any) -> Matrix:  # noqa: ANN401 - the dataclasses give the types
    return with_settings(matrix, toolchain=replace(matrix.settings.usual.toolchain, **values))


def with_bases(matrix: Matrix, bases: dict[str, str]) -> Matrix:
    return replace(matrix, network=replace(matrix.network, base_images=bases))


def compile_key(matrix: Matrix) -> str:
    return recipe_for(matrix.variants[0], matrix).compile_key


def test_what_decides_the_binary_is_in_its_key(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    (variant,) = matrix.variants
    changed = [
        replace(matrix, variants=(replace(variant, copts=("-O3",)),)),
        with_settings(matrix, source=tmp_path),
        with_bases(matrix, {"ubuntu:20.04": "mirror/ubuntu:20.04"}),
        with_toolchain(matrix, base="debian:bookworm"),
        with_toolchain(matrix, compiler="gcc-9"),
        with_toolchain(matrix, packages=("x",)),
        with_toolchain(matrix, configs={Flavour.CPU: ("release",)}),
    ]
    keys = [compile_key(each) for each in (matrix, *changed)]
    assert len(set(keys)) == len(keys)


def test_names_and_labels_compile_nothing(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    renamed = load(tmp_path, document(image={"repository": "other", "aliases": [], "labels": {"a": "b"}}))
    assert compile_key(matrix) == compile_key(renamed)
    assert compile_key(matrix) == compile_key(replace(matrix, targets={}, file=tmp_path / "other.yaml"))


@pytest.mark.parametrize(("image", "user"), [({}, "65532:65532"), ({"user": 1000}, "1000:1000"), ({"user": 0}, "0:0")])
def test_the_file_chooses_the_user(tmp_path: Path, image: dict[str, int], user: str) -> None:
    matrix = load(tmp_path, document(image={"repository": "r", **image}))
    recipe = recipe_for(matrix.variants[0], matrix)
    assert f"\nUSER {user}\n" in recipe.runtime
    assert recipe.compile_key == compile_key(load(tmp_path))


def test_the_file_chooses_when_the_health_check_runs(tmp_path: Path) -> None:
    plain = recipe_for((matrix := load(tmp_path)).variants[0], matrix)
    assert "\nHEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \\\n" in plain.runtime
    image = {"repository": "r", "health": {"interval": "1m", "start_period": "2h", "retries": 9}}
    recipe = recipe_for((matrix := load(tmp_path, document(image=image))).variants[0], matrix)
    assert "\nHEALTHCHECK --interval=1m --timeout=5s --start-period=2h --retries=9 \\\n" in recipe.runtime
    assert recipe.compile_key == plain.compile_key


def test_an_image_has_a_base_of_its_own_and_its_compile_is_the_same(tmp_path: Path) -> None:
    targets = {name: {"flavour": name, "levels": ["x86-64"]} for name in ("cpu", "mkl")}
    own = {"releases": "2.18.1", "image": {"base": {"mkl": "ubuntu:22.04"}}}
    choice: dict[str, Any] = {"releases": ["2.18.1", "2.19.1"], "targets": targets, "per_release": [own]}
    plain = load(tmp_path, document(releases=choice["releases"], targets=targets))
    matrix = load(tmp_path, document(image={"repository": "team/serving", "base": "debian:trixie-slim"}, **choice))
    for variant in matrix.variants:
        before, recipe = recipe_for(variant, plain), recipe_for(variant, matrix)
        base = "ubuntu:22.04" if variant.id == "2.18.1-mkl-v1" else "debian:trixie-slim"
        assert (recipe.runtime_base.name, recipe.collects, before.collects) == (base, True, False)
        assert (recipe.devel, recipe.compile_key) == (before.devel, before.compile_key)
        assert f"FROM {base} AS runtime_base\n" in recipe.runtime
        assert "COPY --from=libraries rootfs/ /\n" in recipe.runtime
        assert "runtime_base" not in before.runtime
        assert image_labels(recipe, BINARY, base_id="sha256:1")["org.opencontainers.image.base.name"] == base
        shown = dict(explain_matrix(variant, matrix, file_from=""))["image"]
        (explained_base,) = (one for one in shown if one.name == "base")
        written = "per_release[0].image.base.mkl" if base == "ubuntu:22.04" else "image.base"
        assert (explained_base.value, explained_base.origin.partition(",")[0]) == (base, written)


@pytest.mark.parametrize(
    ("chosen", "of"), [("slim", "ubuntu:20.04"), ("slim of debian:trixie-slim", "debian:trixie-slim")]
)
def test_a_slim_base_is_made_of_packages(tmp_path: Path, chosen: str, of: str) -> None:
    plain = load(tmp_path)
    matrix = load(tmp_path, document(image={"repository": "r", "base": chosen}))
    (variant, *_) = matrix.variants
    recipe = recipe_for(variant, matrix)
    assert (recipe.runtime_base.name, recipe.slim, recipe.collects) == (of, True, True)
    assert recipe.compile_key == recipe_for(variant, plain).compile_key
    assert f"FROM {of} AS runtime_base\n" in recipe.runtime
    assert "libraries.sh slim /slim" in recipe.runtime
    assert "\nFROM scratch\nCOPY --from=libraries base/ /\nENV PATH=" in recipe.runtime
    labels = image_labels(recipe, BINARY, base_id="sha256:1")
    assert labels["org.serving-factory.slim-of"] == of
    assert "org.opencontainers.image.base.name" not in labels, "it is no layer of this image"
    assert json.loads(image_json(recipe, BINARY))["slim"]
    (base,) = (one for one in dict(explain_matrix(variant, matrix, file_from=""))["image"] if one.name == "base")
    assert base.value == f"slim of {of}"


def test_packages_of_the_lock_are_upgraded_and_compile_nothing(tmp_path: Path) -> None:
    plain = load(tmp_path)
    (tmp_path / "matrix.lock").write_text('packages: {"ubuntu:20.04": {zlib1g: "1:1.2", libssl1.1: 1.1.1f-1}}\n')
    matrix = load(tmp_path)
    (variant, *_) = matrix.variants
    recipe = recipe_for(variant, matrix)
    assert recipe.upgrades == ("libssl1.1=1.1.1f-1", "zlib1g=1:1.2")
    assert recipe.collects, "what was copied from the devel image is outdated, too"
    assert recipe.compile_key == recipe_for(variant, plain).compile_key
    assert "FROM ubuntu:20.04 AS upgraded_base\n" in recipe.runtime
    assert "libraries.sh upgrade \\\n      libssl1.1=1.1.1f-1 \\\n      zlib1g=1:1.2\n" in recipe.runtime
    assert "FROM upgraded_base AS runtime_base\n" in recipe.runtime
    assert "\nFROM upgraded_base\n" in recipe.runtime
    (upgrades,) = (
        one for one in dict(explain_matrix(variant, matrix, file_from=""))["image"] if one.name == "upgrades"
    )
    assert (upgrades.value, upgrades.origin) == (recipe.upgrades, str(tmp_path / "matrix.lock"))
    slim = recipe_for(variant, load(tmp_path, document(image={"repository": "r", "base": "slim"})))
    assert "FROM upgraded_base AS runtime_base\n" in slim.runtime
    assert "\nFROM upgraded_base\n" not in slim.runtime
    other = document(image={"repository": "r", "base": "debian:trixie-slim"})
    assert recipe_for(variant, load(tmp_path, other)).upgrades == ()


def test_what_is_the_same_image_on_this_network_is_copied_from_the_devel_image(tmp_path: Path) -> None:
    stand_ins = {"ubuntu:20.04": "mine:1", "debian:trixie-slim": "mine:1"}
    image = {"repository": "r", "base": "debian:trixie-slim"}
    matrix = load(tmp_path, document(image=image, network={"base_images": stand_ins}))
    recipe = recipe_for(matrix.variants[0], matrix)
    assert not recipe.collects
    assert recipe.runtime_base.contexts == (("debian:trixie-slim", "docker-image://mine:1"),)


def test_sources_are_upstreams_at_a_commit_or_a_folder(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    recipe = recipe_for(matrix.variants[0], matrix)
    assert recipe.source == f"https://github.com/tensorflow/serving.git#{releases()['2.19.1'].commit}"
    assert recipe.upstream
    local = recipe_for(matrix.variants[0], with_settings(matrix, source=tmp_path))
    assert (local.source, local.upstream) == (tmp_path, False)


def test_a_stand_in_for_the_base_enters_by_its_named_door(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    assert recipe_for(matrix.variants[0], matrix).base.contexts == ()
    swapped = with_bases(matrix, {"ubuntu:20.04": "mirror/u:20.04"})
    recipe = recipe_for(matrix.variants[0], swapped)
    assert recipe.base.contexts == (("ubuntu:20.04", "docker-image://mirror/u:20.04"),)
    assert recipe.devel == recipe_for(matrix.variants[0], matrix).devel, "the Dockerfile is the same everywhere"


@pytest.mark.parametrize(
    ("variant", "lower"),
    [("cpu-v1", ""), ("cpu-avx", "cpu-v1"), ("cpu-v3", "cpu-avx"), ("mkl-v4", "cpu-v3"), ("cpu-native", "")],
)
def test_a_lesser_cpu_is_shown_the_best_image_for_it(tmp_path: Path, variant: str, lower: str) -> None:
    found = recipes(levels_matrix(tmp_path))[variant].lower_image
    assert found == (f"r.io/x:2.19.1-{lower}" if lower else "")


def test_a_toolchain_is_derived_and_can_be_chosen(tmp_path: Path) -> None:
    upstream = recipe_for(load(tmp_path).variants[0], load(tmp_path)).toolchain
    assert {"gcc-10", "g++-10", "python3"} <= set(upstream.packages)
    assert (upstream.base, upstream.bazel.version, upstream.configs) == ("ubuntu:20.04", "6.5.0", ("kokoro",))
    chosen = load(
        tmp_path,
        document(
            toolchain={
                "base": "debian:bookworm",
                "compiler": "gcc",
                "packages": ["zip", "libfoo-dev"],
                "configs": {"cpu": []},
            },
            bazel={"version": "4.2.3", "package": "bazel-bootstrap"},
        ),
    )
    other = recipe_for(chosen.variants[0], chosen).toolchain
    assert {"gcc", "g++", "bazel-bootstrap", "libfoo-dev"} <= set(other.packages)
    assert list(other.packages) == sorted(set(other.packages))
    assert (other.bazel.sha256, other.bazel.package, other.configs) == (None, "bazel-bootstrap", ())


def test_a_base_without_package_list_is_reported(tmp_path: Path) -> None:
    """The matrix file names none such; a release of the catalogue could."""
    matrix = load(tmp_path)
    with pytest.raises(RecipeError, match="no package list is known for the base image alpine:3") as caught:
        recipe_for(matrix.variants[0], with_toolchain(matrix, base="alpine:3"))
    assert "ubuntu:20.04" in caught.value.why


def test_a_compiler_that_bazel_downloads_is_not_named_to_it(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(releases=["2.20.0"]))
    recipe = recipe_for(matrix.variants[0], matrix)
    assert (recipe.toolchain.hermetic, recipe.toolchain.cc, recipe.toolchain.c_compiler) == (True, None, "gcc")
    assert "ENV CC" not in recipe.devel


def test_flags_that_are_no_configs_reach_every_bazel_command(tmp_path: Path) -> None:
    matrix = load(tmp_path)
    facts = replace(releases()["2.19.1"].flavours[Flavour.CPU], kept_flags=("-c opt", "--copt=-fPIC"))
    release = replace(releases()["2.19.1"], flavours={Flavour.CPU: facts})
    made = toolchain.toolchain_for(matrix.variants[0], release, matrix.settings.usual)
    assert (made.configs, made.flags) == (("kokoro",), ("-c opt", "--copt=-fPIC"))
    text = render(
        "devel.Dockerfile.j2",
        release=release,
        flavour="cpu",
        toolchain=made,
        upstream="u",
        bazel_target="//t",
        binary_path="b",
        bazel_releases="https://r",
    )
    options = ("'build --config=kokoro'", '"build -c opt"', '"build --copt=-fPIC"')
    assert text.count("".join(f"      {option} \\\n" for option in options)) == 1, "once, for every Bazel command"


def test_a_bazel_without_checksum_renders_and_is_not_built(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(releases=["2.4.4"]))
    recipe = recipe_for(matrix.variants[0], matrix)
    assert "ADD" not in recipe.devel
    assert "`./factory lock`" in recipe.devel
    _, (missing,) = recipes_for(matrix.variants, matrix)
    assert "the checksum of Bazel 3.0.0 is not known" in missing.error.what
    assert "./factory lock" in missing.error.remedy
    assert 'bazel: {version: "3.0.0", binary: FILE}' in missing.error.remedy
    binary = tmp_path / "bazel"
    binary.touch()
    given = load(tmp_path, document(releases=["2.4.4"], bazel={"version": "3.0.0", "binary": "bazel"}))
    assert len(recipes_for(given.variants, given)[0]) == 1


def test_a_template_gets_every_value_that_it_names() -> None:
    with pytest.raises(UndefinedError):
        render("devel.Dockerfile.j2", flavour="cpu")


# --- what an image says of itself -------------------------------------------------------------------------------------


def test_labels_say_what_the_image_is_and_leave_out_what_is_unknown(tmp_path: Path) -> None:
    recipe = recipes(levels_matrix(tmp_path))["cpu-v3"]
    labels = image_labels(recipe, BINARY)
    assert labels["org.opencontainers.image.version"] == "2.19.1"
    assert labels["org.opencontainers.image.source"] == "https://github.com/tensorflow/serving"
    assert labels["org.serving-factory.variant"] == "2.19.1-cpu-v3"
    assert labels["org.serving-factory.binary.sha256"] == "a" * 64
    assert labels["my.label"] == "mine"
    assert "org.opencontainers.image.base.digest" not in labels
    assert list(labels) == sorted(labels)
    assert all(labels.values())


def test_an_image_of_another_source_tree_does_not_name_upstreams(tmp_path: Path) -> None:
    tree(tmp_path)
    recipe = recipes(levels_matrix(tmp_path, source="."))["cpu-v3"]
    assert "org.opencontainers.image.source" not in image_labels(recipe, BINARY)
    inside = json.loads(image_json(recipe, BINARY))
    assert (inside["tensorflow_serving_commit"], inside["tensorflow_commit"]) == (None, None)
    assert (inside["variant"], inside["binary"]["compile_key"]) == ("2.19.1-cpu-v3", "k" * 64)


def shell_words(text: str) -> Mapping[str, str]:
    return dict(word.partition("=")[::2] for word in shlex.split(text))


@pytest.mark.parametrize("variant", ["cpu-v1", "cpu-v3", "mkl-v4"])
def test_the_entrypoint_can_read_what_is_written_for_it(tmp_path: Path, variant: str) -> None:
    recipe = recipes(levels_matrix(tmp_path))[variant]
    values = shell_words(image_env(recipe, BINARY))
    assert values["VARIANT"] == f"2.19.1-{variant}"
    assert values["CPU_FLAGS"] == "pni avx2", "what was found in the binary"
    assert values["LOWER_IMAGE"] == recipe.lower_image
    assert not set("$`\\") & set(image_env(recipe, BINARY)), "it is read by a shell"


@pytest.mark.parametrize(
    ("variant", "flags"), [("cpu-v1", "popcnt pni sse4_1 sse4_2 ssse3"), ("cpu-v3", None), ("mkl-v4", None)]
)
def test_unread_binaries_need_what_is_known_of_level_and_sources(
    tmp_path: Path, variant: str, flags: str | None
) -> None:
    recipe = recipes(levels_matrix(tmp_path))[variant]
    values = shell_words(image_env(recipe, None))
    assert values["CPU_FLAGS"] == (" ".join(level_facts(recipe.variant.level).cpuinfo) if flags is None else flags)


def explained(recipe: Recipe, matrix: Matrix) -> dict[str, dict[str, tuple[str, str]]]:
    of_matrix = explain_matrix(recipe.variant, matrix, file_from="default")
    sections = (*of_matrix, *explain(recipe, matrix, devel_command="docker"))
    return {name: _by_name(entries) for name, entries in sections}


def test_explain_names_everything_that_decides(tmp_path: Path) -> None:
    matrix = levels_matrix(tmp_path)
    recipe = recipes(matrix)["cpu-v3"]
    sections = explained(recipe, matrix)
    assert sections["variant"]["targets"] == ("cpu", "")
    assert sections["compile"]["key"] == (recipe.compile_key, "")
    assert sections["image"]["full_tags"] == ("r.io/x:2.19.1-cpu-v3-BINARY-IMAGE", "default")
    assert sections["lower_cpu"]["image"][0] == "r.io/x:2.19.1-cpu-avx"
    command = shlex.split(devel_image_command(recipe, tmp_path))
    assert {f"source={recipe.source}", str(tmp_path / "recipe" / "devel.Dockerfile")} < set(command)
    assert command[-1] == str(CONTEXT)
    assert sections["cpu"]["march"][0] == "-march=x86-64-v3, from gcc 11 and clang 12 on"
    assert "LAHF-SAHF" in sections["cpu"]["psabi_features"][0]
    bare = explained(recipes(matrix)["cpu-v1"], matrix)
    assert (bare["compile"]["copts"][0], bare["cpu"]["linux_flags"][0]) == ("", "nothing beyond x86-64")
    added, shown = bare["cpu"]["upstream_adds"]
    assert added.startswith("pni popcnt pni sse4_1 sse4_2 ssse3 in tensorflow::crc32c")
    assert shown.startswith("catalogue, -msse3 in tensorflow/tensorflow.bzl, -msse4.2 in ")
    assert "upstream_adds" not in sections["cpu"]


def test_explain_reports_where_each_value_comes_from(tmp_path: Path) -> None:
    image = {"repository": "r.io/x", "aliases": ["{id}"]}
    toolchain = {"base": "debian:bookworm", "compiler": "gcc", "packages": ["libx-dev"]}
    network = {"base_images": {"debian:bookworm": "mirror/debian"}}
    tree(tmp_path)
    matrix = levels_matrix(tmp_path, image=image, source=".", toolchain=toolchain, network=network)
    sections = explained(recipes(matrix)["mkl-v4"], matrix)
    shown = {
        name: where.partition(", matrix.yaml:")[0] for part in sections.values() for name, (_, where) in part.items()
    }
    assert shown["release"] == "releases[0]"
    assert shown["flavour"] == "targets.mkl.flavour"
    assert shown["level"] == "targets.mkl.levels"
    assert shown["source"] == "source"
    assert shown["base"] == "toolchain.base"
    assert shown["base_image_used"] == "network.base_images.debian:bookworm"
    assert shown["compiler"] == "toolchain.compiler"
    assert shown["packages"] == "catalogue, release 2.19.1, base and compiler; toolchain.packages"
    assert shown["bazel"] == shown["configs"] == "catalogue, release 2.19.1"
    assert shown["copts"] == ""
    assert sections["variant"]["copts"][1] == "catalogue, level x86-64-v4"
    assert shown["aliases"] == "image.aliases"
    assert shown["full_tags"] == shown["platform"] == "default"


def test_explain_names_the_entry_of_the_release(tmp_path: Path) -> None:
    (tree(tmp_path) / "bazel").touch()
    own = {
        "releases": "2.6.3",
        "source": ".",
        "toolchain": {
            "base": "debian:bullseye",
            "compiler": "gcc-9",
            "python": "3.9",
            "packages": ["vim"],
            "configs": {"cpu": ["own"]},
        },
        "bazel": {"version": "3.7.2", "binary": "bazel", "options": ["-k"], "startup_options": ["--batch"]},
    }
    matrix = load(tmp_path, document(releases=["2.6.3", "2.7.4"], per_release=[own]))
    mine, other = (
        {**shown["compile"], **shown["toolchain"]}
        for shown in (explained(recipe, matrix) for recipe in recipes_for(matrix.variants, matrix)[0])
    )
    written = {name: where.partition(", matrix.yaml:")[0] for name, (_, where) in mine.items()}
    assert written["source"] == "per_release[0].source"
    assert written["configs"] == "per_release[0].toolchain.configs.cpu"
    assert written["base"] == "per_release[0].toolchain.base"
    assert written["compiler"] == "per_release[0].toolchain.compiler"
    assert written["python"] == "per_release[0].toolchain.python"
    assert written["packages"] == "catalogue, release 2.6.3, base and compiler; per_release[0].toolchain.packages"
    assert (mine["bazel"][0], written["bazel"]) == (
        "3.7.2, the file that the matrix names",
        "per_release[0].bazel.version",
    )
    assert (mine["bazel_options"][0], written["bazel_options"]) == ("-k", "per_release[0].bazel.options")
    assert mine["bazel_startup_options"][0] == "--batch"
    assert {other[name][1] for name in ("source", "base", "compiler", "bazel", "configs")} == {
        "catalogue, release 2.7.4"
    }
    assert other["bazel"][0].startswith(f"{releases()['2.7.4'].bazel}, release asset sha256:")
    assert other["python"][1] == "catalogue, release and base"
    assert not {"bazel_options", "bazel_startup_options"} & set(other)
    shown = [explain_upstream(variant, matrix) for variant in matrix.variants]
    origins = [{where.partition(", matrix.yaml:")[0] for _, _, where, _ in entries} for ((_, entries),) in shown]
    assert "per_release[0].toolchain.compiler" in origins[0]
    assert origins[1] == {"catalogue, release 2.7.4"}


def test_explain_reports_what_is_fixed(tmp_path: Path) -> None:
    toolchain = {"base": "debian:bullseye", "compiler": "gcc-9", "python": "2.7"}
    matrix = load(tmp_path, document(releases=["1.9.1"], toolchain=toolchain))
    recipe = recipe_for(matrix.variants[0], matrix)
    assert explained(recipe, matrix)["toolchain"]["fix grpc-gettid.sh"][0].startswith("gRPC before 1.22")


def test_explain_reports_labels_and_resources(tmp_path: Path) -> None:
    def found(**sections: object) -> dict[str, tuple[str, str]]:
        matrix = load(tmp_path, document(**sections))
        shown = dict(explain_matrix(matrix.variants[0], matrix, file_from=""))
        return {
            name: (value, where.partition(",")[0])
            for name, (value, where) in _by_name(shown["image"] + shown["resources"]).items()
        }

    plain = found()
    assert plain["jobs"] == plain["memory"] == ("not limited", "default")
    image = {"repository": "r", "labels": {"com.example.team": "serving"}}
    limited = found(image=image, resources={"jobs": 4, "memory": "8GiB"})
    assert limited["label com.example.team"] == ("serving", "image.labels")
    assert limited["jobs"] == ("4", "resources.jobs")
    assert limited["memory"] == ("8GiB", "resources.memory")


def _by_name(entries: tuple[Explained, ...]) -> dict[str, tuple[str, str]]:
    def text(value: str | tuple[str, ...]) -> str:
        return value if isinstance(value, str) else " ".join(value)

    return {f"{one.name} {one.of}".rstrip(): (text(one.value), one.origin) for one in entries}


def test_explain_shows_upstream_where_there_is_no_recipe(tmp_path: Path) -> None:
    targets = {"g": {"flavour": "gpu", "levels": ["x86-64"]}}
    image = {"repository": "r.io/x", "aliases": ["{id}"]}
    matrix = load(tmp_path, document(releases=["2.14.1"], image=image, targets=targets))
    (variant,) = matrix.variants
    shown = dict(explain_matrix(variant, matrix, file_from="default"))
    assert _by_name(shown["image"])["aliases"][0] == "r.io/x:2.14.1-gpu-cuda11.8-v1"
    ((title, entries),) = explain_upstream(variant, matrix)
    values = _by_name(entries)
    facts = releases()["2.14.1"].flavours[Flavour.GPU]
    assert title == "toolchain"
    assert values["base"] == (facts.base, "catalogue, release 2.14.1")
    assert values["compiler"] == (facts.compiler, "catalogue, release 2.14.1")
    assert values["bazel"] == (releases()["2.14.1"].bazel, "catalogue, release 2.14.1")
    bazel = {"version": "4.2.3", "package": "bazel-bootstrap"}
    toolchain = {"configs": {"gpu": ["own"]}}
    other = load(tmp_path, document(releases=["2.14.1"], targets=targets, toolchain=toolchain, bazel=bazel))
    ((_, entries),) = explain_upstream(other.variants[0], other)
    assert _by_name(entries)["bazel"] == ("4.2.3, bazel-bootstrap", "bazel.version, matrix.yaml:3")
    assert _by_name(entries)["configs"][0] == "--config=own"


def test_explain_reports_where_a_set_of_flags_does_nothing(tmp_path: Path) -> None:
    targets = {"t": {"flavour": "cpu", "levels": ["x86-64-v3", "x86-64-v4"], "flags": "avx2-fma"}}
    image = {"repository": "r", "aliases": ["{id}"]}
    matrix = load(tmp_path, document(image=image, targets=targets))
    v3, v4 = (_by_name(explain_matrix(one, matrix, file_from="")[0][1]) for one in matrix.variants)
    assert v3["copts"][1] == "catalogue, flag set avx2-fma (targets.t.flags, matrix.yaml:9)"
    assert v4["copts"][1] == "catalogue, level x86-64-v4 (flag set avx2-fma is for level x86-64-v3 alone)"


def test_what_is_only_reported_of_a_branch_is_built(tmp_path: Path) -> None:
    target = {"flavour": "cpu", "levels": ["x86-64", "x86-64-v3"]}
    image = {"repository": "r", "aliases": ["{id}"]}
    matrix = load(tmp_path, document(releases=["2.12.2"], image=image, targets={"t": target}))
    plain, doubtful = (dict(explain_matrix(variant, matrix, file_from="default")) for variant in matrix.variants)
    assert "reported" not in plain
    assert doubtful["reported"][0][:2] == ("doubt", "it may not compile: an update of Eigen broke code for AVX2")


def test_what_cannot_be_built_is_kept_apart(tmp_path: Path) -> None:
    matrix = load(tmp_path, document(releases=["2.19.1", "2.3.4"]))
    made, missing = recipes_for(matrix.variants, matrix)
    assert [recipe.variant.id for recipe in made] == ["2.19.1-cpu-v1"]
    assert [one.variant.id for one in missing] == ["2.3.4-cpu-v1"]
