"""Random and systematic command lines: each must end with a documented exit code and printable text.

Commands and options are read from the program, so that new ones are covered automatically. Long operations are cut off
where they begin (`cheap`), after all arguments and files have been handled.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
import onnx
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.main import get_command

import irepdeploy as ird
from irepdeploy.board.protocol import Measurement
from irepdeploy.cli import application, main
from irepdeploy.doctor import Check
from irepdeploy.errors import LONGEST_LINE, MissingError, RunError
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.record import append
from irepdeploy.search.execution.shipped import recipe_path
from support.campaign import Campaign, campaign, cases
from support.faults import archive_faults, faults
from support.networks import random_network
from support.records import make_record
from support.search_journals import evolution, write_journal

_CASE_SECONDS = 600
_MORE_MEMORY = 3 << 30

# File names in Latin-1, with terminal codes, spaces and quotes, or a leading dash.
_ODD_NAMES = ("\udce9t\udce9.onnx", "red\x1b[31m.pt", "my 'net'.onnx", "-net.pt", "\u202egnp.png", "l\u2028ine.yaml")
_FILES = (
    *("net.pt", "fused.pt", "model.onnx", "certificate.json", "records.jsonl", "recipe.yaml", "arch.json", "x.npy"),
    *(
        "x.npz",
        "image.png",
        "hosts.txt",
        "run",
        "run/journal.jsonl",
        "images",
        "empty",
        ".",
        "a=net.pt",
        "b=model.onnx",
    ),
    *_ODD_NAMES,
)
_NAMES = (
    *("vgg6", "digits", "irep-resnet18", "ireps", "plain,ireps", "des,random", "none", "cpu", "ort", "torch,ort-cpu"),
    *("fp32,fp16,int8", "1:8:32", "1x1x8x8", "NAME=1x1x8x8", "nhwc,rgb", "0.5,0.5,0.5", "8GB", "5%", "offline", "1,8"),
    *("table1", "table5", "fused-vs-branches", "smoke", "refuse", "map", "trt", "user@host", "max", "as-is", "a=95.1"),
    *(
        "seed=1",
        "scale=smoke",
        "train.epochs=1",
        "branches=none",
        "net.args.stages=[[4], [6]]",
        "support.networks:ConvBn",
    ),
)
_NUMBERS = (
    *(
        "0",
        "1",
        "2",
        "8",
        "-1",
        "3.5",
        "1e400",
        "nan",
        "inf",
        "-inf",
        "0x10",
        "1_000",
        "\uff11",
        str(10**30),
        "9" * 400,
    ),
    *(str(2**31), str(2**32), str(2**63), str(2**64), "1e-320"),
)
# Words that pass the first check, by parameter name; other parameters take one of the words above.
_LIKELY = {
    "source": ("net.pt", "fused.pt", "model.onnx", "vgg6", *_ODD_NAMES[:4]),
    "sources": ("net.pt", "arch.json", "run", "irep-resnet18", "a=vgg6"),
    "target": ("ort", "trt", "xavier-jp5", "orin-jp6", "rtx"),
    "precision": ("fp32", "fp16", "fp32,fp16", "int8"),
    "max_drop": ("0.5", "100"),
    "dynamic_batch": ("1:8:32",),
    "output_names": ("y", "a,b"),
    "bake_preprocess": ("nhwc,rgb", "nchw,bgr"),
    "mean": ("0.5", "0.5,0.5,0.5"),
    "std": ("0.5", "0.5,0.5,0.5"),
    "workspace": ("1GiB",),
    "memory": ("8GB",),
    "timing_cache": ("empty",),
    "border": ("refuse", "map"),
    "timeout": ("60",),
    "tolerance": ("float32", "float16"),
    "suite": ("table1", "table2", "fused-vs-branches"),
    "scale": ("smoke",),
    "device": ("cpu",),
    "only": ("vgg16",),
    "runner": ("torch", "ort-cpu", "torch,ort-cpu", "trt"),
    "scenario": ("single-stream", "offline"),
    "batches": ("1,2",),
    "shape": ("input=1x1x8x8",),
    "transfers": ("excluded", "included"),
    "max_slower": ("5%",),
    "title": ("red\x1b[31m", "my title"),
    "presets": ("plain,ireps", "repvgg"),
    "strategies": ("des,random",),
    "seeds": ("1", "2"),
    "folder": ("run",),
    "insert": ("ireps",),
    "ssh_config": ("empty",),
    "mode": ("MAXN",),
    "clocks": ("max", "as-is"),
    "via": ("trtexec",),
    "layers": ("*",),
    "columns": ("4",),
    "top1": ("net=95.1", "red \x1b[31m=90"),
    "net": ("vgg6", "support.networks:small_resnet"),
    "data": ("digits", "images"),
    "network": ("net.pt", "fused.pt", "vgg6"),
    "networks": ("net.pt", "a=fused.pt", "b=vgg6"),
    "a": ("net.pt", "model.onnx", _ODD_NAMES[0], _ODD_NAMES[2]),
    "b": ("fused.pt", "model.onnx", _ODD_NAMES[0], _ODD_NAMES[2]),
    "models": ("a=net.pt", "b=model.onnx", "fused.pt", "vgg6"),
    "recipe": ("digits", "recipe.yaml"),
    "overrides": ("seed=1", "scale=smoke", "train.epochs=1", "branches=none", "net.args.stages=[[4], [6]]"),
    "folders": (".", "run", "records.jsonl", "certificate.json"),
    "records": ("records.jsonl", "."),
    "against": ("records.jsonl", "run"),
    "boards": ("user@host",),
    "words": ("user@host", "model.onnx", "a=model.onnx"),
    "out": ("new", "new.png", "new.html", "run", "my 'folder'"),
    "arch": ("arch.json",),
    "inputs": ("x.npy", "x.npz", "images"),
    "images": ("image.png", "images"),
    "certificate": ("certificate.json",),
    "hosts": ("hosts.txt",),
    "model": ("support.networks:small_resnet",),
    "input_shape": ("1x1x8x8",),
    "seed": ("0", "1"),
    "batch": ("1", "8"),
    "threads": ("1", "2"),
    "seconds": ("0", "0.1"),
}
# Further words that a line needs for an option, by parameter name, to be used.
_NEEDED = {
    "batch": ("--cost",),
    "presets": ("--cost",),
    "memory": ("--cost",),
    "max_drop": ("--precision", "int8"),
    "mean": ("--bake-preprocess", "nhwc,rgb"),
    "std": ("--bake-preprocess", "nhwc,rgb"),
    "batches": ("--scenario", "offline"),
    "max_slower": ("--against", "records.jsonl"),
    "scale": ("--suite", "table2"),
    "only": ("--suite", "table2"),
    "workspace": ("--target", "xavier-jp5"),
    "dla": ("--target", "xavier-jp5"),
    "dynamic_batch": ("--target", "xavier-jp5"),
}
# A page is served until Ctrl-C, or opened in the browser of whoever runs the tests.
_LEFT_OUT = ("watch", "show")
_HOSTILE = (
    *("", " ", "-", "--", "=", ",", ":", "..", "/", "/dev/null", "/dev/full", "/proc/self/mem", "loop", "~", "*"),
    *(
        "\x1b]0;title\x07",
        "\u202e",
        "\x85",
        "\ud800",
        "\udcff.onnx",
        "\udcff",
        "nul\0",
        "n" * 300,
        "d/" * 3000,
        "$(id)",
    ),
    *("key=\x1b[2J", "seed=1e999", "seed=" + "9" * 60, "net.args.stages=[[1000000000]]", "a.b.c=[", "data.name=\u202e"),
    *("net.name=\x1b[31m", "x=\udcff", "train.batch_size=9223372036854775808", "1x3x99999999x99999999", "os:getcwd"),
    *("0:0:0", "1x" * 200 + "1", "-1x3x8x8", "scales={}", "new/deep/folder", "file.txt/below", "\udcff=\udcff"),
)


class Line(NamedTuple):
    """A command line, the streams it has, and the faults of the files it finds."""

    args: list[str]
    stdout: str = "utf-8"
    damage: Sequence[tuple[str, int]] = ()
    stderr: str = "utf-8"


def commands(program: Any) -> dict[tuple[str, ...], Any]:
    """Return the commands of the program by their words."""
    found: dict[tuple[str, ...], Any] = {}

    def collect(words: tuple[str, ...], command: Any) -> None:
        if not hasattr(command, "commands"):
            found[words] = command
        for name, each in getattr(command, "commands", {}).items():
            collect(words if name == "(default)" else (*words, name), each)

    collect((), program)
    return found


@st.composite
def lines(draw: st.DrawFn, known: dict[tuple[str, ...], Any]) -> Line:
    """Draw a valid line, or one with up to two invalid words; half of the lines meet a damaged file."""
    words = draw(st.sampled_from(sorted(known)))
    args, places = [*words], []

    def add(param: Any) -> None:
        kind = getattr(getattr(param, "type_descriptor", None), "annotation", str)
        choices = get_args(kind) if get_origin(kind) is Literal else ("0", "1", "2") if kind in (int, float) else _NAMES
        places.append(len(args))
        args.append(draw(st.sampled_from(_LIKELY.get(param.name) or [str(value) for value in choices])))

    arguments = [param for param in known[words].params if param.param_type_name == "argument"]
    options = [param for param in known[words].params if param.param_type_name == "option"]
    options = [param for param in options if param.name not in _LEFT_OUT]
    for argument in arguments:
        for _ in range(draw(st.integers(int(argument.required), 2 if argument.nargs == -1 else 1))):
            add(argument)
    for option in draw(st.lists(st.sampled_from(options), max_size=3, unique_by=id)) if options else ():
        args.append(draw(st.sampled_from([*option.opts, *option.secondary_opts])))
        if not option.is_flag:
            add(option)
    for place in draw(st.lists(st.sampled_from([*places, len(args)]), max_size=2, unique=True)):
        args[place : place + 1] = [draw(st.one_of(*map(st.sampled_from, (_FILES, _NAMES, _NUMBERS, _HOSTILE))))]
    stdout = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "ascii", "latin-1", "full", "closed"]))
    given = [name for name in args if name in _FILES] or [*_FILES[:3]]
    damage = draw(st.lists(st.tuples(st.sampled_from(given), st.integers(0, 2**32)), max_size=1))
    return Line(args, stdout, damage, "ascii" if stdout == "ascii" else "utf-8")


class _FullDisk(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Hangs(BaseException):
    """A case took too long."""


def _stop(*_: object) -> None:
    raise _Hangs


def run(line: Line) -> tuple[int, str, str]:
    """Run a command line in this process; return its exit code, stdout and stderr."""
    out, err = _stream(line.stdout), _stream(line.stderr)
    streams = sys.stdout, sys.stderr
    before = signal.signal(signal.SIGALRM, _stop)
    signal.alarm(_CASE_SECONDS)
    try:
        sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            code = main(line.args)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        sys.stdout, sys.stderr = streams
    return code, _text(out), _text(err)


def _stream(kind: str) -> io.TextIOBase | None:
    if kind in ("closed", "full"):
        return _FullDisk() if kind == "full" else None
    return io.TextIOWrapper(io.BytesIO(), encoding=kind, write_through=True)


def _text(stream: Any) -> str:
    return stream.buffer.getvalue().decode(stream.encoding) if isinstance(stream, io.TextIOWrapper) else ""


def faults_of(line: Line, code: int, out: str, err: str) -> Iterator[str]:
    """Yield the faults in the outcome of a command line."""
    if code not in (0, 1, 2, 3, 4):
        yield f"exit code {code}"
    if "Traceback" in out + err and "--debug" not in line.args:
        yield "a traceback"
    raw = {char for char in out + err if not char.isprintable() and char not in "\n\t"}
    if raw:
        yield f"raw characters {raw}"
    ours = [text for text in err.splitlines() if text.startswith("irepdeploy: ")]
    if code in (1, 2, 3, 4) and not ours and line.stderr not in ("closed", "full"):
        yield "no reason for the exit code"
    if any(len(text) > LONGEST_LINE for text in ours) and "--debug" not in line.args:
        yield "an error of more than 400 characters"
    if re.search(r"\w::\w+\(|_src/|enforce fail|\.(cc|cpp|h):\d|argument types are supported", "\n".join(ours)):
        yield "C++ in an error"
    if list(Path.cwd().glob("irepdeploy-bug-*")):
        yield "a bug report"
    if code == 0 and "--json" in line.args and line.stdout not in ("full", "closed") and "--help" not in line.args:
        try:
            json.loads(out or "0")
        except ValueError:
            yield "broken JSON"


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small valid files of all kinds, some with odd names."""
    folder = tmp_path_factory.mktemp("pool")
    net = random_network("vgg6", "ireps", stages=[[4], [6]])
    ird.save(net, folder / "net.pt")
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        assert main(["export", "net.pt", "--out", "."]) == 0
    append(folder / "records.jsonl", make_record("red \x1b[31m"))
    shutil.copy(recipe_path("digits"), folder / "recipe.yaml")
    Architecture.from_branches({"stages.0.0.conv": ["conv1x3"]}, ("conv1x3",)).save(folder / "arch.json")
    images = np.random.default_rng(0).standard_normal((2, 1, 8, 8), dtype=np.float32)
    np.save(folder / "x.npy", images)
    np.savez(folder / "x.npz", input=images)
    Image.new("RGB", (8, 8), "red").save(folder / "image.png")
    (folder / "hosts.txt").write_text("user@host\n")
    start = {"event": "start", "recipe": {}, "layers": ["a"], "branches": ["conv1x3"], "positions": [[0, 0]]}
    write_journal(folder / "run", start, evolution(1, [0.5, 0.25], population=["1", "0"]))
    (folder / "images/class\x1b[7m").mkdir(parents=True)
    (folder / "images/class\x1b[7m/\udcff.png").symlink_to("../../image.png")
    (folder / "empty").touch()
    (folder / "loop").symlink_to("loop")
    (folder / "file.txt").write_text("text")
    _hostile_files(folder)
    kinds = {".onnx": "model.onnx", ".pt": "net.pt", ".png": "image.png", ".yaml": "recipe.yaml"}
    for name in _ODD_NAMES:
        shutil.copy(folder / kinds[Path(name).suffix], folder / name)
    return folder


