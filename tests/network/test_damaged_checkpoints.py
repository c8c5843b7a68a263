"""No damaged checkpoint is loaded: random faults, odd fields, odd weights, and every command that takes one."""

from __future__ import annotations

import collections
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import irepdeploy as ird
from irepdeploy.cli.program import main
from irepdeploy.errors import CheckpointError, InputError, ModelError
from irepdeploy.network import checkpoint
from irepdeploy.network.archive import pack
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.origin import origin_of, set_origin
from support.campaign import campaign, cases
from support.faults import archive_faults, faults
from support.networks import ConvBn

EARLIER = Path(__file__).parent / "assets" / "fused.pt"


def network() -> nn.Module:
    net = ird.insert_branches(build("vgg6", num_classes=7, stages=((4,), (6,))), ["conv1x3", "identity"])
    return randomize_statistics(net.eval(), 2)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ird.save(network(), tmp_path_factory.mktemp("good") / "good.pt", extra={"note": [1, {"top1": 0.5}]})


def rewritten(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """Change the content of a checkpoint and write it with a valid digest beside `path`."""
    content = checkpoint.read(path)
    change(content)
    other = path.with_name("rewritten.pt")
    other.write_bytes(pack(content))
    return other


def test_no_fault_goes_unseen(good: Path, tmp_path: Path) -> None:
    whole, bad = good.read_bytes(), tmp_path / "bad.pt"
    with campaign("damaged checkpoints") as counts:
        for seed in range(cases(300, 10_000)):
            kind, damaged = (faults, archive_faults)[seed % 2](whole, seed)
            bad.write_bytes(damaged)
            try:
                checkpoint.read(bad)
            except CheckpointError as error:
                if error.exit_code == 2 and str(bad) in error.line and "\n" not in error.line:
                    counts.hold(kind)
                else:
                    counts.fail(kind, f"seed {seed}: {error.line!r}")
            else:
                counts.fail(kind, f"seed {seed}: loads")


def test_no_fault_in_the_content_of_an_earlier_file_goes_unseen(tmp_path: Path) -> None:
    whole, bad, content = EARLIER.read_bytes(), tmp_path / "bad.pt", checkpoint.read(EARLIER)
    with campaign("damaged checkpoints without a digest") as counts:
        for seed in range(cases(100, 3_000)):
            kind, damaged = faults(whole, seed)
            bad.write_bytes(damaged)
            try:
                found = checkpoint.read(bad)
            except CheckpointError:
                counts.hold(kind)
            else:
                # Padding, dates and attributes in the archive carry no information.
                if same(found, content):
                    counts.hold(f"{kind}, in bytes without meaning")
                else:
                    counts.fail(kind, f"seed {seed}: loads")


def same(a: object, b: object) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b)
    return type(a) is type(b) and a == b


def test_the_damaged_tensor_is_named(good: Path, tmp_path: Path) -> None:
    whole, bad = good.read_bytes(), tmp_path / "bad.pt"
    name, tensor = "head.weight", checkpoint.read(good)["state"]["head.weight"]
    at = whole.index(tensor.numpy().tobytes())
    bad.write_bytes(whole[:at] + b"\x00\x01" + whole[at + 2 :])
    with pytest.raises(CheckpointError, match=rf"damaged: state/{name} was changed after it was written"):
        ird.load(bad)


def test_other_programs_read_the_archive_and_cannot_write_it(good: Path, tmp_path: Path) -> None:
    content = torch.load(good, weights_only=True)
    assert content["format"] == "irepdeploy.checkpoint" and content["digest"]
    torch.save(content, tmp_path / "again.pt")
    with pytest.raises(CheckpointError, match="its digest is missing"):
        ird.load(tmp_path / "again.pt")


