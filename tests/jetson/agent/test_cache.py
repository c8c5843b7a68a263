"""put, have, get and clean: whole files or none, and none outside the cache."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from irepdeploy.errors import InputError, RunError
from irepdeploy.jetson.agent import cache as cache_module
from irepdeploy.jetson.agent.cache import AgentCache, as_ours, default_cache
from irepdeploy.jetson.agent.main import _clean
from irepdeploy.jetson.agent.request import RequestStream


def stream(content: bytes) -> RequestStream:
    """Of a file descriptor that holds this."""
    read, write = os.pipe()
    os.write(write, content)
    os.close(write)
    return RequestStream(read)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def cache(tmp_path: Path) -> AgentCache:
    return AgentCache(str(tmp_path / "cache"))


def files(cache: AgentCache) -> list[str]:
    return sorted(str(path.relative_to(cache.root)) for path in Path(cache.root).rglob("*") if path.is_file())


def test_over_the_wire(agent: Any) -> None:
    content = os.urandom(200_000) + b"\n{}\n"
    sent = digest(content)
    assert agent.ask("put", {"sha256": sent, "size_bytes": len(content)}, content).code == 0
    answer = agent.ask("have", {"sha256": [sent, "0" * 64]})
    assert answer.value["have"] == [sent] and answer.value["missing"] == ["0" * 64]
    assert answer.value["free_bytes"] > 0
    assert agent.ask("clean", {"all": True}).value["removed_bytes"] == len(content)
    assert agent.ask("have", {"sha256": [sent]}).value["missing"] == [sent]
    assert (agent.cache.stat().st_mode & 0o077) == 0


def test_whole_or_not_at_all(cache: AgentCache) -> None:
    content = b"x" * 5000
    cache.put(stream(content), digest(content), 5000)
    assert files(cache) == [f"files/{digest(content)}"]
    # The same again is fine.
    cache.put(stream(content), digest(content), 5000)
    with pytest.raises(RunError, match="2000 of 7000 bytes are missing"):
        cache.put(stream(content), digest(b"y"), 7000)
    with pytest.raises(RunError, match="another digest"):
        cache.put(stream(content), digest(b"y"), 5000)
    assert files(cache) == [f"files/{digest(content)}"]


def test_bytes_after_a_request(cache: AgentCache) -> None:
    given = stream(b'{"sha256": 1}\n' + b"abc\n" + b"rest")
    assert given.line() == b'{"sha256": 1}'
    cache.put(given, digest(b"abc\n"), 4)
    assert given.some(99) == b"rest" and given.some(99) == b"" and given.ended


def test_a_full_disk(cache: AgentCache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10))
    with pytest.raises(RunError, match=r"the disk is full: need 0\.0 MiB"):
        cache.put(stream(b"x" * 11), digest(b"x" * 11), 11)
    assert files(cache) == []


def test_a_disk_that_fills_up(cache: AgentCache) -> None:
    # Nothing written here fits.
    cache.folder("")
    os.symlink("/dev/full", os.path.join(cache.root, "full"))
    path = os.path.join(cache.root, "full")
    with pytest.raises(RunError, match="the disk is full"), as_ours("here"), open(path, "wb") as file:
        file.write(b"x")


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A" * 64, "0" * 63, None, 5, "0" * 64 + "/../x"])
def test_names_that_are_no_digests(cache: AgentCache, name: Any) -> None:
    for ask in (cache.file, cache.has, lambda name: cache.put(stream(b""), name, 0)):
        with pytest.raises(InputError, match="expected a SHA-256"):
            ask(name)


@pytest.mark.parametrize("size", [-1, True, "5", None])
def test_sizes_that_are_none(cache: AgentCache, size: Any) -> None:
    with pytest.raises(InputError, match="expected a size"):
        cache.put(stream(b""), digest(b""), size)


def test_a_damaged_file_is_not_had(cache: AgentCache) -> None:
    cache.put(stream(b"abc"), digest(b"abc"), 3)
    path = Path(cache.file(digest(b"abc")))
    path.write_bytes(b"abd")
    assert not cache.has(digest(b"abc")) and not path.exists()
    with pytest.raises(InputError, match="in the cache"):
        cache.file(digest(b"abc"))


def test_jobs(cache: AgentCache) -> None:
    with cache.job(keep=False) as job:
        Path(job, "x").write_bytes(b"1")
    assert not os.path.exists(job)
    with cache.job(keep=True) as kept:
        Path(kept, "model.engine").write_bytes(b"1")
        name = os.path.basename(kept)
    assert cache.job_file(name, "model.engine") == os.path.join(kept, "model.engine")
    # Leftovers of killed jobs are removed when the next one starts; kept jobs stay.
    os.makedirs(os.path.join(cache.root, "jobs", "killed"))
    with pytest.raises(RunError), cache.job(keep=True) as job:
        assert sorted(os.listdir(os.path.join(cache.root, "jobs"))) == sorted([name, os.path.basename(job)])
        raise RunError("x")
    assert os.listdir(os.path.join(cache.root, "jobs")) == [name]
    assert cache.end_job(name) == 1 and cache.end_job(name) == 0


@pytest.mark.parametrize("name", ["../x", "..", ".", "/etc", "a/b", "", "a\0b", None, "-rf", "a b\n"])
def test_jobs_that_are_none(cache: AgentCache, name: Any) -> None:
    with cache.job(keep=True) as job:
        pass
    own = os.path.basename(job)
    for ask in (lambda: cache.end_job(name), lambda: cache.job_file(name, "x"), lambda: cache.job_file(own, name)):
        with pytest.raises(InputError):
            ask()


def test_a_link_out_of_a_job_is_not_followed(cache: AgentCache) -> None:
    with cache.job(keep=True) as job:
        os.symlink("/etc/hostname", os.path.join(job, "link"))
    with pytest.raises(InputError, match="no file link"):
        cache.job_file(os.path.basename(job), "link")


def test_clean(cache: AgentCache) -> None:
    cache.put(stream(b"new"), digest(b"new"), 3)
    Path(cache.root, "restore.json").write_text("{}")
    with cache.lock(), pytest.raises(RunError, match=f"process {os.getpid()}"):
        cache.clean()
    assert cache.clean() == 3
    assert files(cache) == ["lock", "restore.json"]


@pytest.mark.parametrize("request_", [{}, {"all": 1}, {"job": 3}])
def test_cleaning_needs_a_name(cache: AgentCache, request_: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        _clean(SimpleNamespace(cache=cache), request_)


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert default_cache() == "/x/irepdeploy-agent"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_cache() == "/home/me/.cache/irepdeploy-agent"
