"""Every failure of a command gives one line and the documented exit code."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import typer

from irepdeploy import __version__, errors
from irepdeploy.cli import application
from irepdeploy.cli import program as cli
from irepdeploy.cli.group import CommandGroup

Register = Callable[..., None]
Output = pytest.CaptureFixture[str]

HEAVY = ("torch", "numpy", "onnx", "onnxruntime", "onnxsim", "matplotlib", "sklearn", "pydantic")


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Register:
    """`register(name=function, ...)`: set all commands; a string is the value of an entry point."""
    monkeypatch.chdir(tmp_path)

    def only(**commands: Any) -> None:
        module = types.ModuleType("fake_commands")
        points = []
        for name, value in commands.items():
            if not isinstance(value, str):
                setattr(module, name, value)
                value = f"fake_commands:{name}"
            points.append(EntryPoint(name, value, "irepdeploy.commands"))
        monkeypatch.setitem(sys.modules, "fake_commands", module)
        monkeypatch.setattr(application, "entry_points", lambda group: [p for p in points if p.group == group])

    return only


def raising(error: BaseException) -> Callable[[], None]:
    def command() -> None:
        """Fail."""
        raise error

    return command


def the_line(capsys: Output) -> str:
    """The one line on stderr; nothing is on stdout."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.CheckFailed("outputs differ"), 1),
        (errors.InputError("not a number"), 2),
        (errors.RecipeError("unknown key"), 2),
        (errors.NotFusable("train mode"), 2),
        (errors.MissingError("no TensorRT"), 3),
        (errors.RunError("loss is NaN"), 4),
    ],
)
def test_our_errors(register: Register, capsys: Output, error: errors.IrepdeployError, code: int) -> None:
    error.where, error.hint = "layer3", "do this"
    register(fail=raising(error))
    assert cli.main(["fail"]) == code
    assert the_line(capsys) == f"irepdeploy: error: layer3: {error.what} (do this)"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("not enough memory: you tried to allocate 9 bytes"),
        OSError(errno.ENOSPC, "No space left on device", "file.bin"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    ],
)
def test_a_run_that_failed_is_4(register: Register, capsys: Output, error: Exception) -> None:
    register(fail=raising(error))
    assert cli.main(["fail"]) == 4
    assert the_line(capsys).startswith("irepdeploy: error: ")


def test_torch_out_of_memory_is_4(register: Register, capsys: Output) -> None:
    import torch

    register(fail=raising(torch.OutOfMemoryError("the device is full")))
    assert cli.main(["fail"]) == 4
    assert "out of memory" in the_line(capsys)