def _hostile_files(folder: Path) -> None:
    """Write endless files, and files that claim to contain 10^30 bytes or as many as their format can express."""
    (folder / "pipe").touch()
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (%d, 1, 8, 8), }\n" % 10**30
    array = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (folder / "claim.npy").write_bytes(array)
    with zipfile.ZipFile(folder / "claim.npz", "w") as archive:
        archive.writestr("input.npy", array)
    model = onnx.load(folder / "model.onnx")
    model.graph.initializer[0].dims[0] = (1 << 63) - 1
    onnx.save(model, folder / "claim.onnx")
    content = (folder / "net.pt").read_bytes()
    entry = content.index(b"PK\x01\x02")
    (folder / "claim.pt").write_bytes(content[: entry + 20] + b"\xfe\xff\xff\xff" * 2 + content[entry + 28 :])
    content = (folder / "image.png").read_bytes()
    chunk = b"IHDR" + b"\x7f\xff\xff\xff" * 2 + content[24:29]
    (folder / "claim.png").write_bytes(content[:12] + chunk + zlib.crc32(chunk).to_bytes(4) + content[33:])
    for name in ("claim.json", "claim.jsonl", "claim.txt"):
        (folder / name).write_text(json.dumps({"version": 1, "size": 10**30, "batch": 10**30}) + "\n")
    (folder / "claim.yaml").write_text(f"seed: {10**30}\ntrain:\n  batch_size: {10**30}\n")
    for suffix in (".npy", ".onnx", ".pt", ".png", ".json", ".jsonl", ".yaml", ".txt"):
        (folder / f"huge{suffix}").touch()


