from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.data.coco_files import write_objects
from irepdeploy.data.shapes import shapes
from irepdeploy.detect.boxes import ious
from irepdeploy.detect.decoding import DETECTION_NAMES, ROUNDS, Candidates, Decoding, DetectionRule
from irepdeploy.detect.facts import DETECTIONS_KEY, DetectorFacts
from irepdeploy.errors import InputError, ModelError
from irepdeploy.export.detections import detector_facts
from irepdeploy.export.detector_calibration import detector_calibration
from irepdeploy.export.pipeline import export_model
from irepdeploy.export.precision.fp16 import FLOAT32_KEY, half_graph, kept_float
from irepdeploy.export.precision.int8_report import loss_between
from irepdeploy.export.target.target import TARGETS
from irepdeploy.export.writer.joined import joined_models
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch
from irepdeploy.export.writer.torch_exporter import write_onnx
from irepdeploy.inference.detect import detections_of, read_picture
from irepdeploy.inference.opened import open_detector
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.origin import origin_of, set_origin
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.equivalence import verify_models

FAST: dict[str, Any] = {"simplify": False, "collapse": False}


def detector(name: str = "centernet_vgg6", **args: Any) -> Any:
    torch.manual_seed(0)
    return randomize_statistics(build_plain(name, **args)).eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Certificate]:
    """A detector with NMS and a plugin in two precisions, for a board that takes opset 13."""
    net, folder = detector(input_shape=(1, 32, 32)), tmp_path_factory.mktemp("detections")
    settings = {"detections": "plugin", "iou": 0.3, "max_detections": 20, "precision": "fp32,fp16", **FAST}
    return net, folder, export_model(net, folder, **settings)


def heads_of(net: Any, images: int = 2, size: int = 64) -> tuple[torch.Tensor, ...]:
    with torch.inference_mode():
        first, second, third = net(torch.randn(images, 1, size, size, generator=torch.Generator().manual_seed(1)))
    # The boxes of an untrained CenterNet are too small to overlap.
    return first, second + 5 if second.ndim == 4 and second.shape[1] == 2 else second, third


def greedy(boxes: torch.Tensor, scores: torch.Tensor, classes: torch.Tensor, iou: float) -> list[int]:
    kept: list[int] = []
    for row in scores.argsort(descending=True, stable=True).tolist():
        rivals = [other for other in kept if classes[other] == classes[row]]
        if not rivals or float(ious(boxes[None, row], boxes[rivals]).max()) <= iou:
            kept.append(row)
    return kept


def test_every_file_is_proved_to_decode_as_torch_does(exported: tuple[Any, Path, Certificate]) -> None:
    _, _, certificate = exported
    hops = {hop.result: hop.comparison for hop in certificate.hops}
    for name in ("model.onnx, candidates", "model.onnx, detections", "model.fp16.onnx, detections"):
        assert hops[name]["ok"] and hops[name]["max_rel_error"] < 1e-5
    names = {artefact.file for artefact in certificate.artefacts}
    assert {"model.onnx", "model.fp16.onnx", "model.plugin.onnx", "fused.pt", "model.detections.json"} <= names
    assert certificate.onnx["plugin"]["model.plugin.onnx"].startswith("not run: EfficientNMS_TRT exists in TensorRT")
    assert [value["name"] for value in certificate.onnx["outputs"]] == list(DETECTION_NAMES)
    assert [value["shape"] for value in certificate.onnx["outputs"]] == [[1, 1], [1, 20, 4], [1, 20], [1, 20]]


def test_half_precision_decodes_in_float32(exported: tuple[Any, Path, Certificate]) -> None:
    graph = onnx.load(exported[1] / "model.fp16.onnx").graph
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT16}
    decoding = [node for node in graph.node if node.name.startswith("detections.")]
    assert halves and len(decoding) > 50 and not any(halves & set(node.input) for node in decoding)


def test_the_plugin_has_the_attributes_of_its_documentation(exported: tuple[Any, Path, Certificate]) -> None:
    model = onnx.load(exported[1] / "model.plugin.onnx")
    node = model.graph.node[-1]
    assert (node.op_type, node.domain, list(node.output)) == ("EfficientNMS_TRT", "TRT", list(DETECTION_NAMES))
    found = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    assert found.pop("iou_threshold") == pytest.approx(0.3)
    whole = {"background_class": -1, "score_activation": 0, "class_agnostic": 0, "box_coding": 0}
    assert found == {"plugin_version": b"1", "score_threshold": 0.0, "max_output_boxes": 20, **whole}


