"""Which programs a shell command calls. Pure: text in, words out; nothing is run, and no variable is known."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

UNKNOWN = "\0"  # Stands in a text for what is known only when it runs
_WORDS = """
: . [ [[ ]] alias break cd command continue declare dirs echo eval exit export false getopts hash let local popd printf
pushd pwd read readonly return set shift shopt source test times trap true type typeset ulimit umask unalias unset wait
"""
_BUILTINS = set(_WORDS.split())
_KEYWORDS = {"!", "{", "}", "do", "done", "elif", "else", "esac", "fi", "if", "in", "then", "until", "while"}
_BEFORE_A_WORD = {"case", "for", "select"}
# What runs another program: which of its options take a word, and how many words stand before the program.
_CALLERS: Mapping[str, tuple[str, int]] = {
    **dict.fromkeys(("builtin", "command", "nohup", "setsid"), ("", 0)),
    "env": ("-u -C -S --unset --chdir", 0),
    "exec": ("-a", 0),
    "nice": ("-n --adjustment", 0),
    "stdbuf": ("-i -o -e", 0),
    "sudo": ("-u -g", 0),
    "time": ("-f -o", 0),
    "timeout": ("-k -s --kill-after --signal", 1),
    "xargs": ("-a -d -E -I -L -n -P -s", 0),
}
_OF_THE_SHELL = {"builtin", "command", "exec", "time"}
_SHELLS = {"bash", "dash", "sh"}
_SHELL_COMMAND = re.compile(r"-[a-z]*c")

# A quoted or plain piece of a word, an operator, a comment, or blanks. `$(` and backticks are looked into beforehand.
_TOKEN = re.compile(
    r"""(?P<blank>[ \t]+|\\\n)
    |(?P<comment>(?<![^\s;&|()])\#[^\n]*)
    |(?P<redirect>\d*(?:&>>?|>>|<<<|<>|>\||<&|>&|<|>))
    |(?P<operator>&&|\|\||;;|[;&|()\n])
    |(?P<single>'[^']*'?)
    |(?P<double>"(?:\\.|[^"\\])*"?)
    |(?P<plain>(?:\\.|\$\{[^}]*\}|[^\s;&|()<>'"\\])+|\\)""",
    re.VERBOSE | re.DOTALL,
)
# An escaped character, a quoted text, the beginning of `$(...)`, what backticks run, or any character.
_PIECE = re.compile(r"\\.?|'[^']*'?|\$\(|`[^`]*`?|.", re.DOTALL)
_HEREDOC = re.compile(r"<<-?\s*(['\"]?)(\w+)\1([^\n]*)\n.*?^\s*\2\s*$", re.DOTALL | re.MULTILINE)
_ARITHMETIC = re.compile(r"(?<![$\w])\(\(.*?\)\)", re.DOTALL)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*\+?=")
_ARRAY = re.compile(r"\b[A-Za-z_]\w*\+?=\([^()]*\)")
_FUNCTION = re.compile(r"(?:^|[;&|{])\s*(?:function\s+([A-Za-z_][\w-]*)|([A-Za-z_][\w-]*)\s*\(\))", re.MULTILINE)


def shell_programs(text: str) -> tuple[str, ...]:
    """Find the programs that a command line or a script names, in their order, each once."""
    # The shell's own commands and the functions of the text are left out. A word that only the run decides is UNKNOWN,
    # or has UNKNOWN or a `$` in it.
    own = {name for pair in _FUNCTION.findall(text) for name in pair if name}
    return tuple(dict.fromkeys(word for word in _programs(text) if word not in own))


def _programs(text: str) -> Iterator[str]:
    text = _ARRAY.sub(" ", _ARITHMETIC.sub(" ", _HEREDOC.sub(r"\3\n", text)))
    flat, inner = _substitutions(text)
    for words in _without_patterns(_commands(flat)):
        yield from _of_command(words)
    for part in inner:
        yield from _programs(part)


def _substitutions(text: str) -> tuple[str, list[str]]:
    """Take out what `$(...)` and backticks run: the text with UNKNOWN in its place, and each of them."""
    kept: list[str] = []
    inner: list[str] = []
    at, quoted = 0, False
    while found := _PIECE.match(text, at):
        piece = found.group()
        if quoted and piece[0] == "'":
            piece = "'"
        end = at + len(piece)
        if piece == "$(":
            end = _closing(text, at + 1)
            if not text.startswith("$((", at):
                inner.append(text[at + 2 : end - 1])
            piece = UNKNOWN
        elif piece[0] == "`":
            inner.append(piece.strip("`"))
            piece = UNKNOWN
        quoted ^= piece == '"'
        kept.append(piece)
        at = end
    return "".join(kept), inner


def _closing(text: str, at: int) -> int:
    """Return the place behind the parenthesis that closes the one at `at`."""
    depth = 0
    for place in range(at, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return len(text)


def _without_patterns(commands: Iterable[tuple[list[str], str]]) -> Iterator[list[str]]:
    """Leave out what stands before the `)` of a `case`: it looks like commands."""
    depth, pattern = 0, False
    for words, operator in commands:
        if words[:1] == ["case"]:
            depth, pattern = depth + 1, operator != ")"
        elif words[:1] == ["esac"]:
            depth, pattern = max(0, depth - 1), False
        elif not pattern:
            yield words
            pattern = depth > 0 and operator == ";;"
        elif operator == ")":
            pattern = False


def _commands(text: str) -> Iterator[tuple[list[str], str]]:
    """Split into simple commands, each a list of words without their quotes, and the operator behind it."""
    # Redirections are left out.
    words: list[str] = []
    word: str | None = None
    skip = False
    for token in _TOKEN.finditer(text):
        kind, piece = token.lastgroup, token.group()
        if kind in {"single", "double", "plain"}:
            piece = piece.strip(piece[0]) if kind != "plain" else re.sub(r"\\(.)", r"\1", piece, flags=re.DOTALL)
            word = (word or "") + piece
            continue
        if word is not None:
            if not skip:
                words.append(word)
            word, skip = None, False
        if kind == "redirect":
            skip = True
        elif kind == "operator":
            yield words, piece
            words, skip = [], False
    if word is not None and not skip:
        words.append(word)
    yield words, ""


def _of_command(words: list[str]) -> Iterator[str]:
    """The program of a simple command, and what that runs."""
    rest = list(words)
    while rest and (rest[0] in _KEYWORDS or _ASSIGNMENT.match(rest[0])):
        rest.pop(0)
    if not rest or rest[0] in _BEFORE_A_WORD or (len(rest) == 1 and rest[0].isdecimal()):
        return
    program, *arguments = rest
    if program in _SHELLS:
        yield program
        yield from _of_shell(arguments)
    elif program in _CALLERS:
        if program not in _OF_THE_SHELL:
            yield program
        yield from _of_command(_behind_options(arguments, *_CALLERS[program]))
    elif program == "eval":
        yield from _programs(" ".join(arguments))
    elif program == "function":
        yield from _of_command(arguments[1:])
    elif program not in _BUILTINS:
        yield program
        if program == "find":
            starts = [index + 1 for index, word in enumerate(arguments) if word in {"-exec", "-execdir"}]
            yield from (arguments[index] for index in starts if index < len(arguments))


def _of_shell(arguments: list[str]) -> Iterator[str]:
    """What a shell runs: a command, or a script among the sources, which has a `/` in its name then."""
    for place, word in enumerate(arguments):
        if _SHELL_COMMAND.fullmatch(word):
            yield from (called for text in arguments[place + 1 : place + 2] for called in _programs(text))
            return
        if not word.startswith(("-", "+")):
            yield word if "/" in word or UNKNOWN in word or "$" in word else f"./{word}"
            return


def _behind_options(arguments: list[str], with_word: str, before: int) -> list[str]:
    rest = list(arguments)
    while rest and rest[0].startswith("-"):
        rest = rest[2 if rest[0] in with_word.split() else 1 :]
    return rest[before:]