@pytest.fixture
def cheap(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Replace training, measuring, the doctor's probes and connections to boards; return the program, built once."""
    ready = get_command(application.application())
    monkeypatch.setattr("typer.main.get_command", lambda app: ready)
    monkeypatch.setattr(application, "application", lambda: None)

    def cut(*_: object, **__: object) -> Any:
        raise RunError("cut short by the test")

    def unreachable(*_: object) -> None:
        raise MissingError("not reachable: \x1b[31mno boards here", where="ssh")

    def measured(calls: Any, **_: Any) -> dict[str, Measurement]:
        for call in calls.values():
            call()
        return {key: Measurement(key, [1_000] * 64, warmup_runs=1, steady=True, warmup_cov=0.0) for key in calls}

    for name in ("search.engine.Search.run", "search.training.training.Training.run", "cli.demo.invoke"):
        monkeypatch.setattr(f"irepdeploy.{name}", cut)
    for name in ("_memories", "_times"):
        monkeypatch.setattr(f"irepdeploy.profiling.branch_cost.{name}", cut)
    # A failing simplifier: the export continues without it.
    monkeypatch.setattr("irepdeploy.export.simplify.WORKER", ("false",))
    monkeypatch.setattr("irepdeploy.bench.latency.measure", measured)
    suites = [SimpleNamespace(name=point.name, load=lambda: cut) for point in entry_points(group="irepdeploy.suites")]
    monkeypatch.setattr("irepdeploy.bench.run_suite.entry_points", lambda group: suites)
    monkeypatch.setattr("irepdeploy.doctor.examine", lambda: [Check("x", "\x1b[31m", "ok")])
    monkeypatch.setattr("irepdeploy.jetson.ssh.Remote._connect", unreachable)
    return ready


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Limit this process to a few more GiB, so that sizes of terabytes fail at once."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + _MORE_MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_command_lines(pool: Path, cheap: Any, tmp_path: Path) -> None:
    known = commands(cheap)
    assert {("bench",), ("search",), ("search", "compare"), ("jetson", "check"), ("export",)} <= set(known)
    with campaign("command lines") as counts, little_memory():

        @settings(max_examples=cases(20, 5_000), deadline=None, phases=[Phase.generate])
        @given(lines(known))
        def one(line: Line) -> None:
            kind = next(" ".join(words) for words in _prefixes(line.args) if words in known or not words)
            _count(counts, kind, line, _outcome(line, pool, tmp_path))

        one()


def plain_line(words: tuple[str, ...], command: Any) -> list[str]:
    """Return the shortest command line that does something."""
    args = [*words]
    for param in command.params:
        if param.param_type_name == "argument" and (param.required or param.nargs == -1):
            args += [_LIKELY[param.name][0]]
        elif param.required:
            args += [param.opts[0], _LIKELY[param.name][0]]
    return args


def option_lines(known: dict[tuple[str, ...], Any], values: Sequence[str]) -> Iterator[tuple[str, Line]]:
    """Yield a line for every option of every command and each of these values."""
    for words, command in known.items():
        flags = {flag for param in command.params for flag in param.opts}
        for option in command.params:
            if option.param_type_name != "option" or option.is_flag:
                continue
            needed = [word for word in _NEEDED.get(option.name, ()) if _NEEDED[option.name][0] in flags]
            for value in values:
                args = [*plain_line(words, command), *needed, option.opts[0], value]
                yield f"{' '.join(words)} {option.opts[0]}", Line(args)


def path_lines(known: dict[tuple[str, ...], Any]) -> Iterator[tuple[str, Line]]:
    """Yield a line for every word of every command that may be a path, with each kind of path."""
    for words, command in known.items():
        plain = plain_line(words, command)
        for param in command.params:
            kind = param.type_descriptor.annotation
            if not {kind, *get_args(kind)} & {str, Path}:
                continue
            likely = _LIKELY.get(param.name, ("x.npy",))[0]
            suffix = Path(likely).suffix or ".pt"
            for path in ("pipe", "/dev/zero", ".", "empty", f"\udcff{suffix}", f"huge{suffix}", f"claim{suffix}"):
                if param.param_type_name == "option":
                    args = [*plain, *_NEEDED.get(param.name, ()), param.opts[0], path]
                elif likely in plain:
                    args = [path if word == likely else word for word in plain]
                else:
                    args = [*plain, path]
                yield f"{' '.join(words)} {param.name}", Line(args)


def test_every_option_with_absurd_values(pool: Path, cheap: Any, tmp_path: Path) -> None:
    values = ("0", "-1", "nan", "inf", str(2**31), str(2**63), str(10**30), "", "abc")
    every = list(option_lines(commands(cheap), values))
    assert len(every) > 900
    with campaign("options with absurd values") as counts, little_memory():
        for kind, line in _sample(every, 30):
            _count(counts, kind, line, _outcome(line, pool, tmp_path))


def test_every_path_that_is_no_ordinary_file(pool: Path, cheap: Any, tmp_path: Path) -> None:
    every = list(path_lines(commands(cheap)))
    assert len(every) > 500
    with campaign("paths of every kind") as counts, little_memory():
        for kind, line in _sample(every, 30):
            _count(counts, kind, line, _outcome(line, pool, tmp_path))


def test_every_output_that_is_no_ordinary_file(pool: Path, cheap: Any, tmp_path: Path) -> None:
    every = []
    for words, command in commands(cheap).items():
        plain = plain_line(words, command)
        every += [plain, [*plain, "\udce9.pt"], [*plain, "--help"]]
        every += [[*plain, "--json"]] * any("--json" in param.opts for param in command.params)
    with campaign("outputs of every kind") as counts, little_memory():
        for args in _sample(every, 4):
            usual = _outcome(Line(args), pool, tmp_path)
            for stream in ("stdout", "stderr"):
                for kind in ("closed", "full", "ascii", "latin-1"):
                    line = Line(args)._replace(**{stream: kind})
                    found = _outcome(line, pool, tmp_path)
                    fails = kind == "full" or (kind, stream) == ("closed", "stdout")
                    printed = usual.out if stream == "stdout" else usual.err
                    # If the output fails, so does everything that would fail later.
                    expected = {4} | {usual.code} - {0} if fails and printed else {usual.code}
                    if found.code not in expected:
                        found.faults.append(f"exit code {found.code}, not {usual.code}")
                    _count(counts, f"{kind} {stream}", line, found)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (["bench", "net.pt", "--scenario", "offline", "--batches", str(2**63)], 4),
        (["bench", "vgg6", "--runner", "ort-cpu", "--scenario", "offline", "--batches", str(10**30)], 4),
        (["bench", "net.pt", "--seconds", "inf"], 2),
        (["bench", "model.onnx", "--timeout", str(10**30)], 2),
        (["bench", "model.onnx", "--timeout", "nan"], 2),
        (["verify", "model.onnx", "--certificate", "certificate.json", "--timeout", "nan"], 2),
        (["search", "compare", "digits", "--seeds", str(2**32), "--out", "new"], 2),
        (["inspect", "vgg6", "--cost", "--batch", str(10**30)], 2),
        (["bench", "\udcff.onnx"], 2),
        (["verify", "\udcff.onnx", "model.onnx"], 2),
        (["inspect", "\udcff.onnx"], 0),
        (["export", "\udcff.onnx", "--out", "new"], 0),
        (["export", "net.pt", "--output-names", "\udcff", "--out", "new"], 2),
        (["export", "vgg6", "--input-shape", "1x1x99999999x9999", "--out", "new"], 4),
    ],
)
def test_lines_of_extremes(pool: Path, cheap: Any, tmp_path: Path, line: list[str], code: int) -> None:
    (tmp_path / "pool").mkdir()
    for name in ("net.pt", "model.onnx", "certificate.json"):
        shutil.copy(pool / name, tmp_path / "pool" / name)
    shutil.copy(pool / "model.onnx", tmp_path / "pool" / "\udcff.onnx")
    found = _outcome(Line(line), tmp_path / "pool", tmp_path)
    assert (found.code, found.faults) == (code, []), found.err