def test_the_description_reads_back(exported: tuple[Any, Path, Certificate]) -> None:
    net, folder, _ = exported
    value = json.loads((folder / "model.detections.json").read_text())
    facts = DetectorFacts.from_dict(value)
    assert facts.to_dict() == value and facts.rule == DetectionRule("plugin", 0.0, 0.3, 20)
    assert facts.input_shape == (1, 32, 32) and facts.stride == net.stride and facts.resizing.rule == "fit"
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    assert json.loads(metadata[DETECTIONS_KEY]) == value
    for broken in ({}, {**value, "version": 2}, {**value, "input": {}}, {**value, "rule": {"mode": "x"}}, []):
        with pytest.raises(InputError):
            DetectorFacts.from_dict(broken)


def test_verify_decodes_the_checkpoint_as_the_file_does(exported: tuple[Any, Path, Certificate]) -> None:
    net, folder, _ = exported
    result = verify_models(folder / "fused.pt", folder / "model.onnx")
    assert result.ok and {output.top1_note for output in result.comparison.outputs} == {"compared as sets"}
    with torch.no_grad():
        net.bbox_head.wh_head[2].bias += 0.5
    assert not verify_models(net, folder / "model.onnx").ok
    net.bbox_head.wh_head[2].bias.data -= 0.5


@pytest.mark.parametrize("name", ["centernet_vgg6", "faster_rcnn_vgg6_fpn"])
@pytest.mark.parametrize("mode", ["topk", "nms"])
@pytest.mark.parametrize("target", ["ort", "xavier-jp5", "trt-10"])
def test_decoding_is_written_for_every_target(name: str, mode: str, target: str) -> None:
    net = detector(name)
    net.rounds = ROUNDS
    heads = heads_of(net)
    rule = DetectionRule(mode, score=0.09)
    specs = [TensorSpec(f"head.{name}", tuple(head.shape)) for name, head in zip(net.head_names, heads, strict=True)]
    written = write_onnx(Decoding(net, rule, rounds=ROUNDS).eval(), specs, DETECTION_NAMES, target=TARGETS[target])
    operators = TARGETS[target].operators
    assert written.writer == "irepdeploy" and written.opset == 13
    assert operators is None or {node.op_type for node in written.model.graph.node} <= operators
    with OrtRunner(written.model.SerializeToString()) as runner:
        found = runner.infer({spec.name: head.numpy() for spec, head in zip(specs, heads, strict=True)})
    for array, tensor in zip(found.values(), Decoding(net, rule)(*heads), strict=True):
        assert np.abs(array - tensor.numpy()).max() < 1e-5


def test_suppression_is_that_of_a_greedy_loop_and_topk_has_none() -> None:
    net = detector()
    heads = heads_of(net)
    count, boxes, scores, classes = Decoding(net, DetectionRule("topk", max_detections=80))(*heads)
    assert count.flatten().tolist() == [80, 80]
    number, left, *_ = Decoding(net, DetectionRule("nms", iou=0.2, max_detections=80))(*heads)
    for image in range(2):
        kept = greedy(boxes[image], scores[image], classes[image], 0.2)
        assert 0 < len(kept) == int(number[image]) < 80
        assert torch.equal(left[image, : len(kept)], boxes[image, kept])
    assert net.max_detections == 100 and net.score_threshold == 0.0


@pytest.mark.parametrize("name", ["centernet_vgg6", "faster_rcnn_vgg6_fpn"])
def test_greedy_suppression_of_the_candidates_gives_the_detections(name: str) -> None:
    net = detector(name)
    heads = heads_of(net, 1)
    boxes, scores = Candidates(net)(*heads)
    classes = scores.shape[2]
    every = boxes[0] if boxes.ndim == 4 else boxes[0][:, None].expand(-1, classes, -1)
    flat, labels = scores[0].reshape(-1), torch.arange(classes).repeat(scores.shape[1])
    best = flat.argsort(descending=True)[:300]
    # CenterNet suppresses among its 100 best peaks only.
    best = best[:100] if name == "centernet_vgg6" else best[flat[best] > net.score_threshold]
    kept = best[greedy(every.reshape(-1, 4)[best], flat[best], labels[best], 0.5)]
    number, _, found, _ = Decoding(net, DetectionRule("nms", iou=0.5))(*heads)
    assert int(number) > 10
    same = min(int(number), len(kept), 40)
    assert torch.allclose(found[0, :same], flat[kept][:same], atol=1e-6)


