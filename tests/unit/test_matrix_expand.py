"""matrix/expand.py and rules.py: what is kept, what is dropped, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from serving_factory.catalogue.facts import Flavour, FlavourFacts
from serving_factory.catalogue.levels import LEVELS, Level
from serving_factory.catalogue.releases import releases
from serving_factory.errors import MatrixError
from serving_factory.matrix.expand import Expansion, expand, uncertain_pairs
from serving_factory.matrix.matrix import Matrix
from serving_factory.matrix.model import Conditions
from serving_factory.matrix.problems import Problem
from serving_factory.matrix.rules import Rule
from serving_factory.matrix.targets import Selection
from serving_factory.matrix.variant import (
    Candidate,
    Platform,
    Variant,
    levels_of,
    upstreams_capabilities,
    variant_of,
    without_cards,
)

from .matrices import document, load

TAGS = tuple(releases())
CARDS = (None, ("sm_70",), ("8.0", "9.0"), ("sm_80", "9.0"), without_cards(["blackwell"]))


def compiler_of(_release: str, facts: FlavourFacts) -> str:
    return facts.compiler


def selection(target: str = "t", **values: object) -> Selection:
    asked: dict[str, object] = {
        "flavour": Flavour.CPU,
        "levels": (Level.V1, Level.V3),
        "platforms": (Platform.LINUX_AMD64,),
        "releases": {"2.19.1": ("releases", 0)},
        "named": frozenset(),
        "cuda": None,
        "capabilities": None,
        "copts": (),
        "flag_set": None,
        "origins": {"flavour": ("targets", target, "flavour"), "cuda": ("c",), "capabilities": ("d",)},
    }
    return Selection(target=target, **{**asked, **values})  # type: ignore[arg-type]


def subset(values: Sequence[object]) -> st.SearchStrategy[tuple[object, ...]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=3, unique=True).map(tuple)


asked_releases = subset(TAGS).map(lambda tags: {str(tag): ("releases", 0) for tag in tags})
selections = st.lists(
    st.builds(
        selection,
        st.sampled_from(["a", "b", "c"]),
        flavour=st.sampled_from(Flavour),
        levels=subset(tuple(Level)),
        platforms=subset(tuple(Platform)),
        releases=asked_releases,
        cuda=st.sampled_from([None, "11.8", "12.2"]),
        capabilities=st.sampled_from(CARDS),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda one: one.target,
)
conditions = st.builds(
    Conditions,
    targets=st.none() | subset(["a", "b", "c"]).map(frozenset),
    releases=st.none() | st.sets(st.sampled_from(TAGS), min_size=20).map(frozenset),
    flavours=st.none() | subset(tuple(Flavour)).map(frozenset),
    levels=st.none() | subset(tuple(Level)).map(frozenset),
    platforms=st.none() | subset(tuple(Platform)).map(frozenset),
    cuda=st.none() | subset(["11.8", "12.2"]).map(frozenset),
)
excludes = st.builds(Rule, path=st.just(("exclude", 0)), reason=st.just("no"), where=conditions)
requires = st.builds(Rule, path=st.just(("require", 0)), reason=st.just("must"), where=conditions, only=conditions)
rules = st.lists(excludes | requires, max_size=4).map(
    lambda found: tuple(replace(rule, path=(rule.path[0], index)) for index, rule in enumerate(found))
)


def expanded(asked: Sequence[Selection], with_rules: Sequence[Rule]) -> Expansion:
    return expand(asked, with_rules, compiler_of)


def dropped(expansion: Expansion) -> set[Candidate]:
    return {one.candidate for one in expansion.dropped}


# --- what always holds ------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(selections, rules)
def test_rules_only_remove(asked: list[Selection], with_rules: tuple[Rule, ...]) -> None:
    """What rules take out is what is dropped; together with what is kept it is what was there without them."""
    bare, ruled = expanded(asked, ()), expanded(asked, with_rules)
    assert set(ruled.kept) <= set(bare.kept)
    assert set(ruled.kept) | dropped(ruled) == set(bare.kept) | dropped(bare)
    assert set(ruled.kept).isdisjoint(dropped(ruled))


@settings(max_examples=30)
@given(selections, rules, excludes | requires)
def test_one_more_rule_never_adds_a_variant(asked: list[Selection], some: tuple[Rule, ...], more: Rule) -> None:
    assert set(expanded(asked, (*some, replace(more, path=(more.path[0], 9)))).kept) <= set(expanded(asked, some).kept)


@settings(max_examples=30)
@given(selections, rules, st.randoms())
def test_the_order_of_rules_decides_nothing(asked: list[Selection], some: tuple[Rule, ...], random: object) -> None:
    shuffled = list(some)
    getattr(random, "shuffle")(shuffled)  # noqa: B009 - a Random of hypothesis' own
    one, other = expanded(asked, some), expanded(asked, shuffled)
    assert one.kept == other.kept
    assert {(d.candidate, frozenset(d.reasons)) for d in one.dropped} == {
        (d.candidate, frozenset(d.reasons)) for d in other.dropped
    }
    assert {finding.path for finding in all_findings(one)} == {finding.path for finding in all_findings(other)}


@settings(max_examples=30)
@given(selections, rules)
def test_what_is_dropped_has_a_reason_that_holds(asked: list[Selection], with_rules: tuple[Rule, ...]) -> None:
    result = expanded(asked, with_rules)
    for one in result.dropped:
        assert one.reasons
        assert all(reason.text for reason in one.reasons)
        assert {reason.rule for reason in one.reasons} - {None} == {
            rule for rule in with_rules if rule.drops(one.candidate)
        }
    assert not [candidate for candidate in result.kept for rule in with_rules if rule.drops(candidate)]


@settings(max_examples=30)
@given(selections, rules)
def test_it_is_the_same_each_time_and_in_order(asked: list[Selection], with_rules: tuple[Rule, ...]) -> None:
    result = expanded(asked, with_rules)
    assert result == expanded(asked, with_rules)
    for one in asked:
        variants = [candidate.variant for candidate in result.kept if candidate.target == one.target]
        assert variants == sorted(variants, key=lambda variant: variant.order)
        assert len(variants) == len(set(variants))


@settings(max_examples=30)
@given(selections)
def test_every_id_is_one_variants_and_leads_back_to_its_axes(asked: list[Selection]) -> None:
    variants = {candidate.variant for candidate in expanded(asked, ()).kept}
    assert len({variant.id for variant in variants}) == len(variants)
    for variant in variants:
        # A target of such a platform never gets here: its levels are checked before.
        possible = variant.level in levels_of(variant.platform)
        assert variant_of(variant.id) == (replace(variant, capabilities=()) if possible else None)


@settings(max_examples=15)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.fixed_dictionaries(
            {"flavour": st.sampled_from(["cpu", "mkl", "gpu"]), "levels": subset(LEVELS[2:]).map(list)},
            optional={"copts": st.just(["-O3"])},
        ),
        min_size=1,
    )
)
def test_tags_are_one_variants_whatever_targets_there_are(
    tmp_path_factory: pytest.TempPathFactory, targets: dict[str, dict[str, object]]
) -> None:
    levels = [str(level) for level in Level]
    for target in targets.values():
        target["levels"] = sorted(map(str, target["levels"]), key=levels.index)  # type: ignore[call-overload]
    image = {"repository": "r", "aliases": ["{id}", "{release}-{target}-{level}"]}
    folder = tmp_path_factory.mktemp("matrix")
    try:
        matrix = load(folder, document(image=image, releases=["latest-patches,>=2.17"], targets=targets))
    except MatrixError as error:
        assert "with different " in error.why  # noqa: PT017 - an error is one of two good ends
        return
    assert len(every_alias(matrix)) == len(set(every_alias(matrix)))


def every_alias(matrix: Matrix) -> list[str]:
    return [tag for one in matrix.variants for tag in matrix.aliases_of(one)]


# --- ids --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("", "2.19.1", "2.19-cpu-v3", "2.19.1-cpu", "2.19.1-tpu-v3", "2.19.1-cpu-v5", "2.19.1-cpu-v3-riscv"),
        *("x2.19.1-cpu-v3", "9.9.9-cpu-v3", "2.15.0-cpu-v3", "1.12.3-mkl-v3", "2.19.1-gpu-v3"),
        *("2.19.1-gpu-cuda11.8-v3", "2.19.1-cpu-cuda12.2-v3", "2.19.1-cpu-v3-arm64"),
    ],
)
def test_what_is_no_id(text: str) -> None:
    assert variant_of(text) is None


def test_an_id_names_capabilities_that_are_not_upstreams() -> None:
    (plain,) = kept(selection(flavour=Flavour.GPU, levels=(Level.V3,)))
    assert plain.id == "2.19.1-gpu-cuda12.2-v3"
    assert plain.capabilities == upstreams_capabilities("2.19.1")
    (own,) = kept(selection(flavour=Flavour.GPU, levels=(Level.V3,), capabilities=("sm_80", "9.0")))
    assert own.id == "2.19.1-gpu-cuda12.2-sm80-90-v3"
    same = tuple(reversed(upstreams_capabilities("2.19.1")))
    assert kept(selection(flavour=Flavour.GPU, levels=(Level.V3,), capabilities=same)) == [plain]


# What is asked, what TensorFlow is given for it, the id, and what the binary must have
SPELLED: dict[str, list[tuple[tuple[str, ...], str, str, str]]] = {
    "2.19.1": [
        (("8.0", "9.0"), "sm_80,sm_90,compute_90", "sm80-90", "sm_80 sm_90 compute_90"),
        (("9.0", "8.0", "8.0"), "sm_80,sm_90,compute_90", "sm80-90", "sm_80 sm_90 compute_90"),
        (("sm_80", "sm_90"), "sm_80,sm_90", "sm80-90x", "sm_80 sm_90"),
        (
            ("compute_80", "compute_90"),
            "sm_80,compute_80,sm_90,compute_90",
            "sm80p-90",
            "sm_80 sm_90 compute_80 compute_90",
        ),
        (("8.0", "sm_90"), "sm_80,compute_80,sm_90", "sm80p-90x", "sm_80 sm_90 compute_80"),
        (("sm_80", "8.0"), "sm_80,compute_80", "sm80", "sm_80 compute_80"),
        (("9.0", "10.0"), "sm_90,sm_100,compute_100", "sm90-100", "sm_90 sm_100 compute_100"),
    ],
    "2.7.4": [(("compute_70", "compute_80"), "compute_70,compute_80", "sm70p-80", "sm_70 sm_80 compute_70 compute_80")],
    "2.9.3": [(("7.0", "8.0"), "sm_70,sm_80,compute_80", "sm70-80", "sm_70 sm_80 compute_80")],
    "2.3.4": [(("7.0", "7.5"), "sm_70,compute_75", "sm70-75", "sm_70 sm_75 compute_75")],
    "2.2.3": [
        (("7.0", "7.5"), "7.0,7.5", "sm70p-75", "sm_70 sm_75 compute_70 compute_75"),
        (("compute_75",), "7.5", "sm75", "sm_75 compute_75"),
    ],
    "1.15.0": [(("7.0",), "7.0", "sm70", "sm_70 compute_70")],
}


@pytest.mark.parametrize(
    ("release", "asked", "given", "name", "code"), [(tag, *row) for tag, rows in SPELLED.items() for row in rows]
)
def test_capabilities_are_spelled_as_the_release_knows_them(
    release: str, asked: tuple[str, ...], given: str, name: str, code: str
) -> None:
    chosen = selection(flavour=Flavour.GPU, levels=(Level.V1,), releases=ranged(release), capabilities=asked)
    (candidate,) = [*expanded([chosen], ()).kept, *(one.candidate for one in expanded([chosen], ()).dropped)]
    variant = candidate.variant
    assert ",".join(variant.capabilities) == given
    assert f"-{name}-v1" in variant.id
    assert " ".join(variant.device_code) == code


@pytest.mark.parametrize("release", [tag for tag, one in releases().items() if one.flavours.get(Flavour.GPU)])
def test_upstreams_own_capabilities_keep_their_meaning(release: str) -> None:
    """Before 2.3 each has PTX; from then on upstream names the words that say so; 2.2.0 names none."""
    chosen = selection(flavour=Flavour.GPU, levels=(Level.V1,), releases=ranged(release))
    plan = expanded([chosen], ())
    (variant,) = [one.variant for one in (*plan.kept, *(dropped.candidate for dropped in plan.dropped))]
    assert variant.capabilities == upstreams_capabilities(release)
    machine = [word.removeprefix("sm_") for word in variant.device_code if word.startswith("sm_")]
    ptx = [word.removeprefix("compute_") for word in variant.device_code if word.startswith("compute_")]
    assert ptx == (machine if releases()[release].version < Version("2.3") else machine[-1:])
    assert release != "2.2.0" or machine == ["35", "52"]


def test_without_cuda_there_is_no_device_code() -> None:
    (variant,) = kept(selection(levels=(Level.V3,)))
    assert variant.device_code == ()


def test_machine_code_alone_needs_a_tensorflow_that_knows_the_words() -> None:
    asked = selection(
        flavour=Flavour.GPU, levels=(Level.V1,), releases=ranged("2.2.3", "2.3.4"), capabilities=("sm_70", "7.5")
    )
    assert [variant.release for variant in kept(asked)] == ["2.3.4"]
    assert list(reasons(asked).values()) == [
        ("release 2.2.3: its TensorFlow compiles PTX for every capability, so sm_70 cannot be had without",)
    ]
    named = replace(asked, named=frozenset({"2.2.3"}))
    assert [finding.path for finding in all_findings(expanded([named], ()))] == [("d",)]


def kept(*asked: Selection, rules: Sequence[Rule] = ()) -> list[Variant]:
    return [candidate.variant for candidate in expanded(asked, rules).kept]


# --- what the catalogue has against a variant -------------------------------------------------------------------------


def reasons(*asked: Selection, rules: Sequence[Rule] = ()) -> dict[str, tuple[str, ...]]:
    return {
        one.candidate.variant.id: tuple(reason.text for reason in one.reasons) for one in expanded(asked, rules).dropped
    }


def ranged(*tags: str) -> dict[str, tuple[str, int]]:
    return dict.fromkeys(tags, ("releases", 0))


def test_a_range_takes_what_there_is_of_a_flavour() -> None:
    asked = selection(flavour=Flavour.MKL, levels=(Level.V1,), releases=ranged("1.12.3", "1.13.0"))
    assert [variant.id for variant in kept(asked)] == ["1.13.0-mkl-v1"]
    assert reasons(asked) == {"1.12.3-mkl-v1": ("release 1.12.3 has no flavour mkl",)}
    assert all_findings(expanded([asked], ())) == []


def test_a_release_by_its_full_tag_must_have_what_is_asked() -> None:
    asked = selection(flavour=Flavour.MKL, releases=ranged("1.12.3", "1.13.0"), named=frozenset({"1.12.3", "1.13.0"}))
    (finding,) = all_findings(expanded([asked], ()))
    assert (finding.path, finding.rule) == (("targets", "t", "flavour"), "release 1.12.3 has no flavour mkl")
    assert finding.remedy == "It has: cpu, gpu."


def test_a_target_may_name_the_cuda_that_releases_have() -> None:
    asked = selection(flavour=Flavour.GPU, levels=(Level.V1,), releases=ranged("2.14.1", "2.19.1"), cuda="12.2")
    assert [variant.id for variant in kept(asked)] == ["2.19.1-gpu-cuda12.2-v1"]
    assert reasons(asked) == {"2.14.1-gpu-cuda11.8-v1": ("release 2.14.1 is built with CUDA 11.8 alone",)}
    named = replace(asked, named=frozenset({"2.14.1"}))
    assert [finding.path for finding in all_findings(expanded([named], ()))] == [("c",)]


def test_a_capability_needs_a_cuda_that_compiles_it() -> None:
    asked = selection(
        flavour=Flavour.GPU, levels=(Level.V1,), releases=ranged("2.11.1", "2.19.1"), capabilities=("8.9",)
    )
    assert [variant.capabilities for variant in kept(asked)] == [("sm_89", "compute_89")]
    assert reasons(asked) == {
        "2.11.1-gpu-cuda11.2-sm89-v1": (
            "release 2.11.1: CUDA 11.2 compiles capabilities 3.5 to 8.6, not 8.9; it needs CUDA 11.8",
        )
    }
    named = replace(asked, named=frozenset({"2.11.1"}))
    assert [finding.path for finding in all_findings(expanded([named], ()))] == [("d",)]


def test_what_is_known_not_to_work_is_not_built() -> None:
    asked = selection(levels=(Level.V1, Level.V4), releases=ranged("2.0.0"))
    assert [variant.id for variant in kept(asked)] == ["2.0.0-cpu-v1"]
    assert reasons(asked)["2.0.0-cpu-v4"][0].startswith("it does not compile: the AVX-512 kernels of TensorFlow Lite")


def test_upstreams_gpu_image_without_nvrtc_does_not_stop_ours_which_has_it() -> None:
    """serving#1659: upstream's image of 2.2.0 lacks libnvrtc, so its server does not start."""
    asked = selection(flavour=Flavour.GPU, levels=(Level.V1,), releases=ranged("2.2.0"))
    assert [variant.id for variant in kept(asked)] == ["2.2.0-gpu-cuda10.1-v1"]


