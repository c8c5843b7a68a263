"""The process that `simplify` starts: ``python -m irepdeploy.export.simplify_worker BEFORE AFTER``."""

from __future__ import annotations

import sys
from typing import Any

__all__: list[str] = []


def main() -> None:
    before, after = sys.argv[1:]
    modules: dict[str, Any] = sys.modules
    # onnxsim imports torch where it is installed, for uses that are not ours: more than a second.
    modules["torch"] = None
    import onnx
    import onnxsim

    model, _ = onnxsim.simplify(before)
    onnx.save(model, after)


if __name__ == "__main__":
    main()