def test_nothing_above_the_threshold_is_nothing() -> None:
    net = detector()
    for mode in ("topk", "nms"):
        outputs = Decoding(net, DetectionRule(mode, score=1.0))(*heads_of(net))
        assert not any(output.any() for output in outputs)


def test_joined_models_keep_their_names_apart() -> None:
    first = onnx_from_torch(
        torch.nn.Conv2d(1, 2, 3).eval(), [TensorSpec("x", (1, 1, 5, 5))], ["boxes"], opset=13, ir_version=8
    )
    second = onnx_from_torch(
        torch.nn.Conv2d(2, 1, 3).eval(), [TensorSpec("head", (1, 2, 3, 3))], ["boxes"], opset=13, ir_version=8
    )
    joined, inside = joined_models(first, second, ["boxes"], "detections")
    onnx.checker.check_model(joined, full_check=True)
    x = np.random.default_rng(0).normal(size=(1, 1, 5, 5)).astype(np.float32)
    outputs = []
    for feed, model in (("x", first), ("head", second), ("x", joined)):
        with OrtRunner(model.SerializeToString()) as runner:
            outputs.append(runner.infer({feed: outputs[0] if feed == "head" else x})["boxes"])
    assert np.array_equal(outputs[1], outputs[2]) and [value.name for value in inside] == ["heads.boxes"]
    with pytest.raises(ModelError, match="expected 1 tensors in one opset, got nothing"):
        joined_models(first, second, ["nothing"], "detections")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"detections": "best"}, "detections: expected 'raw', 'topk', 'nms' or 'plugin', got 'best'"),
        ({"detections": "topk", "iou": 0.5}, "iou: iou has no effect with topk"),
        ({"score": 0.5}, "detections: score, iou and max_detections have no effect on raw heads"),
        ({"detections": "nms", "score": 2.0}, "score: expected a number from 0 to 1, got 2.0"),
        ({"detections": "nms", "max_detections": 0}, "max_detections: expected an integer from 1 to 3839, got 0"),
        ({"detections": "nms", "output_names": ("a", "b", "c")}, "--output-names with --detections nms"),
        (
            {"detections": "plugin", "bake_preprocess": "nhwc,rgb", "mean": (0.5,), "std": (0.2,)},
            "--bake-preprocess with",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path: Path, settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=line) as raised:
        export_model(detector(), tmp_path / "out", **settings)
    assert "\n" not in raised.value.line and not (tmp_path / "out").exists()


def test_a_classifier_gives_no_detections(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--detections nms: expected a detector, got a VGG"):
        export_model(randomize_statistics(build_plain("vgg6")).eval(), tmp_path / "out", detections="nms")


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "batch"), [("raw", None), ("nms", (1, 2, 4)), ("plugin", None)])
def test_faster_rcnn_is_exported_in_every_way(tmp_path: Path, mode: str, batch: tuple[int, int, int] | None) -> None:
    settings = {"detections": mode, "precision": "fp32,fp16", "dynamic_batch": batch}
    certificate = export_model("faster_rcnn_vgg6_fpn", tmp_path, **settings)
    assert all(hop.ok for hop in certificate.hops)
    assert verify_models(tmp_path / "fused.pt", tmp_path / "model.onnx").ok


def test_deformable_convolutions_become_operators_that_boards_have() -> None:
    sizes = {"input_shape": (3, 64, 64), "depths": (1, 1, 1, 1), "width": 8, "neck": (8, 8, 8), "head": 8}
    net, target = detector("centernet_dcn_resnet18", **sizes), TARGETS["xavier-jp5"]
    written = write_onnx(net, [TensorSpec("input", (1, 3, 64, 64))], net.head_names, target=target)
    operators = {node.op_type for node in written.model.graph.node}
    # DeformConv is unknown to TensorRT before 10.
    assert written.opset == 16 and "GridSample" in operators and operators <= (target.operators or frozenset())


