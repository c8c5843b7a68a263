"""Child process of `Simplifier`: ``python -m irepdeploy.export.simplify_worker``.

It reads the paths BEFORE and AFTER as a JSON array and prints the number of nodes before and after; AFTER is written
only if it has fewer. The process ends with its parent at the latest.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from irepdeploy.board.lifetime import end_with_parent

__all__: list[str] = []


def main() -> None:
    end_with_parent()
    modules: dict[str, Any] = sys.modules
    # onnxsim imports torch and sympy if installed, which takes more than a second and is not needed here.
    modules["torch"] = modules["sympy"] = None
    import onnx
    import onnxsim

    from irepdeploy.onnx_graph.model_file import open_model

    line = sys.stdin.readline()
    if not line:
        return
    before, after = json.loads(line)
    # A core file of a crash disappears with the temporary folder.
    os.chdir(os.path.dirname(after))
    # Pass the model rather than its path, which simplify would write to a file and read again.
    model = open_model(before)
    nodes = len(model.graph.node)
    model, _ = onnxsim.simplify(model)
    left = len(model.graph.node)
    if left < nodes:
        onnx.save(model, after)
    print(nodes, left)


if __name__ == "__main__":
    main()
