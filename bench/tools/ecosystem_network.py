"""Run one network of timm or torchvision through the toolchain, as users of these libraries would do.

There are three paths: insert branches, train for one step and fuse; export; and collapse the file that torch's own
exporter wrote.
"""

from __future__ import annotations

import gc
import inspect
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import irepdeploy
from irepdeploy.board.feeds import random_feeds
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckFailed, IrepdeployError, ModelError, one_line
from irepdeploy.network.nets.statistics import randomize_statistics, settle_statistics
from irepdeploy.onnx_graph.facts import read_onnx
from irepdeploy.reparam.block import RepBlock
from irepdeploy.reparam.insert import expandable
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.equivalence import verify_models
from irepdeploy.verify.runners import onnx_runner

__all__ = ["walk"]

# Image sizes, smallest first: many networks take any size, and some only their own.
_SIZES = (64, 96, 128, 224, 256, 299)
_BATCH = 2
# Values of named inputs of ONNX files that determine the sizes of others: the sample rate for 512 audio samples.
_NUMBERS = {"sr": 16000}


class Heads(nn.Module):
    """The dense part of a torchvision detector, before boxes are selected."""

    def __init__(self, detector: Any) -> None:
        super().__init__()
        self.backbone = detector.backbone
        self.head = detector.rpn.head if hasattr(detector, "rpn") else detector.head

    def forward(self, image: Tensor) -> Any:
        """Return the outputs of the head for an image."""
        maps = self.backbone(image)
        return self.head(list(maps.values()) if isinstance(maps, dict) else [maps])


def built(name: str) -> tuple[nn.Module, int]:
    """Return a network by ``library/name`` in eval mode, with settled random weights, and the size of its images."""
    torch.manual_seed(0)
    library, _, name = name.partition("/")
    if library == "timm":
        import timm

        model = timm.create_model(name, pretrained=False)
        own, fixed = model.pretrained_cfg["input_size"][-1], model.pretrained_cfg.get("fixed_input_size", False)
        sizes = [own] if fixed else [*_SIZES, own]
    else:
        from torchvision import models

        options = inspect.signature(models.get_model_builder(name)).parameters
        bare: dict[str, Any] = {option: None for option in ("weights", "weights_backbone") if option in options}
        if name in ("googlenet", "inception_v3"):
            bare["init_weights"] = False
        model = models.get_model(name, **bare)
        if hasattr(model, "backbone") and "detection" in type(model).__module__:
            model = Heads(model)
        sizes = list(_SIZES)
    randomize_statistics(model, 0)
    _fill_zeros(model)
    reason: Exception | None = None
    for size in sizes:
        try:
            settle_statistics(model, (3, size, size))
            return model.eval(), size
        except Exception as error:  # images that are too small for a network may raise anything
            reason = error
    assert reason is not None
    raise reason


@torch.no_grad()
def _fill_zeros(model: nn.Module) -> None:
    """Set weights that start at zero to random values, since a head of zeros would hide all errors before it."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            parameter.normal_(std=0.02, generator=generator)


def walk(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each path with its result."""
    if name.startswith("onnx/"):
        path = Path("build/ecosystem", name)
        found = _outcome(_file, path)
        if "reason" in found:
            found["reason"] = found["reason"].replace(str(path), path.name)
        yield "collapse", found
        return
    found = {}
    opened = _outcome(lambda: found.update(zip(("model", "size"), built(name), strict=True)) or {})
    yield "opened", opened
    if opened["verdict"] != "works":
        return
    model, size = found["model"], found["size"]
    yield "network", {"parameters": sum(parameter.numel() for parameter in model.parameters()), "size": size}
    for way, go in _WAYS.items():
        yield way, _outcome(go, model, size)
        # A trained network is part of reference cycles, and the largest ones leave no memory for the next path.
        gc.collect()


def _outcome(go: Callable[..., dict[str, Any]], *given: Any) -> dict[str, Any]:
    start, found = time.process_time(), dict[str, Any](verdict="works")
    try:
        found |= go(*given)
    except CheckFailed as error:
        found |= {"verdict": "fails", "reason": error.line}
    except IrepdeployError as error:
        found |= {"verdict": "refused", "reason": error.line}
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        found |= {
            "verdict": "fails",
            "reason": f"{type(error).__name__}: {one_line(error)}",
            "place": f"{Path(place.filename).name}:{place.lineno} {place.name}",
        }
    return found | {"cpu_s": round(time.process_time() - start, 1)}


