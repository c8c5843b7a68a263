"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "InputShapeOption", "InputsOption", "JsonOption", "ModelOption", "NumberedOutOption", "OutOption", "SeedOption",
    "SourceArgument", "TimeoutOption",
]  # fmt: skip

InputShapeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        metavar="[NAME:]1x3x224x224[:DTYPE]",
        help="Shape of an input, with ? for a dynamic size; repeat it for each input. [as declared]",
    ),
]
InputsOption = Annotated[
    Path | None,
    typer.Option(
        "--inputs",
        help="Inputs to use instead of the built-in ones: a .npy file (N, ...), a .npz file with several named inputs, "
        "or a folder of such files, of images, or of class folders.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="PACKAGE.MODULE:FACTORY",
        help="Function that builds the network of a checkpoint or state dict, if the network is your own.",
    ),
]
NumberedOutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Folder for the results. [a new one: runs/NAME, runs/NAME-2, ...]"),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; created if needed.")]
TimeoutOption = Annotated[
    float,
    typer.Option("--timeout", metavar="SECONDS", help="Maximum time for ONNX Runtime to load and run a model."),
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, max=(1 << 32) - 1, help="Seed of all random numbers.")]
SourceArgument = Annotated[
    str,
    typer.Argument(
        help="A checkpoint; an ONNX file; a torch.export program (.pt2); with --model a state dict (.pt, .pth, "
        ".safetensors); a network of irepdeploy by name (random weights); or timm/NAME, torchvision/NAME or "
        "hf-hub:OWNER/NAME (pretrained; append :random for random weights)."
    ),
]
