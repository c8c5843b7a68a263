"""Random command lines over whole and damaged files: each ends with a documented exit code and printable text.

Commands and options are read from the program, so that a new one is tried without a line here. What takes long is cut
off where it begins (`cheap`), after all arguments and files have been handled.
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
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np
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
from support.campaign import campaign, cases
from support.faults import archive_faults, faults
from support.networks import random_network
from support.records import make_record
from support.search_journals import evolution, write_journal

_CASE_SECONDS = 60
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
# Words that get past the first check, by the name of the parameter; any other takes a word of those above.
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
    stdout: str
    damage: list[tuple[str, int]]


def commands(program: Any) -> dict[tuple[str, ...], Any]:
    """Return the commands of the program by the words that name them."""
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
    """Draw a line that is right, or has up to two words that are not; half of the lines find a damaged file."""
    words = draw(st.sampled_from(sorted(known)))
    args, places = [*words], []

    def add(param: Any) -> None:
        kind = getattr(getattr(param, "type_descriptor", None), "annotation", str)
        choices = get_args(kind) if get_origin(kind) is Literal else ("0", "1", "2") if kind in (int, float) else _NAMES
        places.append(len(args))
        args.append(draw(st.sampled_from(_LIKELY.get(param.name) or [str(value) for value in choices])))

    arguments = [param for param in known[words].params if param.param_type_name == "argument"]
    options = [param for param in known[words].params if param.param_type_name == "option"]
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
    return Line(args, stdout, damage)


class _FullDisk(io.StringIO):
    def write(self, text: str, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class _Hangs(BaseException):
    """A case took too long."""


def _stop(*_: object) -> None:
    raise _Hangs


def run(line: Line) -> tuple[int, str, str]:
    """Run a command line in this process; return its exit code, stdout and stderr."""
    out = None if line.stdout == "closed" else _FullDisk() if line.stdout == "full" else _stream(line.stdout)
    err = _stream("ascii" if line.stdout == "ascii" else "utf-8")
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


def _stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def _text(stream: Any) -> str:
    return stream.buffer.getvalue().decode(stream.encoding) if isinstance(stream, io.TextIOWrapper) else ""


def faults_of(line: Line, code: int, out: str, err: str) -> Iterator[str]:
    """Yield what is wrong with the outcome of a command line."""
    if code not in (0, 1, 2, 3, 4):
        yield f"exit code {code}"
    if "Traceback" in out + err and "--debug" not in line.args:
        yield "a traceback"
    raw = {char for char in out + err if not char.isprintable() and char not in "\n\t"}
    if raw:
        yield f"raw characters {raw}"
    ours = [text for text in err.splitlines() if text.startswith("irepdeploy: ")]
    if code in (1, 2, 3, 4) and not ours:
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
    kinds = {".onnx": "model.onnx", ".pt": "net.pt", ".png": "image.png", ".yaml": "recipe.yaml"}
    for name in _ODD_NAMES:
        shutil.copy(folder / kinds[Path(name).suffix], folder / name)
    return folder


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
    # A simplifier that fails: the export goes on without it.
    monkeypatch.setattr("irepdeploy.export.simplify.WORKER", ("false",))
    monkeypatch.setattr("irepdeploy.bench.latency.measure", measured)
    suites = [SimpleNamespace(name=point.name, load=lambda: cut) for point in entry_points(group="irepdeploy.suites")]
    monkeypatch.setattr("irepdeploy.bench.run_suite.entry_points", lambda group: suites)
    monkeypatch.setattr("irepdeploy.doctor.examine", lambda: [Check("x", "\x1b[31m", "ok")])
    monkeypatch.setattr("irepdeploy.jetson.ssh.Remote._connect", unreachable)
    return ready


@contextlib.contextmanager
def little_memory() -> Iterator[None]:
    """Let this process have some GiB more, so that sizes of terabytes fail at once."""
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

        @settings(max_examples=cases(60, 5_000), deadline=None, phases=[Phase.generate])
        @given(lines(known))
        def one(line: Line) -> None:
            folder = tmp_path / "here"
            shutil.copytree(pool, folder, symlinks=True)
            try:
                for name, seed in line.damage:
                    _damage(folder / name, seed)
                with contextlib.chdir(folder):
                    code, out, err = run(line)
                    found = list(faults_of(line, code, out, err))
            finally:
                shutil.rmtree(folder)
            kind = next(" ".join(words) for words in _prefixes(line.args) if words in known or not words)
            if found:
                counts.fail(kind, f"{line!a}: {', '.join(found)}: {err[-400:]}")
            else:
                counts.hold(kind)

        one()


def _prefixes(args: list[str]) -> Iterator[tuple[str, ...]]:
    return (tuple(args[:count]) for count in (2, 1, 0))


def _damage(path: Path, seed: int) -> None:
    if path.is_file() and path.stat().st_size:
        kinds = archive_faults if path.suffix in (".pt", ".npz") and random.Random(seed).random() < 0.5 else faults
        path.write_bytes(kinds(path.read_bytes(), seed)[1])