ODD: list[Callable[[], object]] = [
    *(lambda value=value: value for value in (None, True, 0, -1, 7, 2**31, 10**12, 10**40, -(10**40))),
    *(lambda value=value: value for value in (0.5, float("nan"), float("inf"), 1e300, 1j)),
    *(
        lambda value=value: value
        for value in ("", "x", "\x1b[31m", "\ud800", "a\nb", "a" * 10_000, b"b", "fused", "resnet18")
    ),
    *(lambda value=value: value for value in ((), (1, 2, 3), torch.Size([1]), torch.float32)),
    list,
    dict,
    set,
    lambda: [[10**9]] * 3,
    lambda: [[]] * 1000,
    lambda: {1: 2},
    lambda: collections.OrderedDict(a=1),
    lambda: nested(150),
    lambda: doubled(60),
    lambda: torch.tensor(1),
    lambda: torch.zeros(3),
]


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def doubled(depth: int) -> list[Any]:
    """A list that a small file holds and that has 2 to the power of `depth` leaves."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value, value]
    return value


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield at
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list | tuple) else ():
        yield from places(value[key], (*at, key))


def with_value(content: Any, place: tuple[Any, ...], new: object) -> Any:
    if not place:
        return new
    if isinstance(content, dict):
        return {**content, place[0]: with_value(content[place[0]], place[1:], new)}
    return type(content)(
        [*content[: place[0]], with_value(content[place[0]], place[1:], new), *content[place[0] + 1 :]]
    )


def test_odd_fields_are_refused_or_harmless(good: Path, tmp_path: Path) -> None:
    foreign = with_inputs_of_two(tmp_path)
    subjects = [(good, None), (foreign, ConvBn)]
    contents = [checkpoint.read(path) for path, _ in subjects]
    described = [list(places({**content, "state": None}))[1:] for content in contents]
    with campaign("odd fields in checkpoints") as counts:
        for seed in range(cases(120, 5_000)):
            generator = random.Random(seed)
            which = generator.randrange(len(subjects))
            place, odd = generator.choice(described[which]), generator.randrange(len(ODD))
            path = tmp_path / "odd.pt"
            path.write_bytes(pack(with_value(contents[which], place, ODD[odd]())))
            kind = "/".join(str(key) for key in place if not isinstance(key, int))
            try:
                origin = origin_of(ird.load(path, model=subjects[which][1]))
                assert hash((origin.specs, origin.output_names, origin.classes)) and origin.architecture is not None
            except CheckpointError:
                counts.hold(f"{kind}: refused")
            except Exception as error:  # must not happen
                counts.fail(kind, f"seed {seed}, {place}, value {odd}: {type(error).__name__}: {error}")
            else:
                counts.hold(f"{kind}: another valid value")


def with_inputs_of_two(tmp_path: Path) -> Path:
    path = ird.save(ConvBn().eval(), tmp_path / "foreign.pt", factory="my.code:make")
    spec = {"name": "image", "shape": [None, 3, 8, 8], "dtype": "float32"}
    return rewritten(path, lambda content: content["origin"].update(inputs=[spec, {**spec, "name": "other"}]))


@pytest.mark.parametrize(
    "args", [{"num_classes": 10**9}, {"stages": [[10**6] * 2]}, {"stages": [[4, 6], [10**5, 10**5]]}]
)
def test_a_network_larger_than_its_weights_is_not_built(good: Path, args: dict[str, object]) -> None:
    path = rewritten(good, lambda content: content["origin"]["args"].update(args))
    with pytest.raises(CheckpointError, match="describes a larger network than it holds weights for"):
        ird.load(path)


KINDS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "complex": (lambda tensor: tensor.to(torch.complex64), "expected float32, got complex64"),
    "bool": (lambda tensor: tensor.bool(), "expected float32, got bool"),
    "integers": (lambda tensor: tensor.long(), "expected float32, got int64"),
    "float8": (lambda tensor: tensor.to(torch.float8_e4m3fn), "expected float32, got float8_e4m3fn"),
    "sparse": (lambda tensor: tensor.to_sparse(), "got a sparse tensor"),
    "meta": (lambda tensor: tensor.to("meta"), "got a meta"),
    "quantized": (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "got a quantized tensor"),
    "expanded": (lambda tensor: tensor.new_zeros(1).expand(tensor.shape), "declares more values than it stores"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_another_kind_are_refused_and_not_cast(good: Path, kind: str) -> None:
    change, words = KINDS[kind]
    name = "head.weight"
    path = rewritten(good, lambda content: content["state"].update({name: change(content["state"][name])}))
    with pytest.raises(CheckpointError, match=rf"{words}.*|{name}") as caught:
        ird.load(path)
    assert name in caught.value.line and words in caught.value.line


class Counted(nn.Module):
    """A class with buffers of its own kinds."""

    def __init__(self, steps: torch.dtype = torch.int32) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3)
        self.register_buffer("seen", torch.tensor([True, False]))
        self.register_buffer("steps", torch.tensor([1, 2], dtype=steps))
        self.register_buffer("wide", torch.ones(1).expand(5))


def test_buffers_of_the_users_own_kind_stay(tmp_path: Path) -> None:
    path = ird.save(Counted(), tmp_path / "own.pt")
    assert ird.load(path, model=Counted).state_dict()["seen"].tolist() == [True, False]
    with pytest.raises(CheckpointError, match="steps: expected float32, got int32"):
        ird.load(path, model=lambda: Counted(torch.float32))


def test_a_shape_of_torch_is_one(tmp_path: Path) -> None:
    net = set_origin(nn.Linear(1, 1), input_shape=torch.Size([3, 8, 8]))
    assert origin_of(ird.load(ird.save(net, tmp_path / "c.pt"), model=lambda: nn.Linear(1, 1))).input_shape == (3, 8, 8)


def test_what_cannot_be_loaded_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="weight: a meta"):
        ird.save(nn.Linear(1, 1, device="meta"), tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="input shape of positive sizes"):
        ird.save(nn.Linear(1, 1), tmp_path / "c.pt", input_shape=(3, 0, 8))
    with pytest.raises(InputError, match=r"one input, got .*for a network of several inputs, give examples"):
        ird.save(nn.Linear(1, 1), tmp_path / "c.pt", input_shape=((3, 8, 8), (1,)))  # type: ignore[arg-type]
    for extra in ({"path": tmp_path}, {"large": 10**700}):
        with pytest.raises(InputError, match="cannot be saved"):
            ird.save(nn.Linear(1, 1), tmp_path / "c.pt", extra=extra)
    assert not list(tmp_path.iterdir())


COMMANDS = [
    "export bad.pt --out new",
    "verify bad.pt vgg6",
    "verify good.pt bad.pt",
    "inspect bad.pt",
    "bench bad.pt --seconds 0 --out new",
    "plot arch bad.pt --out new.png",
    "plot features bad.pt --out new.png",
    "plot kernels bad.pt --out new.png",
    "plot arch-weights bad.pt --out new.png",
    "train finetune digits scale=smoke --from bad.pt --out new",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_takes_a_damaged_checkpoint(
    command: str, good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = bytearray(good.read_bytes())
    whole[len(whole) // 2] ^= 1
    (tmp_path / "bad.pt").write_bytes(whole)
    shutil.copy(good, tmp_path)
    assert main(command.split()) == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "bad.pt" in shown and "damaged:" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pt", "good.pt"]
