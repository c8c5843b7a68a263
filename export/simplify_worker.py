"""The process that `simplify` starts: ``python -m irepdeploy.export.simplify_worker BEFORE AFTER``.

It prints how many nodes there were and are; AFTER is written only if there are fewer.
"""

from __future__ import annotations

import sys
from typing import Any

__all__: list[str] = []


def main() -> None:
    before, after = sys.argv[1:]
    modules: dict[str, Any] = sys.modules
    # onnxsim imports torch and sympy where they are installed, for uses that are not ours: more than a second.
    modules["torch"] = modules["sympy"] = None
    import onnx
    import onnxsim

    # Not the path: what is read by path is written to a file and read again.
    model = onnx.load(before)
    nodes = len(model.graph.node)
    model, _ = onnxsim.simplify(model)
    left = len(model.graph.node)
    if left < nodes:
        onnx.save(model, after)
    print(nodes, left)


if __name__ == "__main__":
    main()
