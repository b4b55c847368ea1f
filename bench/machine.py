# SPDX-License-Identifier: Apache-2.0
"""What machine a figure was measured on, how busy it was, and how much memory this process holds.

Linux tells all of it; elsewhere what is unknown is ``None``. No host or user names.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

_FLAGS = re.compile(
    r"sse4_2|avx|avx2|fma|f16c|avx512(f|bw|vl|dq|_vnni|_bf16|_fp16)|avx_vnni|amx_(tile|int8|bf16)"
    r"|asimd|asimddp|asimdhp|i8mm|bf16|sve2?"
)
_PACKAGES = ("numpy", "onnxruntime", "onnxruntime-gpu")


def describe(isa: str | None = None) -> dict[str, Any]:
    """The machine, its system and the versions in use.

    Parameters
    ----------
    isa
        Instruction set of the decoding kernel in this run.
    """
    from edge.decoder import isa_supported
    from edge.version import __version__

    info = _cpuinfo()
    flags = processor_flags()
    return {
        "cpu": info.get("model name") or info.get("Model") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "usable_processors": _usable_processors(),
        "physical_cores": _physical_cores(),
        "flags": [flag for flag in flags if _FLAGS.fullmatch(flag)],
        "isa": isa,
        "isa_supported": isa_supported(),
        "l2_cache": _cache(2),
        "l3_cache": _cache(3),
        "memory_bytes": _meminfo().get("MemTotal"),
        "huge_pages": _chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "hypervisor": "hypervisor" in flags,
        "os": _os_name(),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {"edge": __version__, **_versions()},
        "revision": _revision(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
    }


def processor_flags() -> list[str]:
    """Instruction set extensions as the system names them; empty where unknown."""
    info = _cpuinfo()
    return (info.get("flags") or info.get("Features") or "").split()


def busy_processors(seconds: float = 0.5) -> float | None:
    """Processors that others keep busy right now, time stolen by neighbours of a virtual machine included."""
    before = _cpu_times()
    time.sleep(seconds)
    after = _cpu_times()
    if before is None or after is None:
        return None
    total, idle = after[0] - before[0], after[1] - before[1]
    return round((total - idle) / total * (os.cpu_count() or 1), 2) if total > 0 else None


def resident_mb() -> tuple[float | None, float | None]:
    """Resident memory of this process now, and its peak since :func:`reset_peak`; MB of 1e6 bytes."""
    status = _table("/proc/self/status")
    now, peak = status.get("VmRSS"), status.get("VmHWM")
    if now is None or peak is None:
        return None, None
    return round(now / 1e6, 1), round(max(now, peak) / 1e6, 1)


def reset_peak() -> bool:
    """Let the peak begin anew; False where the system does not let us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def available_memory() -> int:
    """Bytes that can be allocated without swapping; 4 GiB where unknown."""
    free = _meminfo().get("MemAvailable", 4 << 30)
    limit, used = _text("/sys/fs/cgroup/memory.max"), _text("/sys/fs/cgroup/memory.current")
    if limit and used and limit.isdigit() and used.isdigit():
        free = min(free, max(int(limit) - int(used), 0))
    return free


def _cpuinfo() -> dict[str, str]:
    """The first processor's entries of ``/proc/cpuinfo``."""
    entries: dict[str, str] = {}
    for line in (_text("/proc/cpuinfo") or "").splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())
    return entries


def _table(path: str) -> dict[str, int]:
    """Lines ``Name:  12 kB`` as bytes."""
    found = re.findall(r"^(\w+):\s+(\d+) kB$", _text(path) or "", re.M)
    return {name: int(value) * 1024 for name, value in found}


def _meminfo() -> dict[str, int]:
    return _table("/proc/meminfo")


def _cpu_times() -> tuple[int, int] | None:
    """All and idle ticks of all processors since the start."""
    line = (_text("/proc/stat") or "").partition("\n")[0].split()
    if len(line) < 9 or line[0] != "cpu":
        return None
    ticks = [int(v) for v in line[1:9]]
    return sum(ticks), ticks[3] + ticks[4]


def _usable_processors() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _physical_cores() -> int | None:
    cores = set()
    for folder in Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology"):
        cores.add((_text(folder / "physical_package_id"), _text(folder / "core_id")))
    return len(cores) or None


def _cache(level: int) -> str | None:
    """Size of the cache that processor 0 uses at a level, as the system writes it, e.g. ``32768K``."""
    for folder in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*"):
        if _text(folder / "level") == str(level):
            return _text(folder / "size")
    return None


def cache_bytes(size: str | None) -> int:
    """Bytes of a size like ``32768K``; 0 where unknown."""
    found = re.fullmatch(r"(\d+)([KMG]?)", size or "")
    return int(found[1]) * 1024 ** " KMG".index(found[2] or " ") if found else 0


def _os_name() -> str:
    with contextlib.suppress(OSError, KeyError):
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    return platform.platform(terse=True)


def _versions() -> dict[str, str]:
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def _revision() -> str | None:
    """Git revision of the source tree the engine runs from, ``+`` where changed; None when installed."""
    import edge

    folder = Path(edge.__file__).resolve().parent

    def git(*args: str) -> str | None:
        try:
            call = ["git", "-C", str(folder), *args]
            done = subprocess.run(call, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", "version.py") is None:
        return None
    revision = git("rev-parse", "--short=12", "HEAD")
    sources = [str(folder), str(folder.parent / "csrc")]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *sources)
    return f"{revision}+" if revision and changed else revision


def _chosen(path: str) -> str | None:
    """The word in brackets of a sysfs choice."""
    found = re.search(r"\[(\w+)\]", _text(path) or "")
    return found[1] if found else None


def _text(path: str | Path) -> str | None:
    if sys.platform != "linux":
        return None
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None
