"""Templates of tags: which placeholders they may hold, and what a registry takes as a tag."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from string import Formatter

from serving_factory.catalogue.cuda import cards
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, flag_sets
from serving_factory.matrix.problems import BrokenRuleError, did_you_mean
from serving_factory.matrix.schema import Text, Word, matching
from serving_factory.matrix.selectors import cuda_versions, release_tags
from serving_factory.matrix.variant import Platform, check_capability

LEVELS_OWN_FLAGS = "level"
"""At a target's `flags:`, the compiler options of the level itself."""

# As Docker reads names: the first word is a registry only where it holds a dot or a port, or is localhost.
_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_REGISTRY = rf"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::{_PORT})?"
_REPOSITORY_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = rf"(?:{_REGISTRY}/)?{_REPOSITORY_WORD}(?:/{_REPOSITORY_WORD})*"
_NAME = r"[a-z0-9]+(?:[.-][a-z0-9]+)*"


def _release_selector(text: str) -> str:
    release_tags(text)
    return text


def _cuda_selector(text: str) -> str:
    cuda_versions(text)
    return text


def _cuda_version(text: str) -> str:
    if len(cuda_versions(text)) != 1:
        raise BrokenRuleError("a target names one CUDA version", 'Write it in full, such as "12.2".')
    return next(iter(cuda_versions(text)))


def _flag_names() -> tuple[str, ...]:
    return (LEVELS_OWN_FLAGS, *flag_sets())


def _flags(name: str) -> str:
    names = _flag_names()
    if name not in names:
        listed = f"There are: {', '.join(names)}."
        raise BrokenRuleError("there is no such set of flags", did_you_mean(name, names, otherwise=listed))
    return name


def _label(name: str) -> str:
    if name.startswith("org.serving-factory."):
        raise BrokenRuleError("labels that begin with org.serving-factory are the factory's own", "Take another name.")
    return _LABEL_WORDS.check(name)


_LABEL_WORDS = matching(_NAME, "a label is lower-case words joined by '.' or '-'", "Write it like com.example.team.")

_OPTION_WORD = matching(
    r"-[A-Za-z0-9_=,.:/+@%~-]+",
    "a compiler option begins with '-' and holds no blanks, quotes or shell characters",
    "Make each option an entry of its own, such as [-O3, -g].",
)


def _compiler_option(text: str) -> str:
    if text in ("-march=native", "-mtune=native"):
        raise BrokenRuleError("what this gives depends on the machine that builds", "Use level native.")
    if text.startswith("--"):
        raise BrokenRuleError("a compiler option begins with one '-'", "Bazel's own options cannot stand here.")
    if text.startswith("-o"):
        raise BrokenRuleError("where the compiler writes is Bazel's to say", "Take it away.")
    return _OPTION_WORD.check(text)


