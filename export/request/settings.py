"""Options of an export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.reparam.origin import Origin
from irepdeploy.verify.onnx_process import TIMEOUT_S

from .preprocess import Preprocessing

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Options of an export.

    Args:
        precision: Some of fp32, fp16 and int8; None: fp32, and fp16 if the target has an engine.
        max_drop: Percentage points of accuracy (without labels: of agreement) that int8 may lose.
        simplify: Run onnx-simplifier, and keep its result if the outputs are the same.
        dynamic_batch: Smallest, best and largest batch; None: a static batch of 1.
        input_shape: Name, shape and dtype of each input, in the order of ``forward`` unless named like its parameters;
            batch sizes are ignored; None: the inputs that the network declares.
        output_names: Names in the order of the outputs; None: those that the network declares.
        bake_preprocess: Layout and channel order such as ``nhwc,bgr``: the file takes uint8 images; None: it takes
            normalised floats.
        mean: Mean of each channel for baking; None: the mean of the data set that the network was trained on.
        std: Standard deviation of each channel, likewise.
        tf32: Allow float32 layers of an engine to round to TF32.
        workspace_bytes: Memory limit of the engine's builder; None: its own default.
        timing_cache: File that the builder reads if it exists, and writes.
        dla: DLA core, if the target has one.
        collapse: Collapse parallel and chained linear operators of an ONNX file into single convolutions.
        timeout_s: Seconds that ONNX Runtime may take to load and run a model.
        border: "refuse" a region that is not a convolution at the border, or write a constant "map" beside it.
    """

    precision: str | Sequence[str] | None = None
    max_drop: float = 0.5
    simplify: bool = True
    dynamic_batch: tuple[int, int, int] | None = None
    input_shape: TensorSpec | Sequence[TensorSpec] | None = None
    output_names: Sequence[str] | None = None
    bake_preprocess: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    tf32: bool = False
    workspace_bytes: int | None = None
    timing_cache: str | None = None
    dla: int | None = None
    collapse: bool = True
    border: Literal["refuse", "map"] = "refuse"
    timeout_s: float = TIMEOUT_S

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs of `input_shape` as a sequence."""
        asked = self.input_shape
        return [asked] if isinstance(asked, TensorSpec) else list(asked or ())

    def preprocessing(self, origin: Origin) -> Preprocessing | None:
        """Return the preprocessing to bake in, or None."""
        if self.bake_preprocess is None:
            return None
        inputs = origin.specs
        if len(inputs) != 1 or inputs[0].dtype != "float32" or len(inputs[0].shape) != 4:
            texts = ", ".join(map(str, inputs))
            raise InputError(f"expected a network of one float32 image, got {texts}", where="--bake-preprocess")
        mean, std = self.mean, self.std
        if (mean is None) != (std is None):
            raise InputError("--mean and --std go together", where="--bake-preprocess")
        if mean is None or std is None:
            from irepdeploy.data import dataset_facts

            data = dataset_facts(origin.dataset)
            if data is None:
                raise InputError(
                    "the normalisation of the images is unknown",
                    where="--bake-preprocess",
                    hint="add --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, the values used in training",
                )
            mean, std = data.mean, data.std
        return Preprocessing.parse(self.bake_preprocess, mean, std)
