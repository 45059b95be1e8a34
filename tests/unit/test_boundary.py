"""Standard streams, signals and errors around every command, as a user meets them: in a process of its own."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from invoke.exceptions import Exit

from serving_factory.commands.boundary import errors
from serving_factory.errors import UsageError, os_error
from serving_factory.pipeline.scheduler import on_signals

from .matrices import ROOT

ENDING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
START = f"{sys.executable} -S -P {ROOT}/scripts/start.py"
INVOKE = f"{sys.executable} -m invoke --search-root {ROOT}"


def shell(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as a user's shell does; its exit code is that of the first of a pipe."""
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=60,
        check=False,
    )


# --- streams ----------------------------------------------------------------------------------------------------------


ALL = "<&- >&- 2>&-"


@pytest.mark.parametrize(
    ("start", "closed"), [(START, "<&-"), (START, ">&-"), (START, "2>&-"), (START, ALL), (INVOKE, ALL)]
)
def test_a_closed_stream_is_dev_null(start: str, closed: str) -> None:
    done = shell(f"{start} tasks {closed}")
    assert done.returncode == 0
    assert done.stderr == ""
    assert bool(done.stdout) is (closed in {"<&-", "2>&-"})


def test_no_file_of_ours_takes_the_place_of_a_closed_stream() -> None:
    code = "from serving_factory.commands.boundary import open_streams; open_streams(); import os; "
    code += "assert [os.path.realpath(f'/proc/self/fd/{fd}') for fd in range(3)] == ['/dev/null'] * 3; "
    code += "assert os.system('test -e /proc/self/fd/2') == 0"
    assert shell(f'{sys.executable} -c "{code}" <&- >&- 2>&-').returncode == 0


@pytest.mark.parametrize("words", ["", "--list", "build --help", "list --json"])
def test_a_reader_that_has_read_enough_is_no_error(words: str) -> None:
    done = shell(f"{START} {words} | true")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("start", "words"), [(START, ""), (START, "--list"), (START, "build --help"), (START, "list --json"), (INVOKE, "")]
)
def test_any_other_lost_output_is_an_error(start: str, words: str) -> None:
    done = shell(f"{start} {words} >/dev/full")
    assert done.returncode == 1
    assert "standard output" in done.stderr
    assert "No space left on device" in done.stderr
    assert "this machine's disk" not in done.stderr.lower(), "it is the output's disk, which may be another"


def test_an_error_keeps_its_exit_code_when_its_message_is_lost() -> None:
    assert shell(f"{START} biuld 2>/dev/full").returncode == 2
    assert shell(f"{START} tasks 2>/dev/full").returncode == 0, "nothing was written there"


def test_what_the_terminals_encoding_does_not_have_is_replaced() -> None:
    done = shell(
        f"{START} list --matrix $'/caf\\xe9' --flavour $'\\xe9'", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0"
    )
    assert done.returncode == 3
    assert done.stderr.startswith("Error: /caf\\udce9: there is no such file")


# --- signals ----------------------------------------------------------------------------------------------------------

MOMENTS = {
    "sitecustomize": "while Python starts",
    "invoke": "while Invoke is imported",
    "serving_factory.matrix.load": "while a command imports what it needs",
}


@pytest.mark.parametrize("module", MOMENTS, ids=MOMENTS.get)
def test_ctrl_c_while_starting_ends_in_silence(tmp_path: Path, module: str) -> None:
    """At an import of the module, wherever it stands; a finder sees each."""
    finder = "import os, signal, sys\nclass F:\n def find_spec(self, name, path=None, target=None):\n"
    finder += f"  if name == {module!r}: os.kill(os.getpid(), signal.SIGINT)\n"
    text = "import os, signal; os.kill(os.getpid(), signal.SIGINT)\n" if module == "sitecustomize" else finder
    (tmp_path / "sitecustomize.py").write_text(
        f"{text}\nif {module!r} != 'sitecustomize': sys.meta_path.insert(0, F())\n"
    )
    done = shell(f"{START} list", PYTHONPATH=f"{tmp_path}:{ROOT / 'src'}")
    assert done.returncode == 130
    assert done.stdout == ""
    assert done.stderr in {"", "Cancelled.\n"}


