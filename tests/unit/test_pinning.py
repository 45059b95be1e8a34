"""line/pinning.py: pins are made, kept, moved and compared; upstream is a fake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from serving_factory.catalogue.distributions import retired_bases
from serving_factory.errors import (
    FactoryError,
    MovedError,
    NotLockedError,
    RegistryDeniedError,
    RegistryFaultError,
    VanishedError,
)
from serving_factory.matrix.lockfile import Lock
from serving_factory.pipeline.pins import Change, Pin, Upstream, compare_pins, locked_by, make_pins, replacement
from serving_factory.recipes.pins import NeededBase, Needs

A, B, C = ("sha256:" + digit * 64 for digit in "abc")
SUM, OTHER_SUM = "1" * 64, "2" * 64
NEEDS = Needs(bases=(NeededBase(name="u:1", asked="u:1"), NeededBase(name="u:2", asked="m.example/u:2")), bazels=("3",))
NOTHING = Needs(bases=(), bazels=())
LOCKED = Lock(bases={"u:1": A, "u:2": B}, bazel={"3": SUM})


@dataclass
class Fake(Upstream):
    """Upstream: name → what it stands for, or why it cannot be found; and the digests that registries still have."""

    found: Mapping[str, str | FactoryError] = field(default_factory=lambda: {"u:1": A, "m.example/u:2": B, "3": SUM})
    held: set[str] = field(default_factory=lambda: {A, B})
    asked: list[str] = field(default_factory=list)

    def _find(self, name: str) -> str:
        self.asked.append(name)
        found = self.found.get(name, VanishedError(f"{name} is gone", remedy="take another"))
        if isinstance(found, FactoryError):
            raise found
        return found

    def digest(self, base: NeededBase) -> str:
        return self._find(base.image)

    def holds(self, _base: NeededBase, digest: str) -> bool:
        return digest in self.held

    def checksum(self, version: str) -> str:
        return self._find(version)


def never(_name: str) -> bool:
    return False


def always(_name: str) -> bool:
    return True


def changes(pins: tuple[Pin, ...]) -> dict[str, Change]:
    return {pin.name: pin.change for pin in pins}


# --- making pins ------------------------------------------------------------------------------------------------------


def test_what_is_not_locked_is_asked_and_added() -> None:
    pins = make_pins(NEEDS, Lock(), Fake(), never)
    assert changes(pins) == dict.fromkeys(["u:1", "u:2", "3"], Change.ADDED)
    made = locked_by(pins, Lock())
    assert (made.bases, made.bazel) == (LOCKED.bases, LOCKED.bazel)


def test_what_is_locked_is_kept_and_nothing_is_asked() -> None:
    fake = Fake({"u:1": C, "m.example/u:2": C, "3": OTHER_SUM})
    pins = make_pins(NEEDS, LOCKED, fake, never)
    assert changes(pins) == dict.fromkeys(["u:1", "u:2", "3"], Change.KEPT)
    assert fake.asked == []
    assert locked_by(pins, LOCKED) == LOCKED


def test_an_update_takes_what_there_is_now() -> None:
    pins = make_pins(NEEDS, LOCKED, Fake({"u:1": C, "m.example/u:2": B, "3": OTHER_SUM}), always)
    assert changes(pins) == {"u:1": Change.MOVED, "u:2": Change.KEPT, "3": Change.MOVED}
    made = locked_by(pins, LOCKED)
    assert (made.bases, made.bazel) == ({"u:1": C, "u:2": B}, {"3": OTHER_SUM})


def test_an_update_of_one_name_asks_about_that_alone() -> None:
    fake = Fake({"u:1": C, "m.example/u:2": C, "3": OTHER_SUM})
    pins = make_pins(NEEDS, LOCKED, fake, lambda name: name == "u:2")
    assert fake.asked == ["m.example/u:2"]
    assert locked_by(pins, LOCKED).bases == {"u:1": A, "u:2": C}


def test_a_base_whose_stand_in_the_engine_has_is_neither_asked_nor_lost() -> None:
    needs = Needs(bases=(NeededBase(name="u:1", asked=None), NeededBase(name="u:2", asked=None)), bazels=())
    fake = Fake()
    pins = make_pins(needs, Lock(bases={"u:1": A}), fake, always)
    assert changes(pins) == {"u:1": Change.KEPT}
    assert fake.asked == []


def test_what_nothing_needs_any_more_is_dropped() -> None:
    pins = make_pins(NOTHING, LOCKED, Fake(), never)
    assert changes(pins) == dict.fromkeys(["u:1", "u:2", "3"], Change.DROPPED)
    made = locked_by(pins, LOCKED)
    assert (made.bases, made.bazel) == ({}, {})


def test_a_failure_loses_nothing_that_was_there() -> None:
    lock = Lock(bases={"u:1": A, "old:1": C})
    pins = make_pins(NEEDS, lock, Fake({"u:1": RegistryFaultError("it coughs"), "m.example/u:2": B}), always)
    assert changes(pins) == {"u:1": Change.FAILED, "u:2": Change.ADDED, "3": Change.VANISHED, "old:1": Change.KEPT}
    made = locked_by(pins, lock)
    assert (made.bases, made.bazel) == ({"u:1": A, "u:2": B, "old:1": C}, {})


# --- comparing them ---------------------------------------------------------------------------------------------------


def compared(fake: Fake, lock: Lock = LOCKED, needs: Needs = NEEDS) -> dict[str, Pin]:
    return {pin.name: pin for pin in compare_pins(needs, lock, fake)}


def test_all_is_as_locked() -> None:
    pins = compared(Fake())
    assert {name: (pin.change, pin.error) for name, pin in pins.items()} == dict.fromkeys(
        ["u:1", "u:2", "3"], (Change.KEPT, None)
    )


def test_a_tag_that_moved_is_no_loss_while_the_old_image_is_held() -> None:
    pin = compared(Fake({"u:1": C, "m.example/u:2": B, "3": SUM}))["u:1"]
    assert pin.change is Change.MOVED
    assert isinstance(pin.error, MovedError)
    assert (A in pin.error.why, C in pin.error.why) == (True, True)
    assert "./factory lock --update u:1" in pin.error.remedy


def test_a_tag_that_moved_is_a_loss_where_the_old_image_is_gone() -> None:
    pin = compared(Fake({"u:1": C}, held=set()))["u:1"]
    assert pin.change is Change.VANISHED
    assert isinstance(pin.error, VanishedError)


@pytest.mark.parametrize("held", [True, False])
def test_a_deleted_tag_is_an_error_that_says_whether_the_image_is_still_there(*, held: bool) -> None:
    pin = compared(Fake({}, held={A} if held else set()))["u:1"]
    assert pin.change is Change.VANISHED
    assert isinstance(pin.error, VanishedError)
    assert ("can still be had by its digest" in pin.error.why) == held
    assert pin.error.remedy == "take another"


def test_a_release_asset_that_changed_is_reported_with_a_warning() -> None:
    pin = compared(Fake({"3": OTHER_SUM}))["3"]
    assert pin.change is Change.MOVED
    assert isinstance(pin.error, MovedError)
    assert "A release does not change" in pin.error.remedy


def test_what_is_needed_and_not_locked_is_reported_without_asking() -> None:
    fake = Fake()
    pins = compared(fake, Lock(bases={"u:1": A}))
    assert {name: pin.change for name, pin in pins.items()} == {
        "u:1": Change.KEPT,
        "u:2": Change.MISSING,
        "3": Change.MISSING,
    }
    assert all(isinstance(pins[name].error, NotLockedError) for name in ("u:2", "3"))
    assert fake.asked == ["u:1"]


def test_what_is_locked_and_not_needed_is_compared_too() -> None:
    pins = compared(Fake({"u:1": A, "u:2": C, "3": SUM}), needs=NOTHING)
    assert {name: pin.change for name, pin in pins.items()} == {
        "u:1": Change.KEPT,
        "u:2": Change.MOVED,
        "3": Change.KEPT,
    }


def test_a_source_that_does_not_answer_is_reported_as_such() -> None:
    denied = RegistryDeniedError("no entry")
    pin = compared(Fake({"u:1": denied}))["u:1"]
    assert (pin.change, pin.error) == (Change.FAILED, denied)


def test_a_registry_that_fails_at_the_second_question_is_reported_as_such() -> None:
    class Failing(Fake):
        def holds(self, _base: NeededBase, digest: str) -> bool:
            raise RegistryFaultError(f"{digest}?")

    pin = compared(Failing({"u:1": C}))["u:1"]
    assert pin.change is Change.FAILED
    assert isinstance(pin.error, RegistryFaultError)


# --- what takes the place of what is gone -----------------------------------------------------------------------------


def test_a_base_that_is_known_to_be_gone_has_a_replacement() -> None:
    for name, retired in retired_bases().items():
        reported = replacement(name)
        assert f"Name {retired.replacement} at toolchain.base" in reported
        assert all(reference in reported for reference in retired.references)
        assert (retired.last_patch or "").partition("@")[0] in reported


def test_any_other_base_has_a_general_one() -> None:
    assert "network.base_images" in replacement("debian:bookworm")
