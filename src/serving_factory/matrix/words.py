"""The texts that a user writes in a matrix file: what each must look like, and which releases or versions it means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from string import Formatter

from packaging.specifiers import InvalidSpecifier, Specifier
from packaging.version import Version

from serving_factory.catalogue.cuda import cards, cudas
from serving_factory.catalogue.distributions import distributions
from serving_factory.catalogue.facts import Flavour
from serving_factory.catalogue.levels import Level, flag_sets
from serving_factory.catalogue.releases import closest_release, releases
from serving_factory.matrix.problems import BrokenRuleError, DidYouMean, NoSuchThingError, nearest, without_password
from serving_factory.matrix.schema import Text, matching, one_of
from serving_factory.matrix.variant import Platform, check_capability

LATEST = "latest-patches"

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_OPERATORS = "<>=!~"
_SPELLING = 'Write it like ">=2.11,<2.16": <, <=, ==, !=, >=, > or ~= and a version, joined by commas.'


def is_range(text: str) -> bool:
    """Whether this describes things by their versions, and is not the name of one."""
    return LATEST in text or any(character in text for character in f"{_OPERATORS},")


def is_name(text: str) -> bool:
    """Whether this is the full name of one thing."""
    return _NUMBERS.fullmatch(text.strip()) is not None


@cache
def release_tags(text: str) -> frozenset[str]:
    """Find the releases that a selector means.

    Args:
        text: parts joined by commas, each of which narrows: a full tag, a version specifier, or `latest-patches`.

    Raises:
        BrokenRuleError: it cannot be read, or the catalogue has no such release.
    """
    catalogue = releases()
    found = set(catalogue)
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part == LATEST:
            found &= set({release.series: tag for tag, release in catalogue.items()}.values())
        elif part in catalogue:
            found &= {part}
        elif part[:1] and part[0] in _OPERATORS:
            specifier = _specifier(part)
            # All releases are stable: asking whether a pre-release is meant would take as long again.
            found = {tag for tag in found if specifier.contains(catalogue[tag].version, prereleases=True)}
        elif not part:
            raise BrokenRuleError("there is nothing before or after a comma", _SPELLING)
        else:
            raise _no_release(part)
    if not found and len(parts) > 1 and all(map(release_tags, parts)):
        rule = "parts joined by commas narrow each other, and no release is all of this"
        raise NoSuchThingError(rule, 'Write an entry or a rule for each, or a range such as ">=2.18,<2.20".')
    if not found:
        first, *_, last = catalogue
        raise NoSuchThingError("the catalogue has no such release", f"It has {first} to {last}.")
    return frozenset(found)


@cache
def cuda_versions(text: str) -> frozenset[str]:
    """Find the CUDA versions that a selector means: one by its name, or several by a specifier.

    Raises:
        BrokenRuleError: it cannot be read, or no release was built with such a CUDA.
    """
    known = list(cudas())
    rule, remedy = "no release was built with such a CUDA", f"The catalogue has {', '.join(known)}."
    if text in known:
        return frozenset({text})
    if text[:1] and text[0] in _OPERATORS:
        specifier = _specifier(text)
        if found := {version for version in known if Version(version) in specifier}:
            return frozenset(found)
    elif is_name(text):
        remedy = f"Did you mean {min(known, key=lambda version: abs(_number(version) - _number(text)))!r}?"
    else:
        raise BrokenRuleError("expected a CUDA version or a specifier", 'Write "12.2", or a range such as ">=12".')
    raise NoSuchThingError(rule, remedy)


def _number(version: str) -> int:
    major, minor, *_ = (*Version(version).release, 0)
    return 100 * major + minor


def _specifier(text: str) -> Specifier:
    try:
        found = Specifier(text)
    except InvalidSpecifier:
        raise BrokenRuleError("this is not a version specifier", _SPELLING) from None
    if found.operator == "===":
        raise BrokenRuleError("=== compares texts, and each version has only one text", _SPELLING)
    return found


def _no_release(asked: str) -> BrokenRuleError:
    rule = "this is neither a release nor a specifier"
    if "*" in asked:
        return BrokenRuleError(rule, 'Write "==2.11.*" for all releases of a series.')
    if not asked[0].isdigit() and nearest(asked, [LATEST]):
        return BrokenRuleError(rule, DidYouMean(asked, [LATEST]))
    other = closest_release(asked, releases())
    kind = NoSuchThingError if is_name(asked) else BrokenRuleError
    return kind(other.reason, f"Did you mean {other.tag!r}? {own_release(asked, other.tag)}.")


def own_release(name: str, like: str) -> str:
    """Say how the matrix file names what is no release of upstream's."""
    return f'A branch or a candidate has a name of its own: {{name: {name}, like: "{like}", source: FOLDER}}'


