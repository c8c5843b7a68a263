from __future__ import annotations

import gc
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import irepdeploy as ird
from irepdeploy.bench import latency
from irepdeploy.bench.request import BenchRequest
from irepdeploy.bench.subject import MODULE, NETWORK, RUNNERS, Subject, find_subjects
from irepdeploy.bench.table import BATCH_COLUMNS, COLUMNS, _digits, batch_cells, cells, optimum, rows
from irepdeploy.board.protocol import PROTOCOL_VERSION
from irepdeploy.cli import main
from irepdeploy.errors import InputError, OutputError
from irepdeploy.files import sha256
from irepdeploy.runs.record import Record, read
from irepdeploy.verify.input_spec import input_spec
from support.scale_model import scale_model


def bench_models(
    models: Sequence[Any], runners: Sequence[str] = (), on_round: Any = None, **options: Any
) -> list[Record]:
    """Run the shortest possible measurement."""
    subjects = models if isinstance(models[0], Subject) else find_subjects(models, runners)
    request = BenchRequest(**{"min_seconds": 0.0, "min_samples": 8, **options})
    return latency.bench_models(subjects, request, on_round)


def onnx_model(shape: tuple[object, ...] = ("batch", 1, 16, 16), **options: Any) -> bytes:
    """A model that scales its input, which torch's vgg6 would take too."""
    return scale_model(shape, **{"weight": 1.0, **options})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with plain.pt, branches.pt and scale.onnx."""
    folder = tmp_path_factory.mktemp("made")
    torch.manual_seed(0)
    net = ird.build("vgg6").eval()
    ird.save(net, folder / "plain.pt")
    ird.save(ird.insert_branches(net).eval(), folder / "branches.pt")
    (folder / "scale.onnx").write_bytes(onnx_model())
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the files of `made`."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(made, tmp_path, dirs_exist_ok=True)


def test_models_of_all_kinds_are_measured_beside_each_other(folder: Path) -> None:
    models = ["branches.pt", Path("plain.pt"), "own=scale.onnx", "vgg6"]
    records = bench_models(models, out=folder / "r", seed=3)
    assert [record.model for record in records] == ["branches", "plain", "own", "vgg6"]
    assert [record.runner["runner"] for record in records] == ["torch", "torch", "ort-cpu", "torch"]
    assert [record.source for record in records] == [
        "checkpoint, train state",
        "checkpoint, train state",
        "onnx",
        "network, random weights",
    ]
    assert [record.artefact_sha256 for record in records] == [
        sha256(folder / "branches.pt"),
        sha256(folder / "plain.pt"),
        sha256(folder / "scale.onnx"),
        None,
    ]
    assert read(folder / "r" / "records.jsonl") == records
    for record in records:
        assert len(record.samples_ns) == 8
        assert min(record.samples_ns) > 0
        assert (record.batch, record.input_shape) == (1, [1, 1, 16, 16])
        assert (record.suite, record.scenario) == ("models", "single-stream")
        assert record.precision == "fp32"
        assert record.runner["threads"] == 1
        assert record.protocol_version == PROTOCOL_VERSION
        assert record.warmup["runs"] > 0
        assert record.conditions["seed"] == 3
        assert record.conditions["interleaved_with"] == [
            "branches (torch)",
            "plain (torch)",
            "own (ort-cpu)",
            "vgg6 (torch)",
        ]
        assert record.system["torch_threads"] == 1
        assert record.created == records[0].created
    # A second run adds to the file.
    bench_models(["vgg6"], out=folder / "r")
    assert len(read(folder / "r" / "records.jsonl")) == 5


def test_every_model_sees_the_same_input(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from irepdeploy.board.runner import Runner

    seen = []
    real = Runner.bind
    monkeypatch.setattr(Runner, "bind", lambda self, feeds: seen.append(feeds["input"]) or real(self, feeds))
    bench_models(["plain.pt", "scale.onnx", "vgg6"], seed=1)
    bench_models(["vgg6"], seed=2)
    assert all(np.array_equal(array, seen[0]) for array in seen[1:3])
    assert not np.array_equal(seen[3], seen[0])
    assert 0.8 < seen[0].std() < 1.2


def test_threads_and_random_state_are_left_as_they_were(folder: Path) -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    records = bench_models(["vgg6", "scale.onnx"], threads=threads + 1)
    assert [record.runner["threads"] for record in records] == [threads + 1] * 2
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert gc.isenabled()


def test_idle_threads_spin_only_where_they_disturb_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def spinning(*models: str, threads: int) -> bool:
        return bench_models(models, threads=threads)[0].runner["spinning"]

    assert spinning("scale.onnx", threads=2)
    assert spinning("scale.onnx", "vgg6", threads=1)
    assert "do not spin" not in capsys.readouterr().err
    assert not spinning("scale.onnx", "vgg6", threads=2)
    assert "do not spin" in capsys.readouterr().err


def test_ratios_have_three_digits() -> None:
    assert [_digits(value) for value in (0.1073, 1.0, 5.571, 61.04, 123.4)] == ["0.107", "1.00", "5.57", "61.0", "123"]


def pairs(*models: str, runners: Sequence[str] = ()) -> list[tuple[str, str]]:
    return [(subject.label, subject.runner) for subject in find_subjects(models, runners)]


def test_each_model_runs_on_the_runners_that_can_take_it(folder: Path) -> None:
    Path("m.engine").write_bytes(b"")
    assert pairs("plain.pt", "scale.onnx", "vgg6", "m.engine") == [
        ("plain", "torch"),
        ("scale", "ort-cpu"),
        ("vgg6", "torch"),
        ("m", "trt"),
    ]
    assert pairs("plain.pt", "scale.onnx", runners=["ort-cpu", "torch", "ort-cpu"]) == [
        ("plain", "ort-cpu"),
        ("plain", "torch"),
        ("scale", "ort-cpu"),
    ]
    assert pairs("vgg6", runners=list(RUNNERS)[:-1]) == [("vgg6", runner) for runner in list(RUNNERS)[:-1]]
    with pytest.raises(InputError, match="trt cannot run a checkpoint") as caught:
        pairs("plain.pt", runners=["trt"])
    assert "irepdeploy export plain.pt --target trt" in caught.value.hint
    with pytest.raises(InputError, match="torch cannot run an ONNX file") as caught:
        pairs("scale.onnx", runners=["torch"])
    assert "--runner ort-cpu,ort-cuda" in caught.value.hint
    with pytest.raises(InputError, match="ort-cpu cannot run an engine"):
        pairs("m.engine", runners=["ort-cpu"])
    with pytest.raises(InputError, match="can run on trt"):
        pairs("plain.pt", runners=["torch", "trt"])
    with pytest.raises(InputError, match="unknown runner 'ort'") as caught:
        pairs("scale.onnx", runners=["ort"])
    assert "ort-cpu" in caught.value.hint


def test_runners_are_named_as_the_opener_knows_them() -> None:
    from irepdeploy.bench.opened import _PROVIDERS, _TORCH

    assert list(RUNNERS) == [*_TORCH, *_PROVIDERS, "trt"]


def test_subjects_that_contradict_themselves() -> None:
    net = ird.build("vgg6").eval()
    own = Subject("own", MODULE, "network, made here", "ort-cpu", module=net)
    with pytest.raises(InputError, match="given twice"):
        bench_models([own, own])
    with pytest.raises(InputError, match="trt takes no module"):
        Subject("own", MODULE, "x", "trt", module=net)
    with pytest.raises(InputError, match="takes no network"):
        Subject("own", NETWORK, "vgg6", "no such runner")
    for wrong in ({"kind": MODULE, "module": None}, {"kind": NETWORK, "module": net}):
        with pytest.raises(InputError, match="belongs to the kind"):
            Subject("own", target="x", runner="torch", **wrong)


def test_modules_in_memory_are_measured(folder: Path) -> None:
    net = ird.build("vgg6").eval()
    foreign = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()).eval()
    models = [
        Subject("a", MODULE, "BN folded", "torch", module=ird.fuse(net), facts={"top1": 93.0, "net": "mine"}),
        Subject("a", MODULE, "BN kept", "ort-cpu", module=net),
        Subject("b", MODULE, "own class", "torch", module=foreign, input_shape=(1, 16, 16)),
    ]
    records = bench_models(models, suite="table2")
    assert [record.source for record in records] == ["BN folded", "BN kept", "own class"]
    assert [record.suite for record in records] == ["table2"] * 3
    assert records[0].facts["top1"] == 93.0 and records[0].facts["net"] == "mine"
    assert records[1].facts["net"] == "vgg6" and "top1" not in records[1].facts
    assert records[2].facts == {"params": 20}
    assert records[1].facts["params"] == sum(parameter.numel() for parameter in net.parameters())
    shapeless = Subject("c", MODULE, "own class", "torch", module=foreign)
    with pytest.raises(InputError, match="does not declare its inputs") as caught:
        bench_models([shapeless])
    assert caught.value.where == "c"


@pytest.mark.parametrize("model", ["branches.pt", "vgg6"])
def test_checkpoints_and_networks_on_onnx_runtime_are_the_same_networks(
    folder: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from irepdeploy.board.runner import Runner

    seen: dict[str, np.ndarray] = {}
    real = Runner.infer

    def spy(self: Runner, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen[self.name] = real(self, feeds)["logits"]
        return {"logits": seen[self.name]}

    monkeypatch.setattr(Runner, "infer", spy)
    records = bench_models([model], runners=["torch", "ort-cpu"])
    assert [record.runner["runner"] for record in records] == ["torch", "ort-cpu"]
    assert records[0].source == records[1].source
    assert records[0].artefact_sha256 == records[1].artefact_sha256
    assert records[1].runner["provider"] == "CPUExecutionProvider"
    assert [record.precision for record in records] == ["fp32", "fp32"]
    assert records[0].facts == records[1].facts
    assert np.abs(seen["ort"] - seen["torch"]).max() <= 1e-4 * np.abs(seen["torch"]).max()


def test_branches_are_written_as_they_stand(folder: Path) -> None:
    from irepdeploy.bench.onnx_model import onnx_of
    from irepdeploy.board.ort_runner import OrtRunner
    from irepdeploy.reparam.block import RepBlock
    from irepdeploy.reparam.origin import origin_of

    net = ird.load("branches.pt").eval()
    # A subnet: inactive branches are not written.
    first = next(module for module in net.modules() if isinstance(module, RepBlock))
    first.active = first.active[1:3]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    specs, names = origin_of(net).specs, origin_of(net).output_names
    fused = onnx.load_model_from_string(onnx_of(ird.fuse(net), specs, names))
    whole = onnx.load_model_from_string(onnx_of(net, specs, names))

    def convolutions(model: onnx.ModelProto) -> int:
        return sum(node.op_type == "Conv" for node in model.graph.node)

    assert convolutions(whole) > 4 * convolutions(fused)
    images = np.random.default_rng(0).standard_normal((2, 1, 16, 16)).astype("float32")
    with OrtRunner(whole.SerializeToString()) as runner, torch.inference_mode():
        found, expected = runner.infer({"input": images})["logits"], net(torch.from_numpy(images)).numpy()
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_conditions_and_the_machine_before_and_after_are_recorded(folder: Path) -> None:
    before = sorted(folder.iterdir())
    (record,) = bench_models(["scale.onnx"], tf32=True, transfers="included")
    # Without `out` nothing is written.
    assert sorted(folder.iterdir()) == before
    assert (record.conditions["tf32"], record.conditions["transfers"]) == ("on", "included")
    assert set(record.system["state"]) == set(record.system_after) == {"cpu", "gpu", "load_average"}
    assert record.device_samples_ns == []
    assert record.power == {}
    # A CPU has neither.
    assert record.runner["transfers"] == "none"
    assert "tf32" not in record.runner
    with pytest.raises(InputError, match="transfers 'half'"):
        bench_models(["scale.onnx"], transfers="half")
    with pytest.raises(InputError, match="unknown device 'gpu9'"):
        bench_models(["vgg6"], device="gpu9")


def test_samples_of_a_device_clock_are_recorded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from irepdeploy.board.runner import DeviceTimed, Runner

    real = Runner.bind
    monkeypatch.setattr(Runner, "bind", lambda self, feeds: DeviceTimed(real(self, feeds), lambda: 7))
    (record,) = bench_models(["scale.onnx"])
    assert record.device_samples_ns == [7] * 8
    assert rows([record])[0].device.median_ms == 7e-6
    assert rows([record])[0].to_json()["device_median_ms"] == 7e-6


def test_offline_sweeps_batches(folder: Path) -> None:
    shares: list[float] = []
    records = bench_models(
        ["vgg6", "scale.onnx"],
        scenario="offline",
        batches=[1, 3],
        out="r",
        on_round=shares.append,
    )
    assert [(record.model, record.batch) for record in records] == [
        ("vgg6", 1), ("vgg6", 3), ("scale", 1), ("scale", 3)
    ]  # fmt: skip
    assert [record.input_shape[0] for record in records] == [1, 3, 1, 3]
    assert {record.scenario for record in records} == {"offline"}
    # Only records of the same batch size come from the same rounds.
    assert records[0].created == records[2].created != records[1].created == records[3].created
    assert shares == sorted(shares) and shares[-1] == 1.0
    assert read("r/records.jsonl") == records


def test_offline_has_batches_of_its_own_and_a_checkpoint_on_onnx_runtime_takes_them_all(folder: Path) -> None:
    records = bench_models(["plain.pt"], runners=["ort-cpu"], scenario="offline", min_seconds=0.0, min_samples=1)
    assert [record.batch for record in records] == [1, 2, 4, 8, 16, 32, 64]


def test_batches_that_cannot_be(folder: Path) -> None:
    assert bench_models(["vgg6", "scale.onnx"], batches=[4])[1].input_shape == [4, 1, 16, 16]
    Path("fixed.onnx").write_bytes(onnx_model((2, 1, 16, 16)))
    assert bench_models(["fixed.onnx"])[0].batch == 2
    with pytest.raises(InputError, match="its batch is 2, not 4") as caught:
        bench_models(["fixed.onnx"], batches=[4])
    assert "--dynamic-batch" in caught.value.hint
    with pytest.raises(InputError, match="its batch is 2, not 1"):
        bench_models(["fixed.onnx"], scenario="offline")
    for wrong in ([0], [True], [1, 1]):
        with pytest.raises(InputError, match="batches"):
            bench_models(["vgg6"], batches=wrong)
    with pytest.raises(InputError, match="no scenario 'server'"):
        bench_models(["vgg6"], scenario="server")


def test_labels(folder: Path) -> None:
    def labels(*models: str) -> list[str]:
        return [subject.label for subject in find_subjects(models)]

    (folder / "other").mkdir()
    (folder / "other" / "scale.onnx").write_bytes(onnx_model())
    (folder / "a=b.onnx").write_bytes(onnx_model())
    assert labels("scale.onnx", "vgg6", "x=plain.pt", "y=vgg6") == ["scale", "vgg6", "x", "y"]
    assert labels("scale.onnx", "other/scale.onnx") == ["scale.onnx", "other/scale.onnx"]
    assert labels("a=b.onnx") == ["a=b"]
    assert labels("x=scale.onnx", "scale.onnx") == ["x", "scale"]
    for twice in (["vgg6", "vgg6"], ["x=vgg6", "x=plain.pt"], ["scale.onnx", "scale.onnx"]):
        with pytest.raises(InputError, match="given twice"):
            labels(*twice)


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("vgg61", "did you mean vgg6 or vgg16"),
        ("qqqq", "networks: vgg6"),
        ("scales.onnx", "did you mean scale.onnx?"),
        ("x=plane.pt", "did you mean plain.pt"),
        ("no/such/folder/m.onnx", "check the path"),
    ],
)
def test_unknown_models_are_answered_with_the_nearest(folder: Path, model: str, text: str) -> None:
    with pytest.raises(InputError, match="no such") as caught:
        bench_models([model])
    assert text in caught.value.hint


@pytest.mark.parametrize(
    ("models", "text"),
    [
        ([], "nothing to measure"),
        (["."], "got a directory"),
        (["plain.pt", "large.onnx"], "takes 1x3x32x32, but plain takes 1x1x16x16"),
        (["garbage.pt"], "garbage.pt"),
        (["garbage.onnx"], "garbage.onnx"),
    ],
)
def test_what_cannot_be_measured(folder: Path, models: list[str], text: str) -> None:
    Path("large.onnx").write_bytes(onnx_model((1, 3, 32, 32)))
    for name in ("garbage.pt", "garbage.onnx"):
        Path(name).write_bytes(b"garbage")
    with pytest.raises(InputError) as caught:
        bench_models(find_subjects(models))
    assert text in caught.value.line


def test_sizes_asked_for_replace_those_of_a_checkpoint(folder: Path) -> None:
    Path("scale.onnx").write_bytes(onnx_model(("batch", 1, 20, 16)))
    records = bench_models(["plain.pt", "scale.onnx"], shapes=[input_spec("3x1x20x16")])
    assert [(record.input_shape, record.batch) for record in records] == [([3, 1, 20, 16], 3)] * 2


def test_free_dimensions_other_than_the_batch(folder: Path) -> None:
    Path("free.onnx").write_bytes(onnx_model(("batch", 1, "height", 16)))
    with pytest.raises(InputError, match=r"dynamic dimensions: \?x1x\?x16") as caught:
        bench_models(["free.onnx"])
    assert caught.value.hint == "give --input-shape input:1x1x224x16, or --inputs FILE.npy"
    for text in ("input:3x1x20x16", "3x1x20x16"):
        (record,) = bench_models(["free.onnx"], shapes=[input_spec(text)])
        assert (record.input_shape, record.batch) == ([3, 1, 20, 16], 3)
    for wrong in ("1x1x20", "1x2x20x16"):
        with pytest.raises(InputError, match=r"expected sizes of \?x1x\?x16, got 1x"):
            bench_models(["free.onnx"], shapes=[input_spec(wrong)])
    with pytest.raises(InputError, match="no model has an input 'image'") as caught:
        bench_models(["free.onnx"], shapes=[input_spec("image:1x1x20x16")])
    assert caught.value.hint == "inputs: input"


def test_inputs_of_any_type_and_given_ones(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("whole.onnx").write_bytes(onnx_model((2, 5), dtype="int64"))
    Path("scalar.onnx").write_bytes(onnx_model(()))
    (whole,) = bench_models(["whole.onnx"])
    assert (whole.batch, whole.input_shape, whole.conditions["input"]) == (2, [2, 5], "input 0 to 1")
    (scalar,) = bench_models(["scalar.onnx"])
    assert (scalar.batch, scalar.input_shape) == (1, [1])
    # A size known only from the given inputs, and fewer samples than usual.
    Path("free.onnx").write_bytes(onnx_model(("batch", 1, "height", 16)))
    np.save("x.npy", np.ones((3, 1, 20, 16), np.float32))
    arguments = ["bench", "free.onnx", "--inputs", "x.npy", "--seconds", "0", "--samples", "2", "--out", "r"]
    assert main(arguments) == 0
    (record,) = read("r/records.jsonl")
    assert (record.input_shape, record.conditions["input"]) == ([1, 1, 20, 16], "x.npy")
    assert 2 <= len(record.samples_ns) < 64
    assert main(["bench", "free.onnx", "--shape", "input=1x1x9x16", "--seconds", "0", "--samples", "1"]) == 0
    assert "input 1x1x9x16" in capsys.readouterr().out


@pytest.mark.parametrize(("weight", "word"), [(float("nan"), "NaN"), (float("inf"), "infinity")])
def test_a_model_that_returns_no_numbers_is_named_and_not_measured(folder: Path, weight: float, word: str) -> None:
    Path("broken.onnx").write_bytes(onnx_model(weight=weight))
    net = ird.load("plain.pt")
    with torch.no_grad():
        next(net.parameters())[0] = float("nan")
    ird.save(net, "nan.pt")
    for model, said in (("broken.onnx", word), ("nan.pt", "NaN")):
        with pytest.raises(InputError, match=f"returns {said}") as caught:
            bench_models(["scale.onnx", model], out="r")
        assert caught.value.where == Path(model).stem
    assert not Path("r", "records.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "word"), [({"dtype": "float16"}, "fp16"), ({"dtype": "float64"}, "fp64"), ({"quantized": True}, "int8")]
)
def test_precision_of_an_onnx_model_is_that_of_its_weights(folder: Path, options: dict[str, Any], word: str) -> None:
    Path("typed.onnx").write_bytes(onnx_model(**options))
    assert bench_models(["typed.onnx"])[0].precision == word


class Foreign(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 3))


def test_foreign_checkpoint_needs_its_factory(folder: Path) -> None:
    ird.save(Foreign().eval(), "foreign.pt", input_shape=(1, 16, 16))
    with pytest.raises(InputError, match="class"):
        bench_models(["foreign.pt"])
    records = bench_models(["foreign.pt", "plain.pt"], factory=Foreign)
    assert [record.model for record in records] == ["foreign", "plain"]
    ird.save(Foreign().eval(), "shapeless.pt")
    with pytest.raises(InputError, match="does not declare its inputs"):
        bench_models(["shapeless.pt"], factory=Foreign)


def test_output_folder_is_checked_before_anything_is_measured(folder: Path) -> None:
    Path("file").write_text("")
    with pytest.raises(OutputError):
        bench_models(["vgg6"], out="file", min_samples=10**9)


@pytest.fixture
def records(folder: Path) -> list:
    measured = bench_models(["plain.pt", "scale.onnx"])
    return [
        replace(measured[0], samples_ns=[2_000_000] * 80, warmup={"steady": True}),
        replace(measured[1], samples_ns=[1_000_000] * 80, warmup={"steady": False}),
    ]


def test_rows_by_hand(records: list) -> None:
    assert [cells(row) for row in rows(records)] == [
        ["plain", "torch", "2.000", "2.000", "0.0%", "1 (reference)"],
        ["scale", "ort-cpu", "1.000", "1.000", "0.0% unsteady", "0.500 [0.500, 0.500]"],
    ]
    noisy = replace(records[0], samples_ns=[2_000_000] * 79 + [90_000_000])
    assert cells(rows([noisy])[0])[4].endswith("% unsteady")
    few = [replace(record, samples_ns=record.samples_ns[:5]) for record in records]
    assert cells(rows(few)[1])[3:] == ["n=5 < 64", "0.0% unsteady", "0.500 (too few samples)"]
    assert len(COLUMNS) == 6


def test_samples_are_paired_only_within_a_run(records: list) -> None:
    drift = [1_000_000 + 10_000 * i for i in range(80)]
    one = replace(records[0], samples_ns=drift)
    same, other = replace(one, model="b"), replace(one, model="c", created="2000-01-01T00:00:00+00:00")
    _, paired, apart = rows([one, same, other])
    assert paired.ratio == (1.0, 1.0, 1.0)
    assert apart.ratio.value == 1.0
    assert apart.ratio.low < 0.99 < 1.01 < apart.ratio.high


def test_protocol_versions_are_kept_apart(records: list) -> None:
    older = replace(records[1], protocol_version=PROTOCOL_VERSION - 1)
    with pytest.raises(InputError, match="cannot be in one table"):
        rows([records[0], older])


def test_the_best_batch_by_hand(records: list) -> None:
    def swept(batch: int, ms: float) -> object:
        return replace(records[0], batch=batch, samples_ns=[round(ms * 1e6)] * 80, scenario="offline")

    other = replace(records[1], samples_ns=[1_000_000] * 80)
    found = optimum([swept(1, 2.0), swept(2, 3.2), swept(4, 6.4), other])
    assert len(found) == 2
    # 500, 625 and 625 images/s: of equal rates, the smaller batch is better.
    assert found[0].best.batch == 2
    assert found[0].best.images_per_second == pytest.approx(625)
    assert [row.batch for row in found[0].sweep] == [1, 2, 4]
    assert batch_cells(found[0]) == ["plain", "torch", 2, "625.0", "3.200", "1: 500.0, 2: 625.0, 4: 625.0"]
    assert batch_cells(found[1])[4] == "1.000 unsteady"
    assert len(BATCH_COLUMNS) == 6
    # Ratios compare equal batch sizes.
    ratios = [row.ratio for row in rows([swept(1, 2.0), swept(2, 3.2), other])]
    assert [None if ratio is None else ratio.value for ratio in ratios] == [None, None, 0.5]


def test_command_prints_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "branches.pt", "scale.onnx", "--seconds", "0", "--out", "r"]) == 0
    out, err = capsys.readouterr()
    assert "input 1x1x16x16, threads 1" in out
    assert all(column in out for column in COLUMNS)
    assert "1 (reference)" in out
    assert "records: r/records.jsonl" in err
    assert len(read("r/records.jsonl")) == 2


def test_command_prints_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "a=vgg6", "b=scale.onnx", "--seconds", "0", "--json", "--runner", "torch, ort-cpu"]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert "not saved" in err
    assert result["records"] is None
    assert result["input_shape"] == [1, 1, 16, 16]
    assert [(row["model"], row["runner"]) for row in result["rows"]] == [
        ("a", "torch"),
        ("a", "ort-cpu"),
        ("b", "ort-cpu"),
    ]
    assert result["rows"][0]["ratio"] is None
    assert result["rows"][0]["n"] == 64
    assert set(result["rows"][1]["ratio"]) == {"value", "low", "high"}


@pytest.mark.parametrize(
    "args",
    [
        [],
        ["no-such-network"],
        ["scale.onnx", "--runner", "tensorrt"],
        ["scale.onnx", "--threads", "0"],
        ["scale.onnx", "--seed", "-1"],
        ["broken.onnx"],
        ["plain.pt", "--model", "no-colon"],
    ],
)
def test_command_exits_2_with_one_line(folder: Path, args: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.onnx").write_bytes(onnx_model(weight=float("nan")))
    assert main(["bench", *args]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.strip()


def test_a_model_that_takes_nothing_is_refused(folder: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("Constant", [], ["y"], value=numpy_helper.from_array(np.ones(1, "float32")))],
        "constant",
        [],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Path("constant.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match="the model has no input"):
        bench_models(["constant.onnx"])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["scale.onnx", "--max-slower", "50%"], "--max-slower: needs an earlier record"),
        (["scale.onnx", "--other-machine"], "--other-machine: needs an earlier record"),
        (["scale.onnx", "--device", "cuda"], "--device cuda: none of these runners"),
        (["--suite", "table2", "--transfers", "included"], "--transfers is not for suites"),
        (["--suite", "table2", "--max-slower", "5%"], "--max-slower is not for suites"),
        (["--suite", "table2", "--other-machine"], "--other-machine is not for suites"),
        (["scale.onnx", "--seconds", "inf"], "--seconds"),
        (["scale.onnx", "--seconds", "nan"], "--seconds"),
        (["scale.onnx", "--seconds=-1"], "--seconds"),
    ],
)
def test_an_option_without_effect_or_sense_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    assert main(["bench", "--seconds", "0", *options]) == 2
    assert text in capsys.readouterr().err


def test_the_title_shows_all_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shapes = {"a": (2, 3, 4), "b": (2, 3, 1), "y": (2, 3, 4)}
    *ends, made = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items())
    graph = helper.make_graph([helper.make_node("Mul", ["a", "b"], ["y"])], "two", ends, [made])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "two.onnx")
    assert main(["bench", str(tmp_path / "two.onnx"), "--seconds", "0.01"]) == 0
    assert "Latency, input a 2x3x4, b 2x3x1, threads" in capsys.readouterr().out
    # It would be ignored.
    with pytest.raises(InputError, match="--input-shape: 2x3x4 does not name one of the inputs") as caught:
        bench_models([str(tmp_path / "two.onnx")], shapes=[input_spec("2x3x4")])
    assert caught.value.hint == "inputs: a, b"