def test_nvcc_takes_no_newer_gcc_than_it_knows() -> None:
    asked = selection(flavour=Flavour.GPU, levels=(Level.V1,), releases=ranged("2.9.3", "2.19.1"))

    def with_compiler(compiler: str) -> tuple[list[str], dict[str, tuple[str, ...]]]:
        result = expand([asked], (), lambda _, __: compiler)
        reasons = {one.candidate.variant.release: tuple(r.text for r in one.reasons) for one in result.dropped}
        return [candidate.variant.release for candidate in result.kept], reasons

    expected = {"2.9.3": ("nvcc of CUDA 11.2 takes gcc up to 10 as host compiler, not gcc-12",)}
    assert with_compiler("gcc-12") == (["2.19.1"], expected), "clang compiles the CUDA of 2.19.1"
    assert with_compiler("gcc-10") == (["2.9.3", "2.19.1"], {})
    assert with_compiler("gcc") == (["2.9.3", "2.19.1"], {}), "of no known version"
    assert with_compiler("clang-17") == (["2.9.3", "2.19.1"], {})


def test_another_compiler_is_another_matter() -> None:
    asked = selection(levels=(Level.V4,), releases=ranged("2.0.0"))
    assert kept(asked) == []
    assert expand([asked], (), lambda _, __: "gcc 8.4").dropped == []
    assert expand([asked], (), lambda _, __: "").dropped == []