def _releases(text: str) -> str:
    release_tags(text)
    return text


def _cuda(text: str) -> str:
    if len(cuda_versions(text)) != 1:
        raise BrokenRuleError("a target names one CUDA version", 'Write it in full, such as "12.2".')
    return next(iter(cuda_versions(text)))


def _like(text: str) -> str:
    if text not in releases():
        raise _no_release(text)
    return text


def without_separators(name: str) -> str:
    """Spell a name so that two which are one in a bake file, where `.` is `_`, or as a DNS label are the same."""
    return re.sub("[._-]", "-", name)


def _own_name(text: str) -> str:
    if without_separators(text) in map(without_separators, releases()):
        raise BrokenRuleError("upstream has a release of this name", "Name it otherwise, such as 2.21.0-rc1.")
    return str(_OWN_NAME.check(text))


_OWN_NAME = matching(
    r"(?=.{1,40}$)[a-z0-9]+(?:[._-][a-z0-9]+)*",
    "a name is lower-case words and numbers joined by '.', '-' or '_', 40 characters at most",
    "Write it like 2.21.0-rc1 or nightly-20260131.",
)
LIKE, OWN_NAME = Text(_like), Text(_own_name, _OWN_NAME.pattern)
COMMIT = matching(r"[0-9a-f]{40}", "a commit is 40 hex digits", "`git rev-parse` prints it in full.")
FLAVOUR, LEVEL, PLATFORM = one_of(Flavour), one_of(Level), one_of(Platform)
RELEASES, RELEASE_TAGS = Text(_releases), Text(release_tags)
CUDA, CUDAS = Text(_cuda), Text(cuda_versions)

# --- names and images -------------------------------------------------------------------------------------------------

# As Docker reads names: the first word is a registry only where it holds a dot or a port, or is localhost.
_PORT = r"(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_REGISTRY = rf"(?:localhost|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+|[A-Za-z0-9-]+(?=:))(?::{_PORT})?"
_REPOSITORY_WORD = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = rf"(?:{_REGISTRY}/)?{_REPOSITORY_WORD}(?:/{_REPOSITORY_WORD})*"
_NAME = r"[a-z0-9]+(?:[.-][a-z0-9]+)*"

REPOSITORY = matching(
    rf"(?=.{{1,255}}$){_REPOSITORY}",
    "a repository is lower case: [registry[:port]/]name[/name], with single separators, 255 characters at most",
    "Write it like team/serving, and the tag under tags:.",
)
SLIM, SLIM_OF = "slim", "slim of "  # a base of few packages: of the compile's distribution, or of an image that follows
IMAGE = matching(
    rf"{_REPOSITORY}(?::[A-Za-z0-9_][A-Za-z0-9._-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?",
    "an image is [registry[:port]/]name[:tag][@sha256:64 hex digits]",
    "Write it like debian:bookworm.",
)


def _base(name: str) -> str:
    IMAGE.check(name)
    known = distributions()
    if name.partition("@")[0] not in known:
        listed = f"Known: {', '.join(known)}. An image that stands for one of them goes to network.base_images."
        remedy = listed if "/" in name else DidYouMean(name, known, listed)
        raise BrokenRuleError("the catalogue has no such base image", remedy)
    return name


def _tagged_image(name: str) -> str:
    IMAGE.check(name)
    if ":" not in name.rpartition("/")[2]:  # an image by digest has one, too
        raise BrokenRuleError("a base image is named with its tag or its digest", "Write it like debian:trixie-slim.")
    return name


def _runtime_base(name: str) -> str:
    if name != SLIM:
        _tagged_image(name.removeprefix(SLIM_OF))
    return name


def _label(name: str) -> str:
    if name.startswith("org.serving-factory."):
        raise BrokenRuleError("labels that begin with org.serving-factory are the factory's own", "Use another name.")
    return str(_LABEL_WORDS.check(name))


_LABEL_WORDS = matching(_NAME, "a label is lower-case words joined by '.' or '-'", "Write it like com.example.team.")
BASE, LABEL = Text(_base, IMAGE.pattern), Text(_label, _LABEL_WORDS.pattern)
TAGGED_IMAGE = Text(_tagged_image, IMAGE.pattern)
RUNTIME_BASE = Text(_runtime_base, rf"^(?:{SLIM}$|(?:{SLIM_OF})?{IMAGE.pattern.removeprefix('^')})")
TARGET = matching(_NAME, "a target's name is lower-case words joined by '.' or '-'", "Write it like cpu-standard.")
REASON = matching(r"[\s\S]*\w[\s\S]*", "a reason is words", "Write why: `explain --dropped` prints it.")

FILE = matching(r"[^\x00-\x1f]+", "a file's name is not empty and holds no control characters", "Write its path.")
COMMAND_WORD = matching(r"[^\x00]+", "a word of a command is not empty", "Remove it.")

