# SPDX-License-Identifier: Apache-2.0
"""What OpenVINO compiled of a large graph is kept in the user's cache: one cache for the library and the package, and
nothing is given to OpenVINO that somebody else could have written."""

from __future__ import annotations

import ctypes
import hashlib
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from capi import Engine, Library
from capi_build import run
from handmade import chest_picture
from test_memory_runs_out import heavy_bundle

import edge
from edge.vision import ov

openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")

# In front of the real library: what is asked of it by these two functions is counted.
COUNTER = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
int compiled = 0, imported = 0;
#define NEXT(name, type) ((type)dlsym(RTLD_NEXT, name))
int ov_core_read_model_from_memory_buffer(const void* core, const char* text, size_t size, const void* weights,
                                          void** model) {
  ++compiled;
  return NEXT("ov_core_read_model_from_memory_buffer",
              int (*)(const void*, const char*, size_t, const void*, void**))(core, text, size, weights, model);
}
int ov_core_import_model(const void* core, const char* content, size_t size, const char* device, void** made) {
  ++imported;
  return NEXT("ov_core_import_model", int (*)(const void*, const char*, size_t, const char*, void**))(
      core, content, size, device, made);
}
"""


@dataclass
class Runtime:
    """OpenVINO behind the counter."""

    library: Library
    bundle: Path
    path: Path

    def count(self) -> tuple[int, int]:
        """Graphs compiled and imported since the last call."""
        counter = ctypes.CDLL(str(self.path))
        both = [ctypes.c_int.in_dll(counter, name) for name in ("compiled", "imported")]
        told = both[0].value, both[1].value
        for one in both:
            one.value = 0
        return told

    def open(self, bundle: Path | None = None, **options: Any) -> Engine:
        return self.library.engine(bundle or self.bundle, runtime="openvino", runtime_library=str(self.path), **options)

    def report(self, **options: Any) -> dict[str, Any]:
        """Of two films, the second's; whose pages have been given back in between."""
        film = self.library.film_of_array(chest_picture(200))
        with self.open(**options) as engine:
            engine.report(film)
            return engine.report(film)


@pytest.fixture(scope="module")
def runtime(library: Library, tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    folder = tmp_path_factory.mktemp("counter")
    real = next((Path(openvino.__file__).parent / "libs").glob("libopenvino_c.so*"))
    (folder / "counter.c").write_text(COUNTER)
    path = folder / "libopenvino_c.so"
    linked = (f"-Wl,--no-as-needed,-rpath,{real.parent}", real)
    run("cc", "-shared", "-fPIC", folder / "counter.c", "-o", path, *linked)
    return Runtime(library, heavy_bundle(folder / "heavy", 65), path)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, runtime: Runtime) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime.count()
    return tmp_path / "edge-report" / "openvino"


def numbers(report: dict[str, Any]) -> tuple[Any, ...]:
    return report["token_ids"], report["logprobs"], report["findings"]


def test_a_large_graph_is_compiled_once(runtime: Runtime, pristine: Path, cache: Path) -> None:
    first = numbers(runtime.report())
    assert runtime.count() == (1, 0)
    (kept,) = cache.iterdir()
    assert cache.stat().st_mode & 0o777 == 0o700
    assert kept.stat().st_mode & 0o777 == 0o600
    for threads in (1, 2):
        assert numbers(runtime.report(threads=threads)) == first
    assert runtime.count() == (0, 2)
    runtime.open(pristine).close()  # not a small one
    assert runtime.count() == (1, 0)
    assert list(cache.iterdir()) == [kept]