def test_what_is_not_certain_is_built() -> None:
    (variant,) = kept(selection(levels=(Level.V3,), releases=ranged("2.12.2")))
    assert len(uncertain_pairs(variant, "gcc 9.4")) == 1
    assert uncertain_pairs(variant, "gcc 10.2") == ()
    assert uncertain_pairs(replace(variant, level=Level.V1), "gcc 9.4") == ()


def test_the_flags_of_a_set_are_for_its_level_alone() -> None:
    basic, optimized = kept(selection(flag_set="avx2-fma"))
    assert (basic.flag_set, optimized.flag_set) == (None, "avx2-fma")
    assert basic.all_copts == ()
    assert (basic.cuda, basic.capabilities) == (None, ())
    assert optimized.all_copts[-1] == "-O3"


# --- rules ------------------------------------------------------------------------------------------------------------

V3_CPU = Candidate("t", Variant(release="2.19.1", flavour=Flavour.CPU, level=Level.V3))
V3_GPU = Candidate("t", Variant(release="2.19.1", flavour=Flavour.GPU, level=Level.V3, cuda="12.2"))


@pytest.mark.parametrize(
    ("met", "unmet"),
    [
        (Conditions(targets=frozenset({"t"})), Conditions(targets=frozenset({"u"}))),
        (Conditions(releases=frozenset({"2.19.1"})), Conditions(releases=frozenset({"2.19.0"}))),
        (Conditions(flavours=frozenset({Flavour.GPU})), Conditions(flavours=frozenset({Flavour.CPU}))),
        (Conditions(levels=frozenset({Level.V3})), Conditions(levels=frozenset({Level.V4}))),
        (
            Conditions(platforms=frozenset({Platform.LINUX_AMD64})),
            Conditions(platforms=frozenset({Platform.LINUX_ARM64})),
        ),
        (Conditions(cuda=frozenset({"12.2"})), Conditions(cuda=frozenset({"11.8"}))),
    ],
)
def test_each_condition_counts(met: Conditions, unmet: Conditions) -> None:
    assert met.met_by(V3_GPU)
    assert not unmet.met_by(V3_GPU)
    assert not unmet.met_by(Candidate("t", replace(V3_GPU.variant, copts=("-O3",))))


