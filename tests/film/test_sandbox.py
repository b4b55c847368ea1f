# SPDX-License-Identifier: Apache-2.0
"""The decoding worker: limits hit for real, crashes, threads, forks, and its end."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from encoders import JPEG, j2k, jpeg_ls
from film_builder import compressed, gradient, to_bytes

from edge.errors import CorruptInput, ProcessingError
from edge.film import read_film
from edge.film.sandbox import Sandbox, _Crashed, shared
from edge.film.wire import pack

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits and signals of POSIX systems")

SIDE = 1300


@pytest.fixture(scope="module")
def slow() -> tuple[dict[str, object], bytes, np.ndarray]:
    """A picture that takes a good part of a second: noise in JPEG 2000."""
    pixels = np.random.default_rng(0).integers(0, 4096, (SIDE, SIDE)).astype(np.uint16)
    fields = {
        "op": "dicom", "syntax": JPEG + "90", "codec": "j2k", "frame": -1, "rows": SIDE, "columns": SIDE,
        "allocated": 16, "stored": 12, "bits": 12, "signed": 0,
    }  # fmt: skip
    return fields, j2k(pixels, 12), pixels


@pytest.fixture
def box():
    made: list[Sandbox] = []

    def make(**options: float) -> Sandbox:
        made.append(Sandbox(**options))
        return made[-1]

    yield make
    for sandbox in made:
        sandbox.close()


def gone(pid: int, seconds: float = 5.0) -> bool:
    """True once no such process runs (a zombie does not run)."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_slow_picture_is_decoded(box, slow):
    fields, stream, pixels = slow
    reply, data = box().run(fields, stream, pixels=SIDE * SIDE)
    assert reply["bytes"] == 2
    assert np.array_equal(np.frombuffer(data, "<u2").reshape(SIDE, SIDE), pixels)


def test_time_limit(box, slow):
    fields, stream, _ = slow
    sandbox = box(seconds=0.1)
    sandbox.warm()
    pid = sandbox.pid
    start = time.monotonic()
    with pytest.raises(CorruptInput, match="longer than"):
        sandbox.run(fields, stream, pixels=1)
    assert time.monotonic() - start < 10
    assert gone(pid)


STOPPED = """
import pickle, sys
from edge.film.sandbox import Sandbox
fields, stream = pickle.load(sys.stdin.buffer)
box = Sandbox(seconds=2.0)
first = box.run(fields, stream, pixels=4096)
print(box.pid, flush=True)
print(box.run(fields, stream, pixels=4096) == first, flush=True)
"""


def test_time_in_which_we_are_stopped_does_not_count(slow):
    """Ctrl-Z, or a container that is paused, in the middle of a picture."""
    pixels = np.random.default_rng(0).integers(0, 4096, (64, 64)).astype(np.uint16)
    fields = {**slow[0], "rows": 64, "columns": 64}
    pipe = subprocess.PIPE
    child = subprocess.Popen([sys.executable, "-P", "-c", STOPPED], stdin=pipe, stdout=pipe, stderr=pipe)
    try:
        child.stdin.write(pickle.dumps((fields, j2k(pixels, 12))))
        child.stdin.flush()
        worker = int(child.stdout.readline())
        os.kill(worker, signal.SIGSTOP)
        time.sleep(0.1)
        child.send_signal(signal.SIGSTOP)
        time.sleep(2.2)
        child.send_signal(signal.SIGCONT)
        time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGCONT)
        assert child.stdout.readline() == b"True\n", child.stderr.read()
    finally:
        child.kill()
        child.communicate()


def test_processor_limit_of_the_worker_itself(box, slow):
    """Were the parent not there to look at its watch, the kernel would."""
    import resource

    fields, stream, _ = slow
    sandbox = box()
    sandbox.warm()
    pid = sandbox.pid
    resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1))
    request = pack({**fields, "seconds": 60, "memory": 1 << 30}, len(stream))

    def wear_out() -> None:
        for _ in range(20):
            sandbox._exchange(request, stream, 30.0, 1 << 24)

    with pytest.raises(_Crashed):
        wear_out()
    assert gone(pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="address-space limits are Linux's")
def test_memory_limit(box, slow):
    fields, stream, _ = slow
    sandbox = box(megabytes=2)
    with pytest.raises(CorruptInput, match=r"memory|down"):
        sandbox.run(fields, stream, pixels=1)
    # The limit was that picture's, not the worker's.
    assert sandbox.run(fields, stream, pixels=SIDE * SIDE)[0]["bytes"] == 2