def test_ctrl_c_that_python_would_forget_comes_again() -> None:
    code = """
import os, signal, time, weakref
from serving_factory.commands.boundary import errors
class A: pass
with errors():
    a = A()
    ref = weakref.ref(a, lambda _: os.kill(os.getpid(), signal.SIGINT))
    del a
    time.sleep(20)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=15, check=False)
    assert "Cancelled" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_cancellation_that_a_library_wraps_is_one_still() -> None:
    def wrap() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as error:
            raise RuntimeError("Error calling __set_name__") from error

    with pytest.raises(Exit) as caught, errors():
        wrap()
    assert caught.value.code == 130


@pytest.fixture
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in ENDING}
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", ENDING)
def test_each_signal_reaches_a_run(number: signal.Signals) -> None:
    seen: list[bool] = []
    with errors(), on_signals(lambda: seen.append(True)):
        os.kill(os.getpid(), number)
    assert seen == [True]
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("number", ENDING)
def test_each_signal_cancels_a_command(number: signal.Signals) -> None:
    with pytest.raises(Exit) as caught, errors():
        os.kill(os.getpid(), number)
    assert (caught.value.message, caught.value.code) == ("Cancelled.", 130)


@pytest.mark.usefixtures("handlers")
def test_under_nohup_a_hang_up_ends_nothing() -> None:
    seen: list[bool] = []
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with errors(), on_signals(lambda: seen.append(True)):
        os.kill(os.getpid(), signal.SIGHUP)
    assert seen == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("service", "shown"), [("true", True), ("", False)])
def test_github_shows_an_error_of_the_whole_run_on_its_page(
    service: str, *, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", service)
    with pytest.raises(Exit) as caught, errors():
        raise UsageError("no such thing", remedy="name another")
    first, *_, last = (caught.value.message or "").splitlines()
    assert first == "Error: no such thing"
    assert last.startswith("::error title=serving-factory::no such thing") is shown


@pytest.mark.parametrize(
    ("number", "code", "remedy"),
    [
        (errno.EACCES, 1, "ls -ld"),
        (errno.EPERM, 1, "ls -ld"),
        (errno.EROFS, 1, "mount it writable"),
        (errno.ENAMETOOLONG, 1, "shorter"),
        (errno.ENOENT, 1, "create"),
        (errno.ENOTDIR, 1, "correct the path"),
        (errno.EISDIR, 1, "name another file"),
        (errno.ELOOP, 1, "symbolic links"),
        (errno.EMFILE, 1, "ulimit -n"),
        (errno.ENFILE, 1, "ulimit -n"),
        (errno.EBUSY, 1, "end the program"),
        (errno.EIO, 1, "dmesg"),
        (errno.EEXIST, 1, "move"),
        (errno.ENOSPC, 12, "free some space"),
        (errno.EDQUOT, 12, "free some space"),
        (errno.EPROTO, 1, "run the same command again"),
    ],
)
def test_the_remedy_of_a_system_error_is_that_of_its_errno(number: int, code: int, remedy: str) -> None:
    error = os_error(OSError(number, os.strerror(number), "/a/file"))
    assert error.exit_code == code
    assert remedy in error.remedy
    assert os.strerror(number) in error.why
    assert "/a/file" in str(error)


def test_a_system_error_without_a_file_or_an_errno_is_described() -> None:
    assert os_error(OSError(errno.EMFILE, "Too many open files")).what == "A file cannot be used"
    assert "current folder" in os_error(FileNotFoundError(errno.ENOENT, "No such file or directory")).what
    assert "cd" in os_error(FileNotFoundError(errno.ENOENT, "No such file or directory")).remedy
    assert os_error(TimeoutError("timed out")).what == "timed out"
    assert os_error(TimeoutError()).what == "TimeoutError"
    assert os_error(OSError(errno.EACCES, "no", b"/caf\xe9")).what == "/caf\udce9 cannot be used"
