"""The process that `Simplifier` starts: ``python -m irepdeploy.export.simplify_worker``.

It reads a line with two paths as a JSON array, BEFORE and AFTER, and prints how many nodes there were and are; AFTER is
written only if there are fewer. Without a line, its parent having ended, it ends.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

__all__: list[str] = []


def main() -> None:
    modules: dict[str, Any] = sys.modules
    # onnxsim imports torch and sympy where they are installed, for uses that are not ours: more than a second.
    modules["torch"] = modules["sympy"] = None
    import onnx
    import onnxsim

    from irepdeploy.onnx_graph.model_file import open_model

    line = sys.stdin.readline()
    if not line:
        return
    before, after = json.loads(line)
    # What a crash leaves, a core file, goes with the temporary folder.
    os.chdir(os.path.dirname(after))
    # Not the path: what is read by path is written to a file and read again.
    model = open_model(before)
    nodes = len(model.graph.node)
    model, _ = onnxsim.simplify(model)
    left = len(model.graph.node)
    if left < nodes:
        onnx.save(model, after)
    print(nodes, left)


if __name__ == "__main__":
    main()