DURATION = matching(
    r"[1-9][0-9]{0,5}[smh]", "a duration is a whole number of seconds, minutes or hours", "Write it like 30s, 5m or 1h."
)

# --- compilers and Bazel ----------------------------------------------------------------------------------------------

LEVELS_OWN_FLAGS = "level"
"""At a target's `flags:`, the compiler options of the level itself."""


def _flag_names() -> tuple[str, ...]:
    return (LEVELS_OWN_FLAGS, *flag_sets())


def _flags(name: str) -> str:
    names = _flag_names()
    if name not in names:
        remedy = DidYouMean(name, names, f"There are: {', '.join(names)}.")
        raise BrokenRuleError("there is no such set of flags", remedy)
    return name


_OPTION_WORD = matching(
    r"-[A-Za-z0-9_=,.:/+@%~-]+",
    "a compiler option begins with '-' and holds no blanks, quotes or shell characters",
    "Make each option an entry of its own, such as [-O3, -g].",
)


def _compiler_option(text: str) -> str:
    if text in ("-march=native", "-mtune=native"):
        raise BrokenRuleError("what this gives depends on the machine that builds", "Use level native.")
    if text.startswith("--"):
        raise BrokenRuleError("a compiler option begins with one '-'", "Write Bazel's own options at bazel.options.")
    if text.startswith("-o"):
        raise BrokenRuleError("Bazel decides where the compiler writes", "Remove it.")
    return str(_OPTION_WORD.check(text))