def test_ctrl_c_is_130(register: Register, capsys: Output) -> None:
    register(fail=raising(KeyboardInterrupt()), refuse=raising(typer.Abort()))
    assert cli.main(["fail"]) == 130
    assert the_line(capsys) == "irepdeploy: interrupted"
    assert cli.main(["refuse"]) == 130


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours\nto mend"),
        RuntimeError("something else"),
        AttributeError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "ours"),
        ImportError("cannot import name 'a' from 'irepdeploy.b'", name="irepdeploy.b"),
        SystemExit(1),
        SystemExit("text"),
        EOFError(),
        GeneratorExit(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_bug_is_70_with_a_report(register: Register, capsys: Output, tmp_path: Path, error: BaseException) -> None:
    register(fail=raising(error))
    assert cli.main(["fail"]) == 70
    line = the_line(capsys)
    assert line.startswith(f"irepdeploy: bug: {type(error).__name__}: ")
    (report,) = tmp_path.iterdir()
    assert str(report) in line
    text = report.read_text()
    assert "['irepdeploy', 'fail']" in text
    assert f"irepdeploy: {__version__}" in text and "torch: " in text
    assert "Traceback" in text and "in command" in text


def test_a_report_that_cannot_be_written_here_goes_to_the_temporary_folder(
    register: Register, capsys: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(fail=raising(ValueError("x")))
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    monkeypatch.setattr(cli.tempfile, "gettempdir", lambda: str(tmp_path))
    assert cli.main(["fail"]) == 70
    (report,) = tmp_path.iterdir()
    assert str(report) in the_line(capsys)


def test_a_command_gets_its_arguments_and_returns_0(register: Register, capsys: Output) -> None:
    def show(name: str, count: int = 1) -> int:
        """Show."""
        print(name * count)
        return 1  # the return value of a command is not an exit code

    register(show=show)
    assert cli.main(["show", "ab", "--count", "2"]) == 0
    assert capsys.readouterr().out == "abab\n"


def test_a_group_of_commands(register: Register, capsys: Output) -> None:
    group = typer.Typer()
    group.command("one")(lambda: print("one"))
    group.command("two")(raising(errors.RunError("two failed")))
    register(group=group)
    assert cli.main(["group", "one"]) == 0
    assert capsys.readouterr().out == "one\n"
    assert cli.main(["group", "two"]) == 4


@pytest.mark.parametrize("args", [["--debug", "fail"], ["fail", "--debug"]])
def test_debug_shows_the_traceback_wherever_it_stands(register: Register, capsys: Output, args: list[str]) -> None:
    register(fail=raising(errors.RunError("stopped")))
    assert cli.main(args) == 4
    error_output = capsys.readouterr().err
    assert "Traceback" in error_output
    assert error_output.endswith("irepdeploy: error: stopped\n")


def test_debug_after_two_dashes_belongs_to_the_command(register: Register, capsys: Output) -> None:
    register(show=lambda name: print(name))
    assert cli.main(["show", "--", "--debug"]) == 0
    assert capsys.readouterr().out == "--debug\n"


@pytest.mark.parametrize("args", [["show", "--nonsense"], ["show", "--count", "many"], ["show", "a", "b"], ["--nope"]])
def test_wrong_usage_is_2_with_usage_and_one_line(register: Register, capsys: Output, args: list[str]) -> None:
    def show(count: int = 1) -> None:
        """Show."""

    register(show=show)
    assert cli.main(args) == 2
    usage, line = capsys.readouterr().err.splitlines()
    assert usage.startswith("Usage: irepdeploy ")
    assert line.startswith("irepdeploy: error: ")


def test_an_unknown_command_is_2_with_near_names(register: Register, capsys: Output) -> None:
    register(search=lambda: None, export=lambda: None)
    assert cli.main(["serch"]) == 2
    assert "Did you mean 'search'?" in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["--help"]])
def test_help_lists_the_commands(register: Register, capsys: Output, args: list[str]) -> None:
    def show() -> None:
        """Show what there is."""

    register(show=show)
    assert cli.main(args) == 0
    assert "Show what there is." in capsys.readouterr().out