def test_all_conditions_must_be_met_and_none_is_met_by_all() -> None:
    assert Conditions().met_by(V3_CPU)
    assert not Conditions(levels=frozenset({Level.V3}), flavours=frozenset({Flavour.GPU})).met_by(V3_CPU)
    assert not Conditions(cuda=frozenset({"12.2"})).met_by(V3_CPU), "what has no CUDA meets no condition on it"


def rule(kind: str, index: int = 0, only: Conditions | None = None, **where: object) -> Rule:
    return Rule(path=(kind, index), reason=f"{kind} {index}", where=Conditions(**where), only=only)  # type: ignore[arg-type]


def all_findings(expansion: Expansion) -> list[Problem]:
    return [*expansion.mistakes, *expansion.consequences]


def test_a_require_rule_leaves_alone_what_it_is_not_about() -> None:
    must = rule("require", only=Conditions(levels=frozenset({Level.V3})), flavours=frozenset({Flavour.CPU}))
    assert must.path == ("require", 0)
    assert not must.drops(V3_CPU)
    assert must.drops(Candidate("t", replace(V3_CPU.variant, level=Level.V1)))
    other = Candidate("t", replace(V3_GPU.variant, level=Level.V1))
    assert not must.concerns(other)
    assert not must.drops(other)


def test_a_rule_about_one_target_leaves_the_variant_to_others() -> None:
    no = rule("exclude", targets=frozenset({"a"}), levels=frozenset({Level.V1}))
    result = expanded([selection("a"), selection("b")], [no])
    assert [(one.target, one.variant.level) for one in result.kept] == [
        ("a", Level.V3),
        ("b", Level.V1),
        ("b", Level.V3),
    ]
    assert [(one.candidate.target, one.reasons[0].rule) for one in result.dropped] == [("a", no)]