def _branches(model: nn.Module, size: int) -> dict[str, Any]:
    """Insert every branch, train for one step and fuse.

    After a single step, the statistics of the branches are far from those of their inputs, and a deep network amplifies
    rounding errors by a factor of up to 10^6, which would hide a wrong fuse. The statistics are therefore settled, as
    after a whole training.
    """
    fitting = sum(reason is None for reason in expandable(model).values())
    if not fitting:
        return {"verdict": "nothing to do", "blocks": 0}
    try:
        net = irepdeploy.insert_branches(model, "ireps")
    except ModelError as error:
        return {"verdict": "nothing to do", "reason": error.line}
    blocks = sum(isinstance(module, RepBlock) for module in net.modules())
    images = _images(size)
    step = torch.optim.SGD(net.parameters(), lr=1e-3)
    loss = sum(output.float().square().mean() for output in _tensors(net.train()(images)))
    assert isinstance(loss, Tensor)
    loss.backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    step.step()
    settle_statistics(net, (3, size, size))
    plain = irepdeploy.fuse(net.eval())
    found = verify_models(net, plain, images).comparison
    if not found.ok:
        raise CheckFailed(found.reason)
    noise = max((output.noise.rel_error for output in found.outputs if output.noise is not None), default=None)
    return {"blocks": blocks, "error": found.max_rel_error, "noise": noise}


def _images(size: int) -> Tensor:
    return torch.randn(_BATCH, 3, size, size, generator=torch.Generator().manual_seed(1))


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _export(model: nn.Module, size: int) -> dict[str, Any]:
    """Export the network as it is."""
    with tempfile.TemporaryDirectory(prefix="irepdeploy-") as folder:
        spec = TensorSpec("input", (1, 3, size, size))
        certificate = irepdeploy.export_model(
            model, folder, input_shape=spec, inputs=_images(size).numpy(), simplify=False
        )
        return {**_error(certificate), **_counts(Path(folder, "model.onnx"))}


def _collapse(model: nn.Module, size: int) -> dict[str, Any]:
    """Write the network with torch's exporters, keeping its batch normalization, and collapse that file."""
    with tempfile.TemporaryDirectory(prefix="irepdeploy-") as folder:
        file = Path(folder, "torch.onnx")
        reason = _written(model, size, file)
        if reason is not None:
            return {"verdict": "not written", "reason": reason}
        before = _counts(file)
        images = _images(size).numpy()
        certificate = irepdeploy.export_model(file, Path(folder, "out"), inputs=images, simplify=False)
        after = _counts(Path(folder, "out", "model.onnx"))
        return {**_error(certificate), **after, **{f"{key}_before": count for key, count in before.items()}}


def _written(model: nn.Module, size: int, file: Path) -> str | None:
    """Write the network with the older exporter or, if that fails, with the newer one; return why neither can.

    A file in which a node reads a tensor that does not exist counts as not written.
    """
    reasons = []
    older = {"training": torch.onnx.TrainingMode.PRESERVE, "opset_version": 17}
    for dynamo, options in ((False, older), (True, {"opset_version": 18})):
        try:
            image = torch.randn(1, 3, size, size)
            torch.onnx.export(model, (image,), str(file), dynamo=dynamo, input_names=["input"], **options)
            onnx.checker.check_model(str(file))
            return None
        except Exception as error:  # an exporter may raise anything
            reasons.append(f"{type(error).__name__}: {one_line(error)}")
    return f"torch's exporters: {'; '.join(reasons)}"


def _file(file: Path) -> dict[str, Any]:
    """Collapse an ONNX file with its dynamic sizes set to small ones, or left dynamic if its own inputs are given."""
    with onnx_runner(file) as runner:
        free = any(None in spec.shape[1:] for spec in runner.inputs)
        small = [spec._replace(shape=_small(spec.shape)) for spec in runner.inputs]
    known = {spec.name: np.array(_NUMBERS[spec.name]) for spec in small if spec.name in _NUMBERS}
    inputs = {**random_feeds(small, 0, file.name), **known} if known else None
    sizes = small if free and not known else None
    with tempfile.TemporaryDirectory(prefix="irepdeploy-") as folder:
        before = _counts(file)
        certificate = irepdeploy.export_model(file, folder, simplify=False, input_shape=sizes, inputs=inputs)
        after = _counts(Path(folder, "model.onnx"))
        return {**_error(certificate), **after, **{f"{key}_before": count for key, count in before.items()}}


def _small(shape: Sequence[int | None]) -> tuple[int, ...]:
    """Return small values for dynamic sizes: batch 1, images of 64x64, sequences of 512 numbers or 16 vectors."""
    free = [axis for axis, size in enumerate(shape) if size is None]
    # The state of recurrent networks has its batch in the second dimension.
    batch = free[0] if free and free[0] < 2 else None
    side = {2: 512, 4: _SIZES[0]}.get(len(shape), 16)
    return tuple(size or (1 if axis == batch else side) for axis, size in enumerate(shape))


def _error(certificate: Certificate) -> dict[str, float | None]:
    worst = max(certificate.hops, key=lambda hop: hop.error, default=None)
    if worst is None:
        return {}
    return {"error": worst.error, "noise": None if worst.noise is None else worst.noise.rel_error}


def _counts(path: Path) -> dict[str, int]:
    operators = read_onnx(path).operators
    return {
        "nodes": sum(operators.values()),
        "convs": operators.get("Conv", 0),
        "bn": operators.get("BatchNormalization", 0),
    }


_WAYS: dict[str, Callable[[nn.Module, int], dict[str, Any]]] = {
    "branches": _branches,
    "export": _export,
    "collapse": _collapse,
}