@pytest.mark.parametrize("place", [["--help"], ["zoo", "--help"]])
def test_the_list_of_commands_is_never_cut(
    register: Register, capsys: Output, monkeypatch: pytest.MonkeyPatch, place: list[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    sentence = f"Show {'one thing after another and ' * 5}the last"

    def show() -> None:
        """Replaced below."""

    show.__doc__ = f"{sentence}.\n\nDetails."
    zoo = typer.Typer(cls=CommandGroup)
    zoo.command("show")(show)
    zoo.command("other")(lambda: None)
    register(show=show, zoo=zoo)
    assert cli.main(place) == 0
    shown = capsys.readouterr().out
    assert sentence in " ".join(shown.split()) and "Details" not in shown


@pytest.mark.parametrize("between", [" ", "\n\n"])
def test_examples_can_be_pasted_from_the_help(
    register: Register, capsys: Output, monkeypatch: pytest.MonkeyPatch, between: str
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    line = "irepdeploy show" + " another-word" * 6

    def show() -> None:
        """Replaced below."""

    show.__doc__ = f"Show.\n\nFor example: this.{between}Examples: {line};\n{line.replace('-', ' -')}"
    register(show=show)
    assert cli.main(["show", "--help"]) == 0
    shown = capsys.readouterr().out.splitlines()
    start = shown.index("  Examples:")
    assert shown[start + 1 : start + 3] == [f"    {line}", f"    {line.replace('-', ' -')}"]
    assert "  For example: this." in shown[:start]


def test_the_help_has_one_order_for_groups_and_commands(register: Register, capsys: Output) -> None:
    group = typer.Typer(help="A group.")
    group.command("one")(lambda: None)
    register(zoo=raising(KeyError()), train=group, bench=raising(KeyError()))
    assert cli.main(["--help"]) == 0
    commands = capsys.readouterr().out.partition("Commands:")[2].split()
    assert [word for word in commands if word in ("zoo", "train", "bench")] == ["train", "bench", "zoo"]


def test_version(register: Register, capsys: Output) -> None:
    register()
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"irepdeploy {__version__}\n"


@pytest.fixture
def lacking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """`lacking(code)`: an entry point to a module with this code, which fails to load."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(code: str) -> str:
        (tmp_path / "lacking_command.py").write_text(code)
        return "lacking_command:run"

    yield write
    sys.modules.pop("lacking_command", None)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import tensorrt_not_here",
            "the Python module 'tensorrt_not_here' is not installed (install irepdeploy again)",
        ),
        (
            "raise ModuleNotFoundError('x', name='matplotlib.pyplot')",
            "the Python module 'matplotlib.pyplot' is not installed (pip install 'irepdeploy[report]')",
        ),
        ("from os import no_such_name", "(install irepdeploy again)"),
        ("import irepdeploy.no_such_stage", "(install irepdeploy again)"),
    ],
)
def test_a_command_that_cannot_be_imported_says_why(
    register: Register, lacking: Callable[[str], str], capsys: Output, code: str, reason: str
) -> None:
    register(broken=lacking(code), works=lambda: print("works"))
    assert cli.main(["--help"]) == 0
    assert reason in " ".join(capsys.readouterr().out.split()).replace("force- reinstall", "force-reinstall")
    assert cli.main(["broken", "--any", "option", "file"]) == 3
    line = the_line(capsys)
    assert line.startswith("irepdeploy: error: lacking_command:run: ") and line.endswith(reason)
    assert cli.main(["works"]) == 0


@pytest.mark.parametrize("code", ["raise ValueError('ours')", "run := 1", ""])
def test_a_command_with_a_bug_leaves_the_others_working(
    register: Register, lacking: Callable[[str], str], capsys: Output, code: str
) -> None:
    register(broken=lacking(code), works=lambda: print("works"))
    assert cli.main(["works"]) == 0
    assert capsys.readouterr().out == "works\n"
    assert cli.main(["broken"]) == 70


def test_a_module_that_is_missing_when_a_command_runs_is_3(register: Register, capsys: Output) -> None:
    register(fail=raising(ModuleNotFoundError("No module named 'tensorrt'", name="tensorrt")))
    assert cli.main(["fail"]) == 3
    assert the_line(capsys).endswith("(pip install 'irepdeploy[trt]')")


def test_two_packages_with_one_command_are_named(register: Register, capsys: Output) -> None:
    register(show=lambda: print("first"))
    (first,) = application.entry_points(group="irepdeploy.commands")
    second = EntryPoint("show", "other:show", "irepdeploy.commands")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(application, "entry_points", lambda group: [first, second])
        assert cli.main(["show"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "first\n"
    assert "other:show is ignored" in captured.err


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from irepdeploy.cli import main; code = main(['--help'])\n"
        f"print(code, [name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == "0 []\n"
    assert "NOT AVAILABLE" not in done.stdout


def test_a_reader_that_leaves_ends_it_quietly(tmp_path: Path) -> None:
    code = (
        "import sys, types, irepdeploy.cli.application as a; from irepdeploy.cli import main\n"
        "from importlib.metadata import EntryPoint\n"
        "sys.modules['m'] = m = types.ModuleType('m'); m.f = lambda: print('x' * 1_000_000)\n"
        "a.entry_points = lambda group: [EntryPoint('f', 'm:f', group)]\n"
        "sys.exit(main(['f']))"
    )
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_full_disk_behind_stdout_is_4(tmp_path: Path) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "irepdeploy", "--help"],
            cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
    assert done.returncode == 4, done.stderr
    assert done.stderr.splitlines()[0].startswith("irepdeploy: error: cannot write to stdout: no space left on device")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("redirections", "code"),
    [
        (">&-", 4),
        (">&- 2>&-", 4),
        ("<&- >&- 2>&-", 4),
        ("2>&-", 0),
        ("<&-", 0),
        ("1</dev/null", 4),
        (">/dev/full 2>/dev/full", 4),
    ],
)
def test_closed_files_are_no_bug(tmp_path: Path, redirections: str, code: int) -> None:
    program = f"{shlex.quote(sys.executable)} -m irepdeploy --help"
    done = subprocess.run(["sh", "-c", f"{program} {redirections}"], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == code
    assert not list(tmp_path.iterdir())


def test_no_file_of_ours_gets_the_number_of_a_closed_one(tmp_path: Path) -> None:
    code = "import os, irepdeploy.cli as c; c.main(['--version']); os._exit(os.open('x', os.O_CREAT | os.O_RDWR))"
    line = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} <&- >&- 2>&-"
    assert subprocess.run(["sh", "-c", line], cwd=tmp_path, check=False).returncode > 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 9999), 2),
        (OSError(errno.ELOOP, "Too many levels of symbolic links", "loop"), 2),
        (PermissionError(errno.EACCES, "Permission denied", "x\x1b[31m"), 2),
        (OSError(errno.EIO, "Input/output error", "x"), 4),
        (OSError(errno.EMFILE, "Too many open files"), 4),
    ],
)
def test_files_that_cannot_be_used_are_no_bug(register: Register, capsys: Output, error: OSError, code: int) -> None:
    register(fail=raising(error))
    assert cli.main(["fail"]) == code
    line = the_line(capsys)
    assert line.isprintable() and len(line) <= 400 and os.strerror(error.errno or 0).lower() in line


def test_a_deleted_folder_is_no_bug(register: Register, capsys: Output, tmp_path: Path) -> None:
    def command() -> None:
        """Ask where we are."""
        os.getcwd()

    register(fail=command)
    gone = tmp_path / "gone"
    gone.mkdir()
    with contextlib.chdir(gone):
        gone.rmdir()
        assert cli.main(["fail"]) == 4
        assert "the current folder was deleted" in the_line(capsys)
        os.chdir(tmp_path)  # `chdir` returns to it


def test_escapes_in_all_that_is_printed(register: Register, capsys: Output, tmp_path: Path) -> None:
    def command() -> None:
        """Print what is in a file, then fail."""
        print("out \x1b[31m")
        print("err \u202e", file=sys.stderr)
        raise ValueError("bug \x1b]0;title\x07")

    register(fail=command)
    assert cli.main(["fail", "--debug"]) == 70
    captured = capsys.readouterr()
    (report,) = tmp_path.iterdir()
    for text in (captured.out, captured.err, report.read_text()):
        assert text and text.replace("\n", "").isprintable()


def test_debug_shows_the_whole_of_a_long_error(register: Register, capsys: Output) -> None:
    register(fail=raising(errors.InputError("x" * 5000)))
    assert cli.main(["fail"]) == 2
    line = the_line(capsys)
    assert len(line) == 400 and line.endswith("... (--debug shows all)")
    assert cli.main(["fail", "--debug"]) == 2
    assert "x" * 5000 in capsys.readouterr().err.splitlines()[-1]
