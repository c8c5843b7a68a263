"""Convert sparse initializers of ONNX files, which few tools support, to dense ones."""

from __future__ import annotations

import math

import numpy as np
import onnx

from irepdeploy.errors import ModelError, one_line
from irepdeploy.limits import check_memory
from irepdeploy.onnx_graph.proto import graphs_of

__all__ = ["make_dense"]


def make_dense(model: onnx.ModelProto, label: str) -> int:
    """Replace sparse initializers by dense ones in place, and return their number.

    Raises:
        ModelError: Indices and values do not fit the declared shape.
        RunError: A dense tensor does not fit into memory.
    """
    count = 0
    for graph in graphs_of(model):
        for sparse in graph.sparse_initializer:
            name, shape = sparse.values.name, tuple(sparse.dims)
            try:
                values, indices = map(onnx.numpy_helper.to_array, (sparse.values, sparse.indices))
                check_memory(math.prod(shape) * values.itemsize, f"the dense form of {name!r}", label)
                dense = np.zeros(shape, values.dtype)
                # Indices are positions in the flattened tensor, or one index per axis.
                dense[np.unravel_index(indices, shape) if indices.ndim == 1 else tuple(indices.T)] = values
            except (IndexError, TypeError, ValueError) as error:
                what = f"damaged: the sparse initializer {name!r} cannot be read: {one_line(error)}"
                raise ModelError(what, where=label) from error
            graph.initializer.append(onnx.numpy_helper.from_array(dense, name))
            count += 1
        del graph.sparse_initializer[:]
    return count