class _Outcome(NamedTuple):
    code: int
    out: str
    err: str
    faults: list[str]


def _outcome(line: Line, pool: Path, tmp_path: Path) -> _Outcome:
    """Run a line in a copy of the pool."""
    folder = tmp_path / "here"
    folder.mkdir()
    try:
        for each in pool.iterdir():
            if each.is_dir() and not each.is_symlink():
                shutil.copytree(each, folder / each.name, symlinks=True)
            elif each.name == "pipe":
                os.mkfifo(folder / "pipe")
            elif each.name.startswith("huge."):
                with open(folder / each.name, "wb") as file:
                    file.truncate(1 << 40)
            else:
                shutil.copy(each, folder / each.name, follow_symlinks=False)
        for name, seed in line.damage:
            _damage(folder / name, seed)
        with contextlib.chdir(folder):
            code, out, err = run(line)
            return _Outcome(code, out, err, list(faults_of(line, code, out, err)))
    finally:
        shutil.rmtree(folder)


def _count(counts: Campaign, kind: str, line: Line, found: _Outcome) -> None:
    if found.faults:
        counts.fail(kind, f"{line!a}: {', '.join(found.faults)}: {found.err[-400:]}")
    else:
        counts.hold(kind)


def _sample(every: list[Any], day: int) -> list[Any]:
    return random.Random(0).sample(every, cases(min(day, len(every)), len(every)))


def _prefixes(args: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(args[:count]) for count in (2, 1, 0))


def _damage(path: Path, seed: int) -> None:
    if path.is_file() and path.stat().st_size:
        kinds = archive_faults if path.suffix in (".pt", ".npz") and random.Random(seed).random() < 0.5 else faults
        path.write_bytes(kinds(path.read_bytes(), seed)[1])