def test_boxes_inside_a_detector_stay_float32() -> None:
    nodes = [
        onnx.helper.make_node("Conv", ["x", "w"], ["features"], "backbone.conv"),
        onnx.helper.make_node("Mul", ["features", "side"], ["wide"], "proposals.mul"),
        onnx.helper.make_node("Mul", ["features", "side"], ["plain"], "proposalsof.mul"),
    ]
    sizes = {"x": [1, 1, 4, 4], "wide": [1, 1, 4, 4], "plain": [1, 1, 4, 4]}
    values = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size) for name, size in sizes.items()
    }
    weights = [
        onnx.numpy_helper.from_array(np.full(shape, 3, np.float32), name)
        for name, shape in (("w", (1, 1, 1, 1)), ("side", ()))
    ]
    graph = onnx.helper.make_graph(nodes, "g", [values["x"]], [values["wide"], values["plain"]], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)])
    assert kept_float(model) == {}
    model.metadata_props.add(key=FLOAT32_KEY, value="proposals,pool")
    assert kept_float(model) == {"proposals.mul": "Mul"}
    half = half_graph(model)
    onnx.checker.check_model(half, full_check=True)
    producers = {node.output[0]: node for node in half.graph.node}
    assert producers["wide"].op_type == "Mul" and producers["plain"].op_type == "Cast"


def test_int8_of_a_detector_is_measured_by_its_average_precision() -> None:
    net = detector()
    set_origin(net, replace(origin_of(net), dataset="shapes"))
    facts = detector_facts(net, origin_of(net), DetectionRule())
    with pytest.raises(InputError, match="its data set is not available"):
        detector_calibration(net, facts, replace(origin_of(net), dataset="coco"))
    data = detector_calibration(net, facts, origin_of(net))
    assert callable(data.labels) and data.evaluation.array.shape == (200, 1, 64, 64)
    heads = dict(zip(net.head_names, (np.zeros((200, 10, 16, 16)), *[np.zeros((200, 2, 16, 16))] * 2), strict=True))
    nothing = {name: array.astype(np.float32) for name, array in heads.items()}
    perfect = {name: array.copy() for name, array in nothing.items()}
    perfect["heatmap"] -= 20
    targets = shapes(train=128, val=200).val
    for index in range(200):
        _, target = targets[index]
        for box, label in zip(target.boxes / 4, target.labels, strict=True):
            middle = (box[:2] + box[2:]) / 2
            x, y = middle.long().tolist()
            perfect["heatmap"][index, int(label), y, x] = 5
            perfect["size"][index, :, y, x] = (box[2:] - box[:2]).numpy()
            perfect["offset"][index, :, y, x] = (middle - middle.long()).numpy()
    # Two objects of a class may have their centres in one cell.
    assert data.labels(nothing) < 5 and data.labels(perfect) > 97
    loss = loss_between(perfect, nothing, data.labels)
    assert loss.accuracy is not None and loss.drop == pytest.approx(loss.accuracy[0] - loss.accuracy[1])


def untold(size: tuple[int, int]) -> Any:
    """A detector of grey images, trained on data of which nothing but three classes is known."""
    net = detector(num_classes=3, input_shape=(1, *size))
    with torch.no_grad():
        # Boxes of 8 cells, some of which score 0.3 and more.
        net.bbox_head.wh_head[2].bias += 8
        net.bbox_head.heatmap_head[2].bias += 1.5
    return set_origin(net, replace(origin_of(net), dataset=None, classes=("cat", "0", "dog")))


def canvases(folder: Path, count: int, *, annotated: bool) -> Path:
    """Write canvases of 64 x 64; their categories are the digits and two animals."""
    data = shapes(train=2, val=count)
    path = write_objects(folder, data.val, data, range(count))
    content = json.loads(path.read_text())
    path.unlink()
    animals = [{"id": 77 + place, "name": name} for place, name in enumerate(("dog", "cat"))]
    content["categories"] = [*animals, *content["categories"]]
    target = path if annotated else folder.parent / "elsewhere.json"
    target.write_text(json.dumps(content))
    return target