_REFUSED_OPTIONS = r"(?!--|-o|-m(?:arch|tune)=native$)"
COMPILER_OPTION = Text(_compiler_option, _OPTION_WORD.pattern.replace("^", f"^{_REFUSED_OPTIONS}"))
FLAGS = Text(_flags, words=_flag_names)
CAPABILITY = Text(check_capability, r"^(?:[0-9]+\.[0-9]|(?:sm|compute)_[0-9]{2,})$", cards)
PACKAGE = matching(r"[a-z0-9][a-z0-9+.:=~-]*", "not a Debian package name", "Name one package, such as gcc-10.")
COMPILER = matching(
    r"(?:gcc|clang)(?:-[0-9]+(?:\.[0-9]+)?)?", "a compiler is gcc or clang", "Write it like gcc-9: g++ comes with it."
)
DEVICE_COMPILER = matching(r"clang-[0-9]+", "what compiles device code apart is a clang", "Write it like clang-19.")
PYTHON = matching(r"[23](?:\.[0-9]{1,2})?", "a Python is one number or two", 'Write it in quotes, like "3" or "3.8".')
CONFIG = matching(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", "a Bazel config is one word", "Write it without --config=.")
VERSION = matching(
    r"[0-9]+(?:\.[0-9]+)*(?:rc[0-9]+)?(?:\+[A-Za-z0-9]+(?:[.-][A-Za-z0-9]+)*)?",
    "a version begins with a digit and is numbers joined by dots",
    'Write it like "6.5.0", "7.0.0rc1" or "4.2.3+ds-1".',
)
BAZEL_REPOSITORY = matching(r"[A-Za-z0-9_][A-Za-z0-9_.+~-]*", "not a repository's name", "Write it without the @.")
BAZEL_OPTION = matching(
    r"-[^\s'\"`$\\\\;&|<>()]*",
    "an option of Bazel begins with '-' and holds no blanks, quotes or shell characters",
    "Make each option an entry of its own, such as [--define=a=b, -k].",
)
MEMORY = matching(
    r"[1-9][0-9]{0,6}MiB|[1-9][0-9]{0,4}GiB", "a size is a number below 100,000, and GiB or MiB", "Write it like 16GiB."
)

# --- the network ------------------------------------------------------------------------------------------------------

_HOST = rf"(?:[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?|\[[0-9A-Fa-f:]+(?:\.[0-9.]+)?\])(?::{_PORT})?"
_UNSAFE = r"\s'\"`$\\"


def url(*schemes: str, like: str, path: str = f"(?:/[^{_UNSAFE}]*)?", secret: bool = True) -> Text:
    """Make the shape of a URL: its schemes, an example, what may follow the host, whether a password is kept secret."""
    user = rf"(?:[^{_UNSAFE}@/]*@)?"
    whole = rf"(?:{'|'.join(schemes)})://{user if secret else ''}{_HOST}{path}"
    names = f"{', '.join(schemes[:-1])} or {schemes[-1]}" if len(schemes) > 1 else schemes[0]

    def check(text: str) -> str:
        scheme, mark, rest = text.partition("://")
        if re.search(f"[{_UNSAFE}]", text):
            rule = "a URL holds no blanks, quotes, dollar signs or backslashes"
            raise BrokenRuleError(rule, f"Write it like {like}; in a password, $ is %24, and so on.")
        if not mark or scheme not in schemes:
            raise BrokenRuleError(f"a URL begins with {names} and ://", f"Write it like {like}.")
        if not secret and without_password(text) != text:
            raise BrokenRuleError("a password cannot be kept secret here", "Remove it from the URL.")
        if not re.fullmatch(f"{user}{_HOST}(?:[/?#].*)?", rest):
            raise BrokenRuleError("the host or the port in this URL is not valid", f"Write it like {like}.")
        if not re.fullmatch(whole, text):
            raise BrokenRuleError("what follows the host cannot stand here", f"Write it like {like}.")
        return text

    return Text(check, f"^(?:{whole})$")


WEB = url("http", "https", like="https://mirror.example.com/path")
PROXY = url("http", "https", like="http://proxy.example.com:3128", path="/?")
PUBLIC_WEB = url("http", "https", like="https://mirror.example.com/path", secret=False)
GIT = url("http", "https", "ssh", "git", like="https://git.example.com/", secret=False)
REMOTE_CACHE = url(
    *("http", "https", "grpc", "grpcs"), like="grpcs://cache.example.com:443", path=rf"(?:/[^{_UNSAFE}{{}}#]*)?"
)
EXECUTOR = url("grpc", "grpcs", like="grpcs://build.example.com:443", path="")
_PLACEHOLDERS = ("{archive}", "{snapshot}")


def _apt(text: str) -> str:
    for word in re.findall(r"\{[^{}]*\}", text):
        if word not in _PLACEHOLDERS:
            raise BrokenRuleError(f"{word} is not a placeholder", f"There are: {', '.join(_PLACEHOLDERS)}.")
    return str(WEB.check(text))


APT = Text(_apt, WEB.pattern)
SNAPSHOT = matching(
    r"[0-9]{4}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])T(?:[01][0-9]|2[0-3])[0-5][0-9][0-5][0-9]Z",
    "a snapshot is a time in UTC",
    'Write it like "20260102T030405Z".',
)
HOSTS = matching(r"[A-Za-z0-9_.,:*/\[\]-]+", "not a list of hosts", "Join them by commas: localhost,.example.com.")
HEADER = matching(r"[A-Za-z0-9_.-]+", "a header's name is letters, digits and _.-", "Write it like x-api-key.")
HEADER_VALUE = matching(r"[^\x00-\x1f\x7f]+", "a header holds no control characters", "Write it on one line.")

# --- tags -------------------------------------------------------------------------------------------------------------

# OCI distribution spec, section "Pulling manifests": what a tag may look like.
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

_TAG_WORDS = ("id", "release", "series", "flavour", "flavour-suffix", "level")
TAG_WORDS = (*_TAG_WORDS, "binary", "image")
"""The placeholders of full tags; the last two: the first 12 digits of the binary's sha256, and of the image's key."""
ALIAS_WORDS = (*_TAG_WORDS, "target")
"""The placeholders of aliases; `target` gives one alias for each target that selects the variant."""
INDEX_WORDS = ("release", "series", "flavour", "flavour-suffix", "gpu-suffix")
"""The placeholders of indexes; `gpu-suffix` names the CUDA and the capabilities that are not upstream's."""


def is_tag(text: str) -> bool:
    """Whether a registry accepts this as a tag."""
    return _TAG.fullmatch(text) is not None


def template_rule(words: Sequence[str], *, required: str = "") -> Callable[[str], str]:
    """Make the check of a tag template: the placeholders that it may hold, and the one that it must hold."""
    known = [f"{{{word}}}" for word in words]

    def check(template: str) -> str:
        try:
            used = [field for field in Formatter().parse(template) if field[1] is not None]
        except ValueError:
            raise BrokenRuleError(
                "a brace is not closed or not opened", f"Write a placeholder as {known[0]}."
            ) from None
        for _, name, form, conversion in used:
            if name not in words or form or conversion:
                remedy = DidYouMean(f"{{{name}}}", known, "Use one of them.")
                raise BrokenRuleError(f"a placeholder is one of {', '.join(known)}", remedy)
        # What an alias gives is looked at variant by variant, a full tag not.
        suffixes = ("", "-x") if required else ("x",)
        filled = [
            template.format_map({**dict.fromkeys(words, "x"), "flavour-suffix": text, "gpu-suffix": text})
            for text in suffixes
        ]
        if not all(map(is_tag, filled)):
            rule = "a tag holds letters, digits, '_', '.' and '-', 128 at most, and begins with no '.' or '-'"
            raise BrokenRuleError(rule, "Remove all other characters.")
        if required and required not in {name for _, name, _, _ in used}:
            raise BrokenRuleError(f"a full tag names one binary: it must hold {{{required}}}", "Add it at the end.")
        return template

    return check
