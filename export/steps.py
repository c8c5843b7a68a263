"""Steps that follow a verified fp32 ONNX file: lower precisions, built-in preprocessing, engines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from irepdeploy.data import dataset_facts
from irepdeploy.detect.detector import Detector
from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.proto import name_nodes
from irepdeploy.onnx_graph.written import fits_one_file, write_model

from .detections import detector_facts
from .detector_calibration import detector_calibration
from .engine.engines import engines_for
from .job import Form, Job
from .precision.calibration import CalibrationData, calibration_data
from .precision.labelled_folders import Classifier
from .precision.precisions import carried_by_fp32, tolerance_of_precision, write_fp16, write_int8
from .prepared import Prepared
from .request.preprocess import Preprocessing, with_preprocessing

__all__ = ["add_engines", "add_precision", "bake_preprocessing"]


# These choose by comparing scores, so rounding may change which one is the largest.
_ORDERING = frozenset(["ArgMax", "ArgMin", "NonMaxSuppression", "TopK"])
_ORDERED = (
    "it chooses by comparing scores (TopK or ArgMax), and rounding changes the order of nearly equal ones: "
    "export the scores, or check on real images with --inputs"
)


def add_precision(job: Job, prepared: Prepared, precision: str) -> Prepared:
    """Write the model in another precision, audit it, and compare it with fp32."""
    fp32 = prepared.onnx
    if precision == job.source.carried:
        return prepared.with_model(precision, fp32)
    model = open_model(fp32)
    if not fits_one_file(model):
        raise ModelError(
            f"{precision} is written from a model in one piece, which cannot exceed 2 GiB",
            where=job.source.label,
            hint="--precision fp32",
        )
    name_nodes(model)
    path = fp32 if carried_by_fp32(job.target, precision) else fp32.with_name(f"model.{precision}.onnx")
    kept: frozenset[str] = frozenset()
    data: CalibrationData | None = None
    if precision == "fp16":
        found = write_fp16(model, job.inputs, None if path == fp32 else path, external=prepared.asked.external)
    else:
        origin = job.source.origin
        network = getattr(job.source, "model", None)
        if isinstance(network, Detector):
            facts = detector_facts(network, origin, job.settings.detection_rule)
            given, annotations = job.request.inputs, job.settings.annotations
            data = detector_calibration(network, facts, origin, given, annotations)
        else:
            data = calibration_data(
                job.source.signature,
                given=job.request.inputs,
                dataset=origin.dataset,
                classifier=_classifier(job, prepared),
                max_drop=job.settings.max_drop,
            )
        limits: dict[str, Any] = {"target": job.target, "max_drop": job.settings.max_drop}
        found, kept = write_int8(model, data, path, **limits, external=prepared.asked.external)
    job.certificate.precisions[precision] = found
    if path != fp32:
        asked = dataclasses.replace(prepared.asked, precision=precision, kept=kept)
        found["onnx"] = job.audit(path, prepared.specs, asked)
        before, inputs, described = prepared.outputs, job.inputs, None
        if data is not None:
            # Ranges come from the calibration inputs, and random inputs may be far outside them.
            inputs, described = data.evaluation.array, [data.evaluation.to_dict()]
            before = job.run(fp32, inputs)
        job.gate(
            Form(fp32.name, before),
            Form(path.name, job.run(path, inputs)),
            tolerance=tolerance_of_precision(precision),
            inputs=described,
            locate=job.layer_search(model, path, prepared.specs),
            hint=_ORDERED if any(node.op_type in _ORDERING for node in model.graph.node) else None,
        )
    return prepared.with_model(precision, path)


def _classifier(job: Job, prepared: Prepared) -> Classifier | None:
    """Return the float32 network as a classifier, if it has an output (N, scores)."""
    scores = next((output.shape[1] for output in prepared.outputs.values() if output.ndim == 2), None)
    if scores is None:
        return None
    facts = dataset_facts(job.source.origin.dataset)
    classes = job.source.origin.classes or (() if facts is None else facts.classes)
    return Classifier(classes, scores, lambda inputs: job.run(prepared.onnx, inputs))


def bake_preprocessing(job: Job, prepared: Prepared, preprocessing: Preprocessing) -> Prepared:
    """Make every file take uint8 images, and compare it with its previous form on the same images, normalized."""
    channels, height, width = job.source.origin.input_shape
    size = (height, width, channels) if preprocessing.layout == "nhwc" else (channels, height, width)
    images = np.random.default_rng(0).integers(0, 256, (8, *size), dtype=np.uint8)
    described = [{"name": "random uint8 images", "count": len(images), "shape": list(size), "seed": 0}]
    specs = [spec._replace(shape=(spec.shape[0], *size), dtype="uint8") for spec in prepared.specs]
    for precision, path in prepared.models.items():
        if path == prepared.onnx and precision != "fp32":
            continue
        before = Form(f"normalize, then {path.name}", job.run(path, preprocessing(images)))
        baked = with_preprocessing(open_model(path), preprocessing)
        write_model(baked, path, external=prepared.asked.external)
        kept = frozenset(job.certificate.precisions.get(precision, {}).get("kept_float", ()))
        facts = job.audit(path, specs, dataclasses.replace(prepared.asked, precision=precision, kept=kept))
        job.gate(
            before,
            Form(f"{path.name}, uint8", job.run(path, images)),
            tolerance=tolerance_of_precision(precision),
            inputs=described,
        )
        if precision == "fp32":
            job.certificate.onnx.update(facts)
        else:
            job.certificate.precisions[precision]["onnx"] = facts
    job.certificate.onnx["preprocessing"] = preprocessing.to_dict()
    return dataclasses.replace(prepared, specs=specs)


def add_engines(job: Job, prepared: Prepared, precisions: Sequence[str]) -> Prepared:
    """Build the engines of the target."""
    models = {name: prepared.models[name] for name in precisions}
    job.certificate.engine, engines = engines_for(
        job.target, models, job.folder, prepared.specs, job.source.label, job.settings, job.report
    )
    return dataclasses.replace(prepared, files=(*prepared.files, *engines))