def test_one_death_is_forgiven(box, slow):
    fields, stream, pixels = slow
    sandbox = box()
    sandbox.warm()
    first = sandbox.pid
    timer = threading.Timer(0.1, os.kill, (first, signal.SIGKILL))
    timer.start()
    _, data = sandbox.run(fields, stream, pixels=SIDE * SIDE)
    timer.join()
    assert np.array_equal(np.frombuffer(data, "<u2").reshape(SIDE, SIDE), pixels)
    assert sandbox.pid != first


def test_two_deaths_are_the_pictures_fault(box, slow, monkeypatch):
    fields, stream, _ = slow
    sandbox = box()
    exchange = sandbox._exchange
    killed: list[int] = []

    def lethal(request: bytes, *rest: object) -> object:
        if request:  # not the greeting of a fresh worker
            killed.append(sandbox.pid)
            threading.Timer(0.03, os.kill, (sandbox.pid, signal.SIGSEGV)).start()
        return exchange(request, *rest)

    monkeypatch.setattr(sandbox, "_exchange", lethal)
    with pytest.raises(CorruptInput, match="down"):
        sandbox.run(fields, stream, pixels=SIDE * SIDE)
    assert len(set(killed)) == 2
    assert sandbox.pid is None


def test_dead_worker_is_replaced(read):
    pixels = gradient()
    ds = compressed(jpeg_ls(pixels, 12), JPEG + "80", pixels)
    read(ds)
    pid = shared().pid
    os.kill(pid, signal.SIGKILL)
    assert gone(pid)
    assert np.array_equal(read(ds).pixels, pixels)
    assert shared().pid not in (None, pid)


def test_warm_worker_costs_milliseconds(tmp_path):
    pixels = gradient()
    path = tmp_path / "f.dcm"
    path.write_bytes(to_bytes(compressed(jpeg_ls(pixels, 12), JPEG + "80", pixels)))
    read_film(path)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        read_film(path)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.25