@pytest.mark.parametrize("annotated", [True, False])
def test_int8_of_any_detector_is_measured_on_a_folder(tmp_path: Path, annotated: bool) -> None:
    net = untold((32, 48))
    path = canvases(tmp_path / "images", 20, annotated=annotated)
    content = json.loads(path.read_text())
    ids = {each["name"]: each["id"] for each in content["categories"]}
    with open_detector(net) as opened:
        # Its confident detections, under the names of the annotations.
        pairs = [
            (image["id"], detections_of(opened, read_picture(path.parent / image["file_name"]))[0].above(0.3))
            for image in content["images"]
            if annotated
        ]
    content["annotations"] = [
        {"image_id": number, "category_id": ids[("cat", "0", "dog")[entry["category_id"] - 1]], "bbox": entry["bbox"]}
        for number, found in pairs
        for entry in found.to_coco(number)
    ]
    path.write_text(json.dumps(content))
    origin, facts = origin_of(net), detector_facts(net, origin_of(net), DetectionRule())
    data = detector_calibration(net, facts, origin, tmp_path / "images")
    assert (data.calibration.count, data.evaluation.count) == (10, 10) and callable(data.labels)
    # 64 x 64 becomes 32 x 32, with zeros on the right.
    assert data.evaluation.array.shape == (10, 1, 32, 48) and not data.evaluation.array[..., 32:].any()
    assert not np.array_equal(data.calibration.array, data.evaluation.array)
    with torch.inference_mode():
        heads = net(torch.from_numpy(data.evaluation.array))
    outputs = {name: head.numpy() for name, head in zip(net.head_names, heads, strict=True)}
    found = data.labels.found(outputs)  # type: ignore[attr-defined]
    assert max(float(each.boxes.max()) for each in found) == 64.0
    if annotated:
        assert {label for each in found for label in each.labels.tolist()} <= {11, 0, 10}
    assert data.evaluation.name.endswith("annotated" if annotated else "objects by the float32 detector")
    assert data.labels(outputs) == pytest.approx(100)
    assert data.labels({**outputs, "size": outputs["size"] * 0.8}) < 99


def test_int8_of_a_detector_is_refused_in_one_line(tmp_path: Path) -> None:
    net = untold((32, 32))
    origin, facts = origin_of(net), detector_facts(net, origin_of(net), DetectionRule())
    path = canvases(tmp_path / "images", 2, annotated=False)
    content = json.loads(path.read_text())
    cases: dict[str, tuple[Any, Any]] = {
        "int8 of a detector takes a folder of images, got ndarray": (np.zeros((1, 1, 32, 32), np.float32), None),
        r"takes a folder of images, got .*elsewhere\.json": (path, None),
        "such as 'cat', are not annotated": (tmp_path / "images", {"categories": content["categories"][2:]}),
        "no annotated object": (tmp_path / "images", {"annotations": []}),
        "the float32 detector finds none of the annotated objects": (
            tmp_path / "images", {"annotations": [{**each, "bbox": [9, 9, 0, 0]} for each in content["annotations"]]},
        ),
        "an image of 64x64, annotated as 64x65": (
            tmp_path / "images", {"images": [{**image, "height": 65} for image in content["images"]]},
        ),
        "a score of at least 0.3": (tmp_path / "images", None),
    }  # fmt: skip
    with torch.no_grad():
        net.bbox_head.heatmap_head[2].bias -= 20
    for line, (given, change) in cases.items():
        if change is not None:
            path.write_text(json.dumps({**content, **change}))
        with pytest.raises(InputError, match=line) as raised:
            detector_calibration(net, facts, origin, given, None if change is None else path)
        assert "\n" not in raised.value.line
    for settings in ({}, {"precision": "int8"}):
        with pytest.raises(InputError, match="--annotations: only used for int8 of a detector with --inputs"):
            export_model(net, tmp_path / "out", annotations=path, **settings)


def test_int8_of_a_detector_is_exported_on_a_folder(tmp_path: Path) -> None:
    net = untold((32, 32))
    canvases(tmp_path / "images", 8, annotated=False)
    # Many values of the quantized heads are equal, so their order decides which box suppresses which.
    settings: dict[str, Any] = {"inputs": tmp_path / "images", "precision": "fp32,int8", "max_drop": 60, **FAST}
    found = export_model(net, tmp_path / "out", detections="nms", **settings).precisions["int8"]
    assert found["accuracy"]["float32"] == pytest.approx(100)
    assert found["drop"] == pytest.approx(100 - found["accuracy"]["int8"]) and found["drop"] < 10
    assert found["measured_on"]["name"].endswith("objects by the float32 detector")