_REFUSED_OPTIONS = r"(?!--|-o|-m(?:arch|tune)=native$)"
COMPILER_OPTION = Text(_compiler_option, _OPTION_WORD.pattern.replace("^", f"^{_REFUSED_OPTIONS}"))
CAPABILITY = Text(check_capability, r"^(?:[0-9]+\.[0-9]|(?:sm|compute)_[0-9]{2,})$", cards)
PACKAGE = matching(r"[a-z0-9][a-z0-9+.:=~-]*", "this is no Debian package name", "Name one package, such as gcc-10.")
COMPILER = matching(
    r"(?:gcc|clang)(?:-[0-9]+(?:\.[0-9]+)?)?",
    "a compiler is gcc or clang, with the version that its package names",
    "Write it like gcc-9: g++ comes with it.",
)
REPOSITORY = matching(
    rf"(?=.{{1,255}}$){_REPOSITORY}",
    "a repository is lower case: [registry[:port]/]name[/name], with single separators, 255 characters at most",
    "Write it like team/serving, and the tag under tags:.",
)
IMAGE = matching(
    rf"{_REPOSITORY}(?::[A-Za-z0-9_][A-Za-z0-9._-]*)?(?:@sha256:[0-9a-f]{{64}})?",
    "an image is [registry[:port]/]name[:tag][@sha256:64 hex digits]",
    "Write it like debian:bookworm.",
)
TARGET = matching(_NAME, "a target's name is lower-case words joined by '.' or '-'", "Write it like cpu-standard.")
LABEL = Text(_label, _LABEL_WORDS.pattern)
FOLDER = matching(
    r"[^\x00-\x1f]+",
    "a folder's name is not empty and holds no control characters",
    "Name a folder, relative to this file.",
)
FILE = matching(
    r"[^\x00-\x1f]+",
    "a file's name is not empty and holds no control characters",
    "Name a file, relative to this one.",
)
URL = matching(
    r"[a-z][a-z0-9+.-]*://[^\s'\"`$\\\\]+",
    "a URL has a scheme, and holds no blanks, quotes, dollar signs or backslashes",
    "Write it like https://mirror.example.com/path; in a password, $ is %24, and so on.",
)
URL_OR_FOLDER = matching(
    r"[^\x00-\x1f'\"`$\\\\]+",
    "this is neither a URL nor a folder: it is empty, or holds quotes, dollar signs or backslashes",
    "Write it like https://mirror.example.com/ubuntu, or name a folder, relative to this file.",
)
SNAPSHOT = matching(r"[0-9]{8}T[0-9]{6}Z", "a snapshot is a time in UTC", 'Write it like "20260102T030405Z".')
HOSTS = matching(r"[A-Za-z0-9_.,:*/\[\]-]+", "this is a list of hosts", "Join them by commas: localhost,.example.com.")
BAZEL_REPOSITORY = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*", "this is no name of an external repository", "Write it without the @."
)
BAZEL_OPTION = matching(
    r"-[^\s'\"`$\\\\;&|<>()]*",
    "an option of Bazel begins with '-' and holds no blanks, quotes or shell characters",
    "Make each option an entry of its own, such as [--define=a=b, -k].",
)
PYTHON = matching(
    r"[23](?:\.[0-9]{1,2})?", "a Python is named by one number or two", 'Write them in quotes, like "3" or "3.8".'
)
CONFIG = matching(
    r"[A-Za-z0-9_][A-Za-z0-9_.-]*",
    "a Bazel config is one word of letters, digits, '_', '.' and '-'",
    "Write it without --config=.",
)
VERSION = matching(
    r"[0-9]+(?:\.[0-9]+)*(?:rc[0-9]+)?(?:\+[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*)?",
    "a version begins with a digit and is numbers joined by dots",
    'Write it like "6.5.0", "7.0.0rc1" or "4.2.3+ds-1".',
)
MEMORY = matching(
    r"[1-9][0-9]{0,6}(?:MiB|GiB)", "a size is a number and MiB or GiB, such as 16GiB", "Add the unit, MiB or GiB."
)
REASON = matching(
    r"[\s\S]*\w[\s\S]*",
    "a reason says in words why the rule is there",
    "Write why, for whoever asks where a variant has gone.",
)
FLAVOUR, LEVEL, PLATFORM = Word(Flavour), Word(Level), Word(Platform)
RELEASES = Text(_release_selector)
CUDA, CUDAS = Text(_cuda_version), Text(_cuda_selector)
FLAGS = Text(_flags, words=_flag_names)


# OCI distribution spec, section "Pulling manifests": what a tag may look like.
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

_WORDS = ("id", "release", "flavour", "level")
TAG_WORDS = (*_WORDS, "binary")
"""The placeholders of full tags; `binary` stands for the first 12 digits of the binary's sha256."""
ALIAS_WORDS = (*_WORDS, "target")
"""The placeholders of aliases; `target` gives one alias for each target that selects the variant."""


def is_tag(text: str) -> bool:
    """Whether a registry takes this as a tag."""
    return _TAG.fullmatch(text) is not None


def template_rule(words: Sequence[str], *, required: str = "") -> Callable[[str], str]:
    """Make the check of a tag template, for the matrix file's model.

    Args:
        words: the placeholders that it may hold.
        required: the one that it must hold.

    Returns:
        A function that gives the template back, or raises BrokenRuleError.
    """
    known = ", ".join(f"{{{word}}}" for word in words)

    def check(template: str) -> str:
        try:
            fields = [field for field in Formatter().parse(template) if field[1] is not None]
        except ValueError:
            raise BrokenRuleError("a brace has no partner", f"Write a placeholder as {{{words[0]}}}.") from None
        for _, name, form, conversion in fields:
            if name not in words or form or conversion:
                remedy = did_you_mean(f"{{{name}}}", [f"{{{word}}}" for word in words], otherwise="Take one of them.")
                raise BrokenRuleError(f"a placeholder is one of {known}", remedy)
        if not is_tag(template.format_map(dict.fromkeys(words, "x"))):
            raise BrokenRuleError(
                "a tag holds letters, digits, '_', '.' and '-', 128 at most, and begins with no '.' or '-'",
                "Leave out what is none of these.",
            )
        if required and required not in {name for _, name, _, _ in fields}:
            raise BrokenRuleError(f"a full tag names one binary: it must hold {{{required}}}", "Add it at the end.")
        return template

    return check
