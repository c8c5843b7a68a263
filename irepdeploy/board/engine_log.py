"""Read a builder's log: the layers that an engine executes, and its memory.

An engine can be inspected only where it can be loaded; the builder's verbose log lists the same layers without a GPU.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Iterable, List, Match, Optional

from irepdeploy.board.trt_library import LogMessage

__all__ = ["EngineLayers", "dla_placement", "engine_layers"]

# Detailed verbosity, as set by our builder: "Name: conv + relu, LayerType: CaskConvolution, Inputs: [ { Name: x, ..."
_DETAILED = re.compile(r"^(?:Layers:\s*)?Name: (?P<name>.*?), LayerType: (?P<type>[^,]+),(?P<rest>.*)", re.MULTILINE)
# Names only: "Layer(CaskConvolution): conv + relu, Tactic: 0x..., input[Float(1,3,32,32)] -> ..."
_CLASSIC = re.compile(r"^Layer\((?P<type>\w+)\): (?P<name>.*?), Tactic:(?P<rest>.*)", re.MULTILINE)
# The data type of the first tensor, which is the layer's input. With detailed verbosity it is separate from TensorRT 10
# on ("Datatype: Half, Format: ...") and part of the layout before ("Format/Datatype: Channel major FP16 format where
# channel % 8 == 0 }"). With names only it precedes the sizes ("x[Half(1,3,8,8)]", from 8.6 on "x (Half[1,3,8,8])").
_TENSOR = re.compile(r"Datatype: ([^{}]*)|[\[(](\w+)[\[(]-?\d")
_TYPES = {
    "fp32": "Float",
    "float": "Float",
    "fp16": "Half",
    "half": "Half",
    "bf16": "BFloat16",
    "bfloat16": "BFloat16",
    "int8": "Int8",
    "fp8": "FP8",
}
_TYPE = re.compile(rf"\b({'|'.join(_TYPES)})\b", re.IGNORECASE)
_MEMORY = {
    "weights_bytes": re.compile(r"Total Weights Memory: (\d+)"),
    "activation_bytes": re.compile(r"Total Activation Memory: (\d+)"),
    "scratch_bytes": re.compile(r"Max Scratch Memory: (\d+)"),
}


@dataclass(frozen=True)
class EngineLayers:
    """The layers and memory of an engine, according to its build log. A value that was not logged is None.

    Attributes:
        convolutions: Number of executed convolutions; None if the log contains no list of layers.
        convolution_inputs: Number of convolutions by input type: Float, Half, Int8, or "unknown".
        layers: Number of layers by the builder's name for their kind.
        weights_bytes: Device memory of the weights.
        activation_bytes: Device memory of the activations.
        scratch_bytes: Largest scratch memory.
    """

    convolutions: Optional[int] = None
    convolution_inputs: Dict[str, int] = field(default_factory=dict)
    layers: Dict[str, int] = field(default_factory=dict)
    weights_bytes: Optional[int] = None
    activation_bytes: Optional[int] = None
    scratch_bytes: Optional[int] = None

    def to_dict(self) -> Dict[str, Any]:
        """Return the known values as a JSON object for a certificate."""
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}


def engine_layers(messages: Iterable[LogMessage]) -> EngineLayers:
    """Count the layers in the last list that a builder with detailed profiling verbosity logs."""
    found: List[Match[str]] = []
    memory: Dict[str, int] = {}
    for _, text in messages:
        if "LayerType: " in text or "Layer(" in text:
            listed = [*_DETAILED.finditer(text), *_CLASSIC.finditer(text)]
            # Of several lists, the last one describes the engine. A list with one message per layer is accumulated.
            found = listed if len(listed) > 1 else [*found, *listed]
        for name, pattern in _MEMORY.items():
            match = pattern.search(text)
            if match:
                memory[name] = int(match[1])
    reads: Dict[str, int] = Counter()
    for layer in found:
        count = _convolutions(layer["name"], layer["type"])
        if count:
            reads[_input_type(layer["rest"])] += count
    return EngineLayers(
        convolutions=sum(reads.values()) if found else None,
        convolution_inputs=dict(sorted(reads.items())),
        layers=dict(sorted(Counter(layer["type"] for layer in found).items())),
        **memory,
    )


def dla_placement(messages: Iterable[LogMessage]) -> Dict[str, int]:
    """Count the subgraphs placed on the DLA and the layers that fell back to the GPU."""
    texts = [text for _, text in messages]
    return {
        "dla_subgraphs": sum(text.count("[DlaLayer]") for text in texts),
        "gpu_layers": sum(text.count("[GpuLayer]") for text in texts),
    }


def _input_type(tensors: str) -> str:
    tensor = _TENSOR.search(tensors)
    found = None if tensor is None else _TYPE.search(tensor[1] or tensor[2])
    return "unknown" if found is None else _TYPES[found[1].lower()]


def _convolutions(name: str, kind: str) -> int:
    if name.startswith("__myl_"):
        # A fused kernel is named after its operators: __myl_CorrMulAddRelu_myl0_5.
        return name.count("Corr") or int(kind == "correlation")
    return int(kind == "correlation" or "convolution" in kind.lower())
