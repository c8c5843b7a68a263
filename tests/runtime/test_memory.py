from __future__ import annotations

import subprocess
import sys

import pytest

from irepdeploy.runtime import memory

# Page faults of filling 64 MiB that were filled and freed before.
_FAULTS = """
import resource
import numpy as np
from irepdeploy.runtime.memory import keep_freed_memory

def faults():
    np.full(2**23, 1.0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(2**23, 1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

given_back = faults()
assert keep_freed_memory()
kept = faults()
assert keep_freed_memory(False)
print(given_back, kept, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
def test_kept_memory_is_not_faulted_in_again() -> None:
    done = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    given_back, kept, again = map(int, done.stdout.split())
    assert kept * 10 < given_back
    assert kept * 10 < again


def test_other_systems_keep_their_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "darwin")
    assert not memory.keep_freed_memory()