def test_every_reason_is_listed_the_catalogues_first() -> None:
    asked = selection(flavour=Flavour.MKL, levels=(Level.V1,), releases=ranged("1.12.3", "1.13.0"))
    both = [
        rule("exclude", 0, releases=frozenset({"1.12.3"})),
        rule("require", 0, Conditions(releases=frozenset({"1.13.0"}))),
    ]
    assert reasons(asked, rules=both) == {
        "1.12.3-mkl-v1": ("release 1.12.3 has no flavour mkl", "exclude 0", "require 0")
    }


def findings(asked: Sequence[Selection], *with_rules: Rule) -> list[tuple[object, str]]:
    return [(finding.path, finding.rule) for finding in all_findings(expanded(asked, with_rules))]


def test_what_is_wrong_with_rules_is_found() -> None:
    both = [selection("a"), selection("b", flavour=Flavour.MKL)]
    nothing = rule("exclude", 0, flavours=frozenset({Flavour.GPU}))
    assert findings(both, nothing) == [(("exclude", 0), "no selected variant meets all of these conditions")]
    about_nothing = rule("require", 1, Conditions(), flavours=frozenset({Flavour.GPU}))
    assert findings(both, about_nothing)[0][0] == ("require", 1, "where")
    everything = rule("exclude", 2, platforms=frozenset({Platform.LINUX_AMD64}))
    assert findings(both, everything) == [(("exclude", 2), "this rule drops every variant of target a and b")]
    of_one = rule("exclude", 3, flavours=frozenset({Flavour.MKL}))
    assert findings(both, of_one) == [(("exclude", 3), "this rule drops every variant of target b")]
    none_stays = rule("require", 4, Conditions(flavours=frozenset({Flavour.GPU})), levels=frozenset({Level.V1}))
    assert [path for path, _ in findings(both, none_stays)] == [("require", 4, "only")]
    some_stay = rule("require", 5, Conditions(flavours=frozenset({Flavour.CPU})), levels=frozenset({Level.V1}))
    assert findings(both, some_stay) == []


