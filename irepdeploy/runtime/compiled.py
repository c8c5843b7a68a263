"""Compile networks with torch.compile, for `TorchCompileRunner` and for compiled training steps."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import MissingError, ModelError, one_line
from irepdeploy.runtime.memory import is_out_of_memory

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["compile_step", "compiled", "reason", "require_compiler"]

# Most graphs of one piece of code: one for each batch size, such as that of the last batch of an epoch.
_MOST_GRAPHS = 16
_BACKEND = "inductor"


def compile_step(net: nn.Module, device: torch.device, key: str) -> Callable[..., Any]:
    """Return a function that calls `net` with a compiled forward and backward pass.

    `net`, its parameters and its state dict do not change. Each shape of the inputs is compiled on its first use, which
    takes seconds to minutes. Code that torch cannot compile runs eagerly.

    Args:
        net: A network, or a DistributedDataParallel around one.
        device: Device of the network.
        key: Recipe key that enables compilation, named in errors.

    Raises:
        MissingError: There is no compiler, or the environment disables torch.compile.
    """
    require_compiler(device, key)
    with warnings.catch_warnings():
        # torch's own modules warn when they are first imported.
        warnings.simplefilter("ignore")
        import torch._dynamo.config as dynamo
        from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

        if _BACKEND == "inductor":
            import torch._inductor.compile_fx  # noqa: F401
    call = compiled(net, device, whole=False)

    def run(*inputs: Any) -> Any:
        with dynamo.patch(recompile_limit=_MOST_GRAPHS, fail_on_recompile_limit_hit=True, suppress_errors=False):
            try:
                return call(*inputs)
            except FailOnRecompileLimitHit as error:
                raise ModelError(
                    f"torch.compile would need more than {_MOST_GRAPHS} graphs of one piece of code",
                    where=key,
                    hint=f"inputs of one size, or {key}=false",
                ) from error
            except TorchDynamoException as error:
                if is_out_of_memory(error):
                    raise
                message = f"torch.compile cannot compile this network: {reason(error)}"
                raise ModelError(message, where=key, hint=f"{key}=false") from error

    return run


def compiled(net: Callable[..., Any], device: torch.device, *, whole: bool) -> Callable[..., Any]:
    """Return `net` under torch.compile with static shapes; `whole` requires a single graph."""
    import torch

    def run(*inputs: Any) -> Any:
        return net(*inputs)

    # torch stores compiled graphs with the code object and searches them on every call. With a shared code object,
    # each compiled network would slow down all others.
    run.__code__ = run.__code__.replace()
    # Otherwise the number of threads would come from the disk cache, as it was when the entry was written.
    threads = {"cpp.threads": torch.get_num_threads()} if device.type == "cpu" and _BACKEND == "inductor" else {}
    options: dict[str, Any] = {"options": threads} if threads else {}
    # With dynamic shapes a general graph would replace that of the first size, so a resumed run would use another one.
    return torch.compile(run, fullgraph=whole, dynamic=False, backend=_BACKEND, **options)


def reason(error: Exception) -> str:
    """Return the first lines of torch's message; the remaining ones are advice for debugging torch."""
    return one_line("\n".join(str(error).strip().splitlines()[:3])) or type(error).__name__


def require_compiler(device: torch.device, where: str) -> None:
    """Raise MissingError if torch.compile is disabled, or has no compiler for this device."""
    import torch._dynamo.config as dynamo

    if dynamo.disable:
        raise MissingError(
            "torch.compile is disabled by the environment", where=where, hint="unset TORCH_COMPILE_DISABLE"
        )
    if device.type == "cpu":
        from torch._inductor import config

        names = [name for name in config.cpp.cxx if name]
        if not any(shutil.which(name) for name in names):
            raise MissingError(
                f"torch.compile needs a C++ compiler: {' or '.join(names)} not found",
                where=where,
                hint="sudo apt-get install g++",
            )
    elif device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            hint = "pip install triton; the GPU must be of compute capability 7.0 or newer"
            raise MissingError("torch.compile needs Triton on CUDA, which does not work here", where=where, hint=hint)
        # Triton compiles a small module that launches the kernels (triton/runtime/build.py: _find_compiler).
        if not os.environ.get("CC") and not (shutil.which("gcc") or shutil.which("clang")):
            raise MissingError(
                "Triton needs a C compiler: gcc or clang not found", where=where, hint="sudo apt-get install gcc"
            )
