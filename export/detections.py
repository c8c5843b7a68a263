"""Export step that makes the files of a detector return detections instead of raw heads."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn

from irepdeploy.board.runner import TensorSpec
from irepdeploy.data import dataset_facts
from irepdeploy.detect.decoding import DETECTION_NAMES, ROUNDS, Candidates, Decoding, DetectionRule
from irepdeploy.detect.detector import Detector
from irepdeploy.detect.facts import DETECTIONS_KEY, DetectorFacts, facts_path
from irepdeploy.errors import InputError
from irepdeploy.files import write_json
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.proto import name_nodes, opset_of
from irepdeploy.onnx_graph.written import write_model
from irepdeploy.reparam.origin import Origin
from irepdeploy.verify.input_files import normalization

from .exportable import Exportable
from .job import Form, Job
from .prepared import Prepared
from .request.preprocess import Preprocessing
from .request.settings import Settings
from .writer.efficient_nms import with_efficient_nms
from .writer.joined import joined_models
from .writer.torch_exporter import write_onnx

__all__ = ["add_detections", "check_detections", "detector_facts"]

_PREFIX = "detections"
_CANDIDATES = ("candidate_boxes", "candidate_scores")


def check_detections(
    source: Exportable, settings: Settings, precisions: Sequence[str], *, given: bool
) -> Detector | None:
    """Return the detector to export, or None for another network; `given` tells whether the user gave inputs.

    Raises:
        InputError: The settings ask for detections, but the network is no detector or another setting excludes them.
    """
    model = getattr(source, "model", None)
    rule = settings.detection_rule
    if settings.annotations is not None and not (isinstance(model, Detector) and "int8" in precisions and given):
        hint = "add --precision fp32,int8 --inputs DIR" if isinstance(model, Detector) else "omit it"
        raise InputError("only used for int8 of a detector with --inputs", where="--annotations", hint=hint)
    if isinstance(model, Detector):
        if rule.mode != "raw" and settings.output_names is not None:
            hint = f"omit it: they are {', '.join(DETECTION_NAMES)}"
            raise InputError(f"--output-names with --detections {rule.mode}", where=source.label, hint=hint)
        if rule.mode == "plugin" and settings.bake_preprocess is not None:
            hint = "topk and nms take it"
            raise InputError("--bake-preprocess with --detections plugin", where=source.label, hint=hint)
        return model
    if rule.mode != "raw":
        kind = "an ONNX file" if model is None else f"a {type(model).__name__}"
        hint = "give the checkpoint of a detector, such as best.pt of `irepdeploy train shapes_centernet`"
        raise InputError(f"expected a detector, got {kind}", where=f"--detections {rule.mode}", hint=hint)
    return None


def add_detections(job: Job, prepared: Prepared, detector: Detector, preprocessing: Preprocessing | None) -> Prepared:
    """Append the decoding of the heads to every file, in float32, and compare it with torch's on the same heads.

    A description of inputs and outputs is written next to the files.
    """
    rule = job.settings.detection_rule
    baked = {} if preprocessing is None else preprocessing.to_dict()
    facts = detector_facts(detector, job.source.origin, rule, baked)
    described = facts_path(prepared.onnx)
    if rule.mode != "raw":
        prepared = _decoded(job, prepared, detector, facts)
    job.certificate.onnx["detections"] = facts.to_dict()
    write_json(described, facts.to_dict())
    return dataclasses.replace(prepared, files=(*prepared.files, described))


def detector_facts(
    detector: Detector, origin: Origin, rule: DetectionRule, baked: Mapping[str, Any] | None = None
) -> DetectorFacts:
    """Return a description of the inputs and outputs of a detector, according to the origin of its weights."""
    mean, std = normalization(origin.dataset)
    data = dataset_facts(origin.dataset)
    classes = origin.classes or (() if data is None else data.classes)
    return DetectorFacts.of(detector, origin.input_shape, classes, mean, std, rule, baked)


def _decoded(job: Job, prepared: Prepared, detector: Detector, facts: DetectorFacts) -> Prepared:
    rule = job.settings.detection_rule
    heads = list(job.source.origin.output_names)
    decoding: onnx.ModelProto | None = None
    for precision, path in prepared.models.items():
        if path == prepared.onnx and precision != "fp32":
            continue
        model = open_model(path)
        if decoding is None or opset_of(decoding) != opset_of(model):
            own = Decoding(detector, rule, rounds=ROUNDS)
            decoding = _written(job, own, _specs(model, heads), DETECTION_NAMES, opset_of(model))
        if rule.mode == "plugin":
            prepared = _with_plugin(job, prepared, detector, facts, model, path)
        # As many rounds of suppression as needed, not the number fixed in the file.
        merged = _appended(job, model, decoding, Decoding(detector, rule), DETECTION_NAMES, path)
        merged.metadata_props.add(key=DETECTIONS_KEY, value=json.dumps(facts.to_dict()))
        write_model(merged, path, external=prepared.asked.external)
        kept = frozenset(job.certificate.precisions.get(precision, {}).get("kept_float", ()))
        asked = dataclasses.replace(prepared.asked, precision=precision, kept=kept)
        audited = job.audit(path, prepared.specs, asked, outputs=DETECTION_NAMES)
        if precision == "fp32":
            job.certificate.onnx.update(audited)
            prepared = dataclasses.replace(prepared, outputs=job.run(path))
        else:
            job.certificate.precisions[precision]["onnx"] = audited
    return prepared


def _appended(
    job: Job, model: onnx.ModelProto, added: onnx.ModelProto, in_torch: nn.Module, names: Sequence[str], path: Path
) -> onnx.ModelProto:
    """Return a model with the decoded heads as outputs, compared with torch on the heads of the same run.

    Heads of another run differ in the last bits, which decides among nearly equal scores which box suppresses others.
    """
    heads = list(job.source.origin.output_names)
    merged, inside = joined_models(model, added, heads, _PREFIX)
    shown = onnx.ModelProto()
    shown.CopyFrom(merged)
    shown.graph.output.extend(inside)
    outputs = job.run(job.runnable(shown))
    with torch.inference_mode():
        found: Any = in_torch(*(torch.from_numpy(outputs.pop(value.name)) for value in inside))
    reference = {name: tensor.numpy() for name, tensor in zip(names, found, strict=True)}
    what = "candidates" if names == _CANDIDATES else "detections"
    job.gate(Form(f"heads of {path.name} in torch", reference), Form(f"{path.name}, {what}", outputs))
    return merged


def _with_plugin(
    job: Job, prepared: Prepared, detector: Detector, facts: DetectorFacts, model: onnx.ModelProto, path: Path
) -> Prepared:
    """Write a second file with EfficientNMS_TRT. The candidates are compared; the plugin itself is not run."""
    rule, heads = facts.rule, list(job.source.origin.output_names)
    specs = _specs(model, heads)
    candidates = _written(job, Candidates(detector), specs, _CANDIDATES, opset_of(model))
    joined = _appended(job, model, candidates, Candidates(detector), _CANDIDATES, path)
    plugin = path.with_name(f"{path.stem}.plugin.onnx")
    merged = with_efficient_nms(joined, rule)
    merged.metadata_props.add(key=DETECTIONS_KEY, value=json.dumps(facts.to_dict()))
    files = write_model(merged, plugin, external=prepared.asked.external)
    job.certificate.onnx.setdefault("plugin", {})[plugin.name] = "not run: EfficientNMS_TRT exists in TensorRT alone"
    return dataclasses.replace(prepared, files=(*prepared.files, *files))


def _specs(model: onnx.ModelProto, heads: Sequence[str]) -> list[TensorSpec]:
    """Return the heads as inputs of the decoding, in the order of the detector, under names that it does not use."""
    found = {}
    for value in model.graph.output:
        sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in value.type.tensor_type.shape.dim]
        found[value.name] = TensorSpec(f"head.{value.name}", tuple(sizes))
    return [found[name] for name in heads]


def _written(
    job: Job, decoding: nn.Module, specs: Sequence[TensorSpec], names: Sequence[str], opset: int
) -> onnx.ModelProto:
    target = dataclasses.replace(job.target, opset=opset)
    written = write_onnx(decoding.eval(), specs, names, target=target)
    name_nodes(written.model)
    return written.model