def test_rules_that_leave_nothing_together_are_reported_at_the_target() -> None:
    one = rule("exclude", 0, levels=frozenset({Level.V1}))
    other = rule("exclude", 1, levels=frozenset({Level.V3}))
    assert findings([selection()], one, other) == [
        (("targets", "t"), "this target selects nothing: exclude 0; exclude 1")
    ]


def test_an_empty_target_names_three_reasons_and_counts_the_others() -> None:
    def empty(*tags: str) -> str:
        asked = selection(flavour=Flavour.MKL, levels=(Level.V1,), releases=ranged(*tags))
        ((path, text),) = findings([asked])
        assert path == ("targets", "t")
        return text.partition("nothing: ")[2]

    assert empty("1.5.0").count("has no flavour mkl") == 1
    assert empty("1.5.0", "1.6.0", "1.6.1").endswith("release 1.6.1 has no flavour mkl")
    assert empty("1.5.0", "1.6.0", "1.6.1", "1.7.0", "1.7.1").endswith("release 1.6.1 has no flavour mkl; and 2 more")


def test_what_is_wrong_with_one_target_hides_nothing_of_another() -> None:
    wrong = selection("a", flavour=Flavour.MKL, releases=ranged("1.12.3"), named=frozenset({"1.12.3"}))
    empty = selection("b", flavour=Flavour.MKL, releases=ranged("1.12.0"))
    assert [path for path, _ in findings([wrong, empty])] == [("targets", "a", "flavour"), ("targets", "b")]


def test_levels_named_twice_are_one_variant() -> None:
    assert len(kept(selection(levels=(Level.V1, Level.V1)))) == 1


def test_everything_expands(tmp_path: Path) -> None:
    levels = [level.value for level in Level]
    targets = {flavour.value: {"flavour": flavour.value, "levels": levels} for flavour in Flavour}
    image = {"repository": "r", "aliases": ["{id}"]}
    matrix = load(tmp_path, document(image=image, releases=[">=0"], targets=targets))
    assert len(matrix.variants) > 1000
    assert {variant.release for variant in matrix.variants} == set(TAGS)
    assert len(matrix.variants) + len(matrix.dropped) == len(TAGS) * len(Flavour) * len(Level)
