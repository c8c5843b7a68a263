"""Time the collapse of chains of growing length and of deep networks, compared with an earlier version of the package.

Run ``python -m irepdeploy.bench.tools.planning [FILE.jsonl] [--before FOLDER] [--rounds N] [--most SECONDS]
[--chains BLOCKS,...] [--only NAME,...]``. FOLDER contains the earlier version as a package `irepdeploy`. Every collapse
runs in its own process, with the two versions alternating. A version that exceeds the time limit is not run on longer
chains. All times are CPU seconds. The networks are those of `support.deep_networks`, and ResNet-18 of published Diverse
Branch Blocks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import irepdeploy
from irepdeploy.console import log, table

from .harness import keep_line

__all__ = ["measure_planning", "planning_table", "subjects"]

CHAINS = (4, 8, 16, 32, 64)
_OWN, _EARLIER = "now", "before"
# CPU time is less sensitive to other programs than elapsed time. The first collapse only warms up.
_CODE = """
import json, resource, sys, time
resource.setrlimit(resource.RLIMIT_CPU, (int(sys.argv[3]),) * 2)
from irepdeploy import collapse
content = open(sys.argv[1], "rb").read()
collapse(open(sys.argv[2], "rb").read())
elapsed, start = time.perf_counter(), time.process_time()
found = collapse(content)
times = {"cpu_s": time.process_time() - start, "elapsed_s": time.perf_counter() - elapsed}
counts = [{"nodes": sum(each.values()), "convolutions": each["Conv"]} for each in
          (found.operators_before, found.operators_after)]
print(json.dumps({**times, "given": counts[0], "collapsed": counts[1]}))
"""


def subjects(chains: Sequence[int] = CHAINS, only: Sequence[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield names and ONNX files, the shortest chain first; `only` selects deep networks."""
    from support.deep_networks import DEEP, deep_network, residual_chain
    from support.published_networks import dbb_resnet18, exported

    for blocks in chains:
        yield f"chain of {blocks}", exported(residual_chain(blocks), (3, 14, 14))
    for name in DEEP:
        if only is None or name in only:
            yield name, exported(deep_network(name), (3, 14, 14))
    if only is None or "DBB ResNet-18" in only:
        yield "DBB ResNet-18", exported(dbb_resnet18(), (3, 224, 224))


def measure_planning(
    files: Sequence[tuple[str, bytes]], before: Path | None = None, *, rounds: int = 3, most: int = 120
) -> dict[str, dict[str, Any]]:
    """Return the runs of each version by network, as ``{"now": [...], "before": [...]}``; none beyond the limit."""
    versions = {_EARLIER: before} if before is not None else {}
    versions[_OWN] = Path(irepdeploy.__file__).parents[1]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{place}.onnx") for place in range(len(files))]
        for path, (_, content) in zip(paths, files, strict=True):
            path.write_bytes(content)
        tired: set[tuple[str, str]] = set()
        for path, (name, _) in zip(paths, files, strict=True):
            kind = name.rstrip("0123456789")
            runs: dict[str, list[Any]] = {version: [] for version in versions}
            for _, (version, tree) in itertools.product(range(rounds), versions.items()):
                if (version, kind) in tired:
                    continue
                run = _run(tree, path, paths[0], most)
                if run is None:
                    tired.add((version, kind))
                else:
                    runs[version].append(run)
            found[name] = runs
            log(f"{name}: " + ", ".join(f"{version} {_seconds(each)} s" for version, each in runs.items()))
    return found


def _run(tree: Path, model: Path, warm_up: Path, most: int) -> dict[str, Any] | None:
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-c", _CODE, str(model), str(warm_up), str(most)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return None
    done.check_returncode()
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def planning_table(networks: dict[str, dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Return headings and rows: seconds of each version, their ratio, and the growth from the chain half as long."""
    versions = list(next(iter(networks.values())))
    rows = []
    for name, runs in networks.items():
        done = next((each[0] for each in runs.values() if each), None)
        changes = [
            f"{done['given'][of]} -> {done['collapsed'][of]}" if done else "-" for of in ("nodes", "convolutions")
        ]
        blocks = name.rpartition(" ")[2]
        half = networks.get(f"chain of {int(blocks) // 2}" if blocks.isdigit() else "", {})
        row = [name, *changes]
        row += [cell for version in versions for cell in (_seconds(runs[version]), _times(runs, half, version))]
        earlier, own = _cpu(runs.get(_EARLIER, [])), _cpu(runs[_OWN])
        rows.append([*row, "-" if earlier is None or own is None else f"{earlier / own:.1f}x"])
    columns = [head for version in versions for head in (f"{version}, s", "x half")]
    return ["network", "nodes", "convolutions", *columns, "faster"], rows


def _cpu(runs: Sequence[dict[str, Any]]) -> float | None:
    return median(run["cpu_s"] for run in runs) if runs else None


def _seconds(runs: Sequence[dict[str, Any]]) -> str:
    return "-" if (cpu := _cpu(runs)) is None else f"{cpu:.2f}"


def _times(runs: dict[str, Any], half: dict[str, Any], version: str) -> str:
    whole, part = _cpu(runs[version]), _cpu(half.get(version, []))
    return "-" if whole is None or part is None else f"{whole / part:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the table, and append the results to a file."""
    parser = argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.planning", description=__doc__)
    parser.add_argument("record", nargs="?", type=Path, metavar="FILE.jsonl")
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="folder of an earlier version")
    parser.add_argument("--rounds", type=int, default=3, help="collapses by each version")
    parser.add_argument("--most", type=int, default=120, metavar="SECONDS", help="limit of one process")
    parser.add_argument("--chains", metavar="BLOCKS,...", help="lengths of chains to measure")
    parser.add_argument("--only", metavar="NAME,...", help="networks to measure besides the chains")
    asked = parser.parse_args(arguments)
    chains = CHAINS if asked.chains is None else [int(blocks) for blocks in asked.chains.split(",")]
    files = list(subjects(chains, None if asked.only is None else asked.only.split(",")))
    networks = measure_planning(files, asked.before, rounds=asked.rounds, most=asked.most)
    keep_line(asked.record, "planning", most_s=asked.most, networks=networks)
    table(f"CPU seconds of a collapse; -: more than {asked.most} s", *planning_table(networks))


if __name__ == "__main__":
    main()
