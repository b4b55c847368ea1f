# SPDX-License-Identifier: Apache-2.0
"""The library as a device maker meets it: symbols, installation, find_package, pkg-config, the example programs; and
with -m slow the same under AddressSanitizer, UBSan and valgrind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from capi import Engine, Library
from capi_build import ROOT, build, run
from handmade import chest_picture

SANITIZED = "-DEDGE_SANITIZE=address,undefined"


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is missing")


def write_pgm(path: Path, picture: np.ndarray) -> Path:
    """A binary PGM of 8 or 16 bits."""
    rows, columns = picture.shape
    most = 255 if picture.itemsize == 1 else 65535
    path.write_bytes(b"P5 %d %d %d\n" % (columns, rows, most) + picture.astype(f">u{picture.itemsize}").tobytes())
    return path


def environment(onnxruntime_file: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "EDGE_ONNXRUNTIME_LIBRARY": str(onnxruntime_file), **more}


@pytest.fixture(scope="session")
def prefix(build_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the built library has been installed to."""
    folder = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", build_folder, "--prefix", folder)
    return folder


@pytest.fixture(scope="session")
def programs(prefix: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples, built against the installed library by find_package."""
    folder = tmp_path_factory.mktemp("programs")
    flags = "-std=c11 -Wall -Wextra -Wpedantic -Werror"
    run("cmake", "-S", ROOT / "examples", "-B", folder, f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_C_FLAGS={flags}")
    run("cmake", "--build", folder, "-j", "2")
    return folder


def test_only_its_own_names_are_exported(library: Library) -> None:
    need("nm", "readelf")
    lines = run("nm", "-D", "--defined-only", library.path).splitlines()
    names = {line.split()[-1].split("@")[0] for line in lines}
    header = (ROOT / "csrc" / "capi" / "include" / "edge_report.h").read_text()
    assert names == set(re.findall(r"^EDGE_API [^(]*\b(edge_\w+)\(", header, re.MULTILINE))
    assert len(names) == header.count("\nEDGE_API ")  # which is how they are all declared
    dynamic = run("readelf", "-d", library.path)
    assert "[libedge_report.so.1]" in dynamic
    needed = [line for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert not any(word in line for line in needed for word in ("python", "onnx", "openvino"))


def test_what_is_installed(prefix: Path) -> None:
    files = {str(path.relative_to(prefix)) for path in prefix.rglob("*") if not path.is_dir()}
    names = {Path(name).name for name in files}
    assert {"edge_report.h", "edge_report.pc", "edge_report-config.cmake", "libedge_report.so"} <= names
    assert not any(name.endswith((".py", ".a")) for name in files)


def test_embed_c_streams_the_engines_report(
    programs: Path, demo: Path, engine: Engine, library: Library, onnxruntime_file: Path, tmp_path: Path
) -> None:
    """An 8-bit and a 16-bit picture: the text is the one that the library gives Python, the notice is shown."""
    picture = chest_picture(300)
    for film in (picture, picture.astype(np.uint16) * 200 + 7):
        done = subprocess.run(
            [programs / "embed", demo, write_pgm(tmp_path / "film.pgm", film)],
            env=environment(onnxruntime_file),
            capture_output=True,
            text=True,
            timeout=120,
        )
        report = engine.report(library.film_of_array(film))
        assert (done.returncode, done.stdout) == (0, report["findings"] + "\n")
        assert report["notice"] in done.stderr
        assert all(f"warning: {warning}" in done.stderr for warning in report["warnings"])


def test_embed_cpp_runs_two_engines(
    programs: Path, demo: Path, engine: Engine, library: Library, onnxruntime_file: Path, tmp_path: Path
) -> None:
    films = [chest_picture(size)[:180, :190].astype(np.uint16) for size in (200, 230)]
    for i, film in enumerate(films):
        film.tofile(tmp_path / f"{i}.raw")
    lines = run(
        programs / "embed_cpp", demo, "180", "190", tmp_path / "0.raw", tmp_path / "1.raw",
        env=environment(onnxruntime_file),
    ).splitlines()  # fmt: skip
    for line, film in zip(lines, films, strict=True):
        assert json.loads(line)["token_ids"] == engine.report(library.film_of_array(film))["token_ids"]


def test_embed_says_what_is_wrong(programs: Path, demo: Path, tmp_path: Path) -> None:
    film = write_pgm(tmp_path / "film.pgm", chest_picture(100))

    def said(bundle: Path, runtime: str) -> tuple[int, str]:
        done = subprocess.run(
            [programs / "embed", bundle, film],
            env={**os.environ, "EDGE_ONNXRUNTIME_LIBRARY": runtime},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stderr

    status, words = said(tmp_path / "none", "")
    assert status == 30
    assert words.startswith("bundle: the bundle ")
    assert words.count("\n") == 1
    status, words = said(demo, "/nowhere.so")
    assert status == 81
    assert words.startswith("runtime missing: ONNX Runtime cannot be opened: /nowhere.so")
    for size in (b"300 300", b"-300 300", b"-300 -300", b"0 300", b"99999 99999"):
        film.write_bytes(b"P5 " + size + b" 255\n" + bytes(1000))
        assert said(demo, "") == (22, "the picture is cut off, or its size is none of a film\n")


def test_pkg_config(prefix: Path, demo: Path, tmp_path: Path) -> None:
    need("pkg-config", "cc")
    folder = next(prefix.rglob("edge_report.pc")).parent
    flags = run("pkg-config", "--cflags", "--libs", "edge_report", env={**os.environ, "PKG_CONFIG_PATH": str(folder)})
    run("cc", ROOT / "examples" / "embed.c", "-o", tmp_path / "embed", *flags.split())


def test_pkg_config_where_libraries_lie_deeper(tmp_path: Path) -> None:
    """As on Debian: PREFIX/lib/<machine>. The folders are found from where the file lies, and may have been moved."""
    need("pkg-config", "cmake", "c++")
    options = ("-DEDGE_PYTHON=OFF", "-DEDGE_CAPI=ON", "-DEDGE_QUICK=ON", "-DCMAKE_INSTALL_LIBDIR=lib/some-machine")
    run("cmake", "-S", ROOT, "-B", tmp_path / "build", *options)
    folder = tmp_path / "prefix" / "lib" / "some-machine" / "pkgconfig"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "build" / "csrc" / "capi" / "edge_report.pc", folder)
    for variable, place in (("libdir", folder.parent), ("includedir", tmp_path / "prefix" / "include")):
        told = run(
            "pkg-config", f"--variable={variable}", "edge_report", env={**os.environ, "PKG_CONFIG_PATH": str(folder)}
        )
        assert Path(os.path.normpath(told.strip())) == place


@pytest.fixture(scope="session")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with AddressSanitizer and UBSan; ``$EDGE_TEST_CAPI_SANITIZED`` where there is one."""
    given = os.environ.get("EDGE_TEST_CAPI_SANITIZED")
    options = ("-DCMAKE_BUILD_TYPE=None", "-DCMAKE_CXX_FLAGS=-O1 -g", SANITIZED)
    return Path(given) if given else build(tmp_path_factory.mktemp("sanitized"), *options)


@pytest.mark.slow
def test_sanitized(sanitized: Path, tmp_path: Path) -> None:
    """All other tests of this folder, with a library that stops at the first wrong access or undefined operation."""
    # The C++ library, too: the sanitizer looks for its functions when it starts.
    preload = [run("c++", f"-print-file-name={name}").strip() for name in ("libasan.so", "libstdc++.so.6")]
    log = f"log_path={tmp_path / 'sanitizer'}"
    settings = {
        "LD_PRELOAD": " ".join(preload),
        "ASAN_OPTIONS": f"detect_leaks=0:exitcode=99:{log}",  # Python keeps what it has
        "UBSAN_OPTIONS": f"print_stacktrace=1:{log}",
        "PYTHONMALLOC": "malloc",
        "EDGE_TEST_CAPI_BUILD": str(sanitized),
    }
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", Path(__file__).parent]
    # OpenVINO opens a part of itself with RTLD_DEEPBIND, under which the sanitizer ends the process; memory is its own;
    # a program with more rights than its caller is given no sanitizer.
    done = subprocess.run(
        [*command, "--deselect", __file__, "-k", "not openvino and not memory and not rights"],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    said = "".join(path.read_text()[:4000] for path in tmp_path.glob("sanitizer*"))
    assert (done.returncode, said) == (0, ""), done.stdout[-3000:] + said
    assert "passed" in done.stdout


@pytest.mark.slow
def test_leaks(sanitized: Path, demo: Path, onnxruntime_file: Path, tmp_path: Path) -> None:
    """The C example with LeakSanitizer: whatever an engine and a report took is given back."""
    program = tmp_path / "embed"
    flags = ("-fsanitize=address,undefined", "-g", f"-I{ROOT / 'csrc' / 'capi' / 'include'}")
    folder = sanitized / "csrc" / "capi"
    source = ROOT / "examples" / "embed.c"
    run("cc", *flags, source, "-o", program, f"-L{folder}", "-ledge_report", f"-Wl,-rpath,{folder}")
    film = write_pgm(tmp_path / "film.pgm", chest_picture(200))
    done = subprocess.run(
        [program, demo, film],
        env=environment(onnxruntime_file, ASAN_OPTIONS="detect_leaks=1"),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Sanitizer" not in done.stderr


@pytest.mark.slow
def test_valgrind(programs: Path, pristine: Path, onnxruntime_file: Path, tmp_path: Path) -> None:
    """The C example under memcheck: no wrong access, no use of what was never written, nothing lost by us."""
    need("valgrind")
    film = write_pgm(tmp_path / "film.pgm", chest_picture(100))
    log = tmp_path / "valgrind.log"
    command = ["valgrind", "--error-exitcode=99", "--leak-check=full", "--errors-for-leak-kinds=definite"]
    run(
        *command, f"--suppressions={Path(__file__).parent / 'foreign.supp'}", f"--log-file={log}",
        programs / "embed", pristine, film,
        env=environment(onnxruntime_file, EDGE_ISA="generic"), timeout=900,
    )  # fmt: skip
    assert "ERROR SUMMARY: 0 errors" in log.read_text()
