"""What an export is asked for beside network, target and inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError
from irepdeploy.reparam.origin import Origin

from .preprocess import Preprocessing

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Options of an export.

    Args:
        precision: some of fp32, fp16 and int8; None: fp32, and fp16 where an engine is asked for.
        max_drop: percentage points of accuracy (without labels: of agreement) that int8 may lose.
        simplify: run onnx-simplifier, and take its result if it gives the same outputs.
        dynamic_batch: least, best and largest batch; None: the batch is 1.
        input_shape: name, shape and dtype of each input, in the order of ``forward`` where their names are not those of
            its parameters; their batches are not looked at; None: what the network knows.
        output_names: in the order of the outputs; None: those that the network knows.
        bake_preprocess: ``nhwc,bgr`` and the like: the file takes uint8 images; None: it takes normalised floats.
        mean: of each channel, for baking; None: that of the data set that the network was trained on.
        std: the same.
        tf32: let float32 layers of an engine round to TF32.
        workspace_bytes: that the builder of an engine may use; None: its own default.
        timing_cache: a file that the builder reads if it is there, and writes.
        dla: core of the DLA, where the target has one.
        collapse: of an ONNX file: make single convolutions of its parallel and chained linear operators.
        border: there: "refuse" a region that is no convolution at the border, or write a constant "map" beside it.
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

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """`input_shape` as one for each input."""
        asked = self.input_shape
        return [asked] if isinstance(asked, TensorSpec) else list(asked or ())

    def preprocessing(self, origin: Origin) -> Preprocessing | None:
        """What is to be baked in, if anything.

        Raises:
            InputError: the network reads something else than one image, nobody says how images are normalised, or an
                unknown layout.
        """
        if self.bake_preprocess is None:
            return None
        inputs = origin.specs
        if len(inputs) != 1 or inputs[0].dtype != "float32" or len(inputs[0].shape) != 4:
            texts = ", ".join(map(str, inputs))
            raise InputError(f"it needs a network of one float32 image, not of {texts}", where="--bake-preprocess")
        mean, std = self.mean, self.std
        if (mean is None) != (std is None):
            raise InputError("--mean and --std go together", where="--bake-preprocess")
        if mean is None or std is None:
            from irepdeploy.data import dataset_facts

            data = dataset_facts(origin.dataset)
            if data is None:
                raise InputError(
                    "nothing says how the images were normalised",
                    where="--bake-preprocess",
                    hint="add --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, as in your training",
                )
            mean, std = data.mean, data.std
        return Preprocessing.parse(self.bake_preprocess, mean, std)