def test_threads(tmp_path):
    paths = []
    for index in range(4):
        pixels = np.roll(gradient(), index, axis=0)
        paths.append((tmp_path / f"{index}.dcm", pixels))
        paths[-1][0].write_bytes(to_bytes(compressed(jpeg_ls(pixels, 12), JPEG + "80", pixels)))
    wrong: list[int] = []

    def work(offset: int) -> None:
        for turn in range(8):
            path, pixels = paths[(turn + offset) % 4]
            if not np.array_equal(read_film(path).pixels, pixels):
                wrong.append(offset)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def script(body: str, *arguments: str) -> subprocess.Popen[str]:
    """Run Python code in a process of its own, which finds edge where this one does."""
    import edge

    root = str(Path(edge.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    call = [sys.executable, "-P", "-c", body, *arguments]
    return subprocess.Popen(call, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None])
def test_worker_never_outlives_its_parent(tmp_path, slow, busy, how):
    path = tmp_path / "slow.dcm"
    path.write_bytes(to_bytes(compressed(slow[1], JPEG + "90", slow[2])))
    process = script(
        """
import sys, threading, time
from edge.film import read_film
from edge.film.sandbox import shared
shared().warm()
if sys.argv[2] == "busy":
    threading.Thread(target=read_film, args=(sys.argv[1],), daemon=True).start()
    time.sleep(0.15)
print(shared().pid, flush=True)
sys.stdin.readline()
""",
        str(path),
        "busy" if busy else "idle",
    )
    pid = int(process.stdout.readline())
    assert not gone(pid, 0.0)
    if how is None:
        process.communicate("\n", timeout=20)
    else:
        process.send_signal(how)
        process.wait(20)
    assert gone(pid, 3.0)


def test_fork_gets_a_worker_of_its_own(tmp_path):
    pixels = gradient()
    path = tmp_path / "f.dcm"
    path.write_bytes(to_bytes(compressed(jpeg_ls(pixels, 12), JPEG + "80", pixels)))
    process = script(
        """
import os, sys
from edge.film import read_film
from edge.film.sandbox import shared
total = read_film(sys.argv[1]).pixels.sum()
mine = shared().pid
child = os.fork()
if child == 0:
    same = read_film(sys.argv[1]).pixels.sum() == total
    other = shared().pid not in (None, mine)
    shared().close()
    os._exit(0 if same and other else 1)
status = os.waitpid(child, 0)[1]
print(status, shared().pid == mine, read_film(sys.argv[1]).pixels.sum() == total)
""",
        str(path),
    )
    assert process.communicate(timeout=30)[0].split() == ["0", "True", "True"]


def test_a_fork_leaves_other_files_alone_at_its_end(tmp_path):
    """The worker's descriptor is closed in the child, and its number may be another file's by then."""
    pixels = gradient()
    path = tmp_path / "f.dcm"
    path.write_bytes(to_bytes(compressed(jpeg_ls(pixels, 12), JPEG + "80", pixels)))
    process = script(
        """
import os, sys
from edge.film import read_film
from edge.film import sandbox
read_film(sys.argv[1])
lifeline = sandbox._SHARED._lifeline
child = os.fork()
if child == 0:
    held = [open(f"{sys.argv[2]}/{i}", "w") for i in range(64)]
    for file in held:
        file.write("kept")
    assert lifeline in [file.fileno() for file in held]
    sys.exit(0)
print(os.waitpid(child, 0)[1])
""",
        str(path),
        str(tmp_path),
    )
    assert process.communicate(timeout=30)[0].split() == ["0"]
    assert {(tmp_path / str(i)).read_text() for i in range(64)} == {"kept"}


def test_worker_sees_neither_secrets_nor_the_current_folder(box, tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_TOKEN", "ZZTOKEN")
    (tmp_path / "numpy.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    sandbox = box()
    sandbox.warm()
    assert b"ZZTOKEN" not in Path(f"/proc/{sandbox.pid}/environ").read_bytes()
    limits = Path(f"/proc/{sandbox.pid}/limits").read_text()
    assert "Max core file size        0" in limits
    assert "Max file size             0" in limits


def test_interpreter_of_an_embedding_program(box, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/opt/viewer/viewer")
    monkeypatch.setenv("EDGE_WORKER_PYTHON", "/nonexistent/python")
    with pytest.raises(ProcessingError, match="EDGE_WORKER_PYTHON"):
        box().warm()
    monkeypatch.delenv("EDGE_WORKER_PYTHON")
    sandbox = box()
    sandbox.warm()  # found beside sys.prefix
    assert sandbox.pid


@pytest.mark.parametrize(
    "reply",
    [
        "b''",
        "b'garbage' * 1000",
        "struct.pack('<4sLQ', b'EDGF', 10**9, 0)",
        "struct.pack('<4sLQ', b'EDGF', 2, 2**60) + b'{}'",
        "struct.pack('<4sLQ', b'EDGF', 2, 0) + b'[]'",
        "struct.pack('<4sLQ', b'EDGF', 5, 0) + b'{\"a\":'",
        "struct.pack('<4sLQ', b'EDGF', 2, 0) + b'{}'",
        "struct.pack('<4sLQ', b'EDGF', 21, 4) + b'{\"ok\":true,\"bytes\":99}' + bytes(4)",
        "struct.pack('<4sLQ', b'EDGF', 20, 4) + b'{\"ok\":true,\"bytes\":1}' + bytes(4)",
    ],
)
def test_a_subverted_worker_is_not_believed(read, tmp_path, monkeypatch, reply):
    """Whatever comes out of the worker after a hostile picture took it over, it ends as a refusal."""
    fake = tmp_path / "python"
    fake.write_text(
        f"#!{sys.executable}\n"
        "import os, struct, sys\n"
        "def send(data):\n    os.write(1, data)\n"
        "send(struct.pack('<4sLQ', b'EDGF', 11, 0) + b'{\"hello\":1}')\n"
        f"os.read(0, 100)\nsend({reply})\n"
    )
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("EDGE_WORKER_PYTHON", str(fake))
    sandbox = Sandbox()
    monkeypatch.setattr("edge.film.sandbox._SHARED", sandbox)
    pixels = gradient()
    with pytest.raises(CorruptInput):
        read(compressed(jpeg_ls(pixels, 12), JPEG + "80", pixels))
    sandbox.close()


def test_importing_the_door_is_light():
    process = script(
        "import sys, edge.film, edge.preprocess\n"
        "heavy = ('pydicom', 'cv2', 'PIL', 'gdcm', 'onnxruntime', 'torch', 'subprocess', 'multiprocessing')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert process.communicate(timeout=30)[0].strip() == "[]"


@pytest.mark.parametrize("closed", [(0,), (0, 1), (1, 2), (0, 1, 2)])
def test_a_host_without_standard_streams(closed: tuple[int, ...]) -> None:
    """The worker's own standard streams must not take the place of the pipe by which it sees its parent end."""
    code = (
        f"import os, sys; [os.close(number) for number in {closed}]\n"
        "from edge.film.sandbox import Sandbox\n"
        "box = Sandbox(); box.warm(); alive = box.pid is not None; box.close(); sys.exit(0 if alive else 9)"
    )
    assert subprocess.run([sys.executable, "-P", "-c", code], timeout=60, stdin=subprocess.DEVNULL).returncode == 0