@pytest.mark.parametrize("first", ["library", "package"])
def test_one_cache_with_the_package(first: str, runtime: Runtime, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ours() -> tuple[Any, ...]:
        return numbers(runtime.report())

    def theirs() -> tuple[Any, ...]:
        return numbers(edge.load(runtime.bundle, threads=1, vision="openvino").report(chest_picture(200)).to_dict())

    monkeypatch.setenv("EDGE_ISA", "generic")
    if first == "library":
        kept = ours()
        monkeypatch.setattr(ov, "_compile", None)
        assert theirs() == kept
    else:
        kept = theirs()
        assert ours() == kept
        assert runtime.count() == (0, 1)
    assert len(list(cache.iterdir())) == 1


def test_what_is_not_trusted(runtime: Runtime, cache: Path, tmp_path: Path) -> None:
    """Never given to OpenVINO, and replaced by what it compiles then."""
    runtime.open().close()
    (kept,) = cache.iterdir()
    good, elsewhere = kept.read_bytes(), tmp_path / "elsewhere"
    changed = {
        "changed": good[:-1] + bytes([good[-1] ^ 1]),
        "cut": good[:-1],
        "longer": good + b"0",
        "the head alone": good[:4096],
        "empty": b"",
        "of another kind": good.replace(b"plan 2", b"plan 3", 1),
        "for another processor": good.replace(b'"processor": "', b'"processor": "X', 1),
    }
    spoilt: dict[str, Callable[[], object]] = {
        **{name: partial(kept.write_bytes, data) for name, data in changed.items()},
        "the group may write": lambda: kept.chmod(0o620),
        "all may write": lambda: kept.chmod(0o602),
        "a link": lambda: kept.symlink_to(kept.rename(elsewhere)),
        "a pipe": lambda: (kept.unlink(), os.mkfifo(kept)),
    }
    if os.geteuid() == 0:
        spoilt["another user's"] = lambda: os.chown(kept, 65534, -1)
    runtime.count()
    for name, spoil in spoilt.items():
        spoil()
        runtime.open().close()
        assert (name, *runtime.count()) == (name, 1, 0)
        about = kept.lstat()
        assert (stat.S_IMODE(about.st_mode), about.st_uid, stat.S_ISREG(about.st_mode)) == (0o600, os.geteuid(), True)
    runtime.open().close()
    assert runtime.count() == (0, 1)
    behind = elsewhere.read_bytes()
    assert hashlib.sha256(behind[4096:]).digest() == behind[4064:4096]  # nothing was written through the link


def test_folders_that_are_not_trusted(runtime: Runtime, cache: Path, tmp_path: Path) -> None:
    runtime.open().close()
    (kept,) = cache.iterdir()
    runtime.count()
    spoilt: list[Callable[[], object]] = [
        lambda: cache.chmod(0o770),
        lambda: (cache.chmod(0o700), cache.symlink_to(cache.rename(tmp_path / "elsewhere"))),
    ]
    if os.geteuid() == 0:
        spoilt.insert(0, lambda: os.chown(cache, 65534, -1))
        spoilt.insert(1, lambda: os.chown(cache, 0, -1))
    for spoil in spoilt:
        spoil()
        runtime.open().close()
        assert list(cache.iterdir()) == [kept]
    assert runtime.count() == ((3, 1) if os.geteuid() == 0 else (2, 0))  # one of them puts it right again


def test_what_is_of_no_use(runtime: Runtime, cache: Path) -> None:
    """Kept by this user and whole, but no graph: OpenVINO refuses it, and it is compiled anew."""
    fresh = numbers(runtime.report())
    (kept,) = cache.iterdir()
    wrong = b"x" * 5000
    kept.write_bytes(kept.read_bytes()[: 4096 - 32] + hashlib.sha256(wrong).digest() + wrong)
    runtime.count()
    assert numbers(runtime.report()) == fresh
    assert runtime.count() == (1, 1)
    runtime.open().close()
    assert runtime.count() == (0, 1)


def test_three_are_kept_and_no_leftovers(runtime: Runtime, cache: Path) -> None:
    cache.mkdir(parents=True, mode=0o700)
    for i, name in enumerate(("a.plan", "b.plan", "c.plan", ".old.partial", ".new.partial")):
        (cache / name).write_bytes(b"x")
        if name != ".new.partial":  # another process is writing it
            os.utime(cache / name, (1000 + i, 1000 + i))
    runtime.open().close()
    (kept,) = {path.name for path in cache.glob("*-*.plan")}
    assert {path.name for path in cache.iterdir()} == {"b.plan", "c.plan", ".new.partial", kept}


@pytest.mark.parametrize(
    "settings",
    [
        {"EDGE_VISION_CACHE": "off"},
        {"XDG_CACHE_HOME": None, "HOME": None},
        {"XDG_CACHE_HOME": "a/relative/folder", "HOME": "another"},
        {"XDG_CACHE_HOME": "/dev/null"},
        {"XDG_CACHE_HOME": "/proc"},  # where nobody makes a folder
    ],
)
def test_nothing_is_kept_where_it_cannot_be(
    settings: dict[str, str | None], runtime: Runtime, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    runtime.open().close()
    runtime.open().close()
    assert runtime.count() == (2, 0)
    assert list(tmp_path.iterdir()) == []


def test_home_where_there_is_no_other_cache(runtime: Runtime, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(cache.parent.parent))
    monkeypatch.delenv("XDG_CACHE_HOME")
    runtime.open().close()
    runtime.open().close()
    assert runtime.count() == (1, 1)
    assert len(list((cache.parent.parent / ".cache" / "edge-report" / "openvino").iterdir())) == 1


LIMITED = """
import resource, signal, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from capi import Library
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
Library(Path(sys.argv[2])).engine(sys.argv[4], runtime="openvino", runtime_library=sys.argv[3]).close()
print("opened")
"""


def test_where_files_may_not_be_large(runtime: Runtime, cache: Path) -> None:
    """Writing beyond the limit would end the process."""
    call = [sys.executable, "-c", LIMITED, Path(__file__).parent, runtime.library.path, runtime.path, runtime.bundle]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.stdout == "opened\n", done.stderr[-2000:]
    assert not cache.exists()
