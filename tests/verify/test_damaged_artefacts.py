"""A campaign: `verify --certificate` rejects every damage to a certified file, its sidecar or its certificate."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from irepdeploy.board.sidecar import check_sidecar
from irepdeploy.errors import EXIT_BUG, InputError, IrepdeployError
from irepdeploy.files import canonical_json, sha256
from irepdeploy.verify.certificate import Artefact, Certificate
from irepdeploy.verify.certified import check_certified
from support.campaign import campaign, cases
from support.faults import archive_faults, faults

_CERTIFICATE, _ENGINE, _SIDECAR = "certificate.json", "model.fp16.engine", "model.fp16.engine.json"
_OUTSIDE = "outside.onnx"
_REFUSED = (1, 2)

Change = Callable[[Path, random.Random], str | None]


def test_no_damage_goes_unseen(certified: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(certified / "export", tmp_path / "export"))
    _store_weights_outside(folder)
    names = [artefact.file for artefact in Certificate.load(folder / _CERTIFICATE).artefacts]
    assert len(names) == 6
    for name in names:
        assert _exit_code(folder, name) == 0, name
    intact = {path.name: path.read_bytes() for path in folder.iterdir()}
    with campaign("damaged artefacts") as counts:
        for seed in range(cases(60, 2_000)):
            generator = random.Random(seed)
            # Cycle through the kinds, so that few cases cover all of them.
            name, change = list(_CHANGES.items())[seed % len(_CHANGES)]
            model = change(folder, generator)
            fault = _unseen(folder, model)
            if fault is None:
                counts.hold(name)
            else:
                counts.fail(name, f"seed {seed}: {fault}")
            for path in folder.iterdir():
                if path.name not in intact:
                    path.unlink()
            for file, content in intact.items():
                if not (folder / file).exists() or (folder / file).read_bytes() != content:
                    (folder / file).write_bytes(content)


def test_forged_certificates_crash_nothing(certified: Path, tmp_path: Path) -> None:
    """A field changed along with the digest: any regular answer is acceptable."""
    folder = Path(shutil.copytree(certified / "export", tmp_path / "export"))
    _store_weights_outside(folder)
    path = folder / _CERTIFICATE
    content = path.read_bytes()
    with campaign("forged certificates") as counts:
        for seed in range(cases(20, 1_000)):
            generator = random.Random(seed)
            value = json.loads(content)
            for _ in range(generator.randint(1, 3)):
                _change_field(value, generator)
            value["digest"] = sha256(canonical_json({key: item for key, item in value.items() if key != "digest"}))
            path.write_text(json.dumps(value))
            code = _exit_code(folder, "fused.pt")
            if code in (0, *_REFUSED):
                counts.hold("fields changed, with a digest that fits")
            else:
                counts.fail("fields changed, with a digest that fits", f"seed {seed}: exits {code}")


def _unseen(folder: Path, model: str | None) -> str | None:
    """Return how a damage was missed, or None."""
    if model is None:
        # The path that runs an engine, without a certificate.
        with contextlib.suppress(InputError):
            check_sidecar(folder / _ENGINE, version="10.3.0.26", flavour="tensorrt", compute_capability="8.0")
            return "the engine would run"
        return None
    code = _exit_code(folder, model)
    return None if code in _REFUSED else f"verify {model} --certificate exits {code}"


def _exit_code(folder: Path, name: str) -> int:
    try:
        found = check_certified(folder / name, folder / _CERTIFICATE)
        found.to_dict()
    except IrepdeployError as error:
        return error.exit_code
    except Exception:
        return EXIT_BUG
    return 0 if found.ok else 1


def _store_weights_outside(folder: Path) -> None:
    """Certify a model whose weights lie beside it as well."""
    path = folder / _OUTSIDE
    onnx.save(
        onnx.load(folder / "model.onnx"), path, save_as_external_data=True, location="weights.bin", size_threshold=0
    )
    certificate = Certificate.load(folder / _CERTIFICATE)
    certificate.artefacts.append(Artefact.of(path))
    # Comparisons with the source are not tested here.
    certificate.source["file"] = "elsewhere.pt"
    certificate.save(folder / _CERTIFICATE)


def _bytes_of(*names: str) -> Change:
    def change(folder: Path, generator: random.Random) -> str:
        name = generator.choice(names)
        content = (folder / name).read_bytes()
        made = archive_faults if name.endswith(".pt") and generator.random() < 0.5 else faults
        (folder / name).write_bytes(made(content, generator.randrange(1 << 30))[1])
        return name

    return change


def _onnx(edit: Callable[[onnx.ModelProto, random.Random], None]) -> Change:
    """Change a model so that it stays a valid file."""

    def change(folder: Path, generator: random.Random) -> str:
        path = folder / generator.choice(["model.onnx", "model.fp16.onnx"])
        model = onnx.load(path)
        edit(model, generator)
        path.write_bytes(model.SerializeToString())
        return path.name

    return change


def _change_weights(model: onnx.ModelProto, generator: random.Random) -> None:
    weights = generator.choice(model.graph.initializer)
    content = bytearray(weights.raw_data)
    content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    weights.raw_data = bytes(content)


def _swap_weights(model: onnx.ModelProto, generator: random.Random) -> None:
    weights = model.graph.initializer
    pairs = [
        (a, b)
        for a in weights
        for b in weights
        if a.name < b.name and a.dims == b.dims and a.data_type == b.data_type and a.raw_data != b.raw_data
    ]
    a, b = generator.choice(pairs)
    a.raw_data, b.raw_data = b.raw_data, a.raw_data


def _swap_nodes(model: onnx.ModelProto, generator: random.Random) -> None:
    place = generator.randrange(len(model.graph.node) - 1)
    nodes = list(model.graph.node)
    nodes[place], nodes[place + 1] = nodes[place + 1], nodes[place]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _drop_node(model: onnx.ModelProto, generator: random.Random) -> None:
    """Remove an activation."""
    place = generator.choice([index for index, node in enumerate(model.graph.node) if node.op_type == "Relu"])
    node = model.graph.node[place]
    source, result = node.input[0], node.output[0]
    del model.graph.node[place]
    for reader in model.graph.node:
        for index, name in enumerate(reader.input):
            if name == result:
                reader.input[index] = source


def _change_metadata(model: onnx.ModelProto, generator: random.Random) -> None:
    if generator.random() < 0.5:
        generator.choice(model.metadata_props).value += generator.choice([" ", "x"])
    else:
        model.metadata_props.add(key=f"added.{generator.randrange(1000)}", value="x")


def _change_shape(model: onnx.ModelProto, generator: random.Random) -> None:
    generator.choice(model.graph.input).type.tensor_type.shape.dim[-1].dim_value += generator.randint(1, 100)


def _move_weights_outside(folder: Path, generator: random.Random) -> str:
    path = folder / "model.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="moved.bin", size_threshold=0)
    return path.name


def _change_outside(folder: Path, generator: random.Random) -> str:
    path = folder / "weights.bin"
    content = bytearray(path.read_bytes())
    # Only bytes that the model reads: between tensors there is padding.
    tensors = [{entry.key: entry.value for entry in tensor.external_data} for tensor in _outside(folder)]
    place = generator.choice(tensors)
    at = int(place["offset"]) + generator.randrange(int(place["length"]))
    if generator.random() < 0.3:
        del content[at:]
    else:
        content[at] ^= 1 << generator.randrange(8)
    path.write_bytes(content)
    return _OUTSIDE


def _outside(folder: Path) -> list[onnx.TensorProto]:
    return list(onnx.load(folder / _OUTSIDE, load_external_data=False).graph.initializer)


def _swap_files(folder: Path, generator: random.Random) -> str:
    a, b = generator.sample(["model.onnx", "model.fp16.onnx", "fused.pt", _ENGINE, _SIDECAR], 2)
    content = (folder / a).read_bytes()
    (folder / a).write_bytes((folder / b).read_bytes())
    (folder / b).write_bytes(content)
    return a


def _json_field(name: str, model: str | None) -> Change:
    """Change one field of a JSON file."""

    def change(folder: Path, generator: random.Random) -> str | None:
        path = folder / name
        value = json.loads(path.read_bytes())
        _change_field(value, generator)
        path.write_text(json.dumps(value, indent=2))
        return model

    return change


def _change_field(value: Any, generator: random.Random) -> None:
    while True:
        key = generator.choice(list(value)) if isinstance(value, dict) else generator.randrange(len(value))
        below = value[key]
        if not isinstance(below, dict | list) or not below or generator.random() < 0.1:
            break
        value = below
    others = [None, True, False, 0, -1, 1e300, "", "else", [], {}, [[]], {"": None}]
    if generator.random() < 0.2:
        del value[key]
    elif isinstance(below, str) and below and generator.random() < 0.5:
        place = generator.randrange(len(below))
        value[key] = below[:place] + chr(ord(below[place]) ^ 1) + below[place + 1 :]
    elif type(below) in (int, float) and generator.random() < 0.5:
        value[key] = below + generator.choice([1, -1, below or 1])
    else:
        value[key] = generator.choice([other for other in others if type(other) is not type(below) or other != below])


def _json_bytes(name: str, model: str | None) -> Change:
    """Damage the bytes of a JSON file, so that it holds something else."""

    def change(folder: Path, generator: random.Random) -> str | None:
        content = (folder / name).read_bytes()
        while True:
            damaged = faults(content, generator.randrange(1 << 30))[1]
            if not _same_json(content, damaged):
                break
        (folder / name).write_bytes(damaged)
        return model

    return change


def _same_json(a: bytes, b: bytes) -> bool:
    # Additional spaces or duplicate fields do not change the content.
    try:
        return bool(json.loads(a) == json.loads(b))
    except (ValueError, RecursionError):
        return False


_CHANGES: dict[str, Change] = {
    "model.onnx, model.fp16.onnx: bytes": _bytes_of("model.onnx", "model.fp16.onnx"),
    "ONNX: a weight changed": _onnx(_change_weights),
    "ONNX: weights of two layers swapped": _onnx(_swap_weights),
    "ONNX: nodes swapped": _onnx(_swap_nodes),
    "ONNX: an activation removed": _onnx(_drop_node),
    "ONNX: metadata changed": _onnx(_change_metadata),
    "ONNX: size of the input changed": _onnx(_change_shape),
    "ONNX: weights moved beside the model": _move_weights_outside,
    "ONNX: weights beside the model changed": _change_outside,
    "fused.pt: bytes": _bytes_of("fused.pt"),
    "engine: bytes": _bytes_of(_ENGINE),
    "certified files swapped": _swap_files,
    "sidecar: a field": _json_field(_SIDECAR, _ENGINE),
    "sidecar: bytes": _json_bytes(_SIDECAR, _ENGINE),
    "engine without a certificate: bytes": lambda folder, generator: (_bytes_of(_ENGINE)(folder, generator), None)[1],
    "engine without a certificate: a field of its sidecar": _json_field(_SIDECAR, None),
    "engine without a certificate: bytes of its sidecar": _json_bytes(_SIDECAR, None),
    "certificate: a field": _json_field(_CERTIFICATE, "model.onnx"),
    "certificate: bytes": _json_bytes(_CERTIFICATE, "model.onnx"),
}
