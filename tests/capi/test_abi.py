# SPDX-License-Identifier: Apache-2.0
"""Structures that grow: a program and a library of different age have different sizes of them. And the header, which
must suit every compiler that a host may have."""

from __future__ import annotations

import ctypes
import re
import shutil
from pathlib import Path

import pytest
from capi import Engine, Error, Film, Library, Lut, Options, ReportOptions
from capi_build import ROOT, run
from handmade import chest_picture

HEADERS = ROOT / "csrc" / "capi" / "include"
STRUCTURES = {"options": Options, "film": Film, "report_options": ReportOptions}
STRICT = ("-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror")


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_defaults_stay_within_the_callers_structure(name: str, library: Library) -> None:
    """Of a program built against an older header, whose structure is smaller, and a newer one, whose is larger."""
    init = getattr(library.c, f"edge_{name}_init_sized")
    known = ctypes.sizeof(STRUCTURES[name])
    whole = STRUCTURES[name]()
    init(ctypes.byref(whole), known)
    defaults = bytes(whole)
    assert whole.size == known
    for size in (4, 8, known - 8, known, known + 8, 4096):
        memory = (ctypes.c_uint8 * (size + 64))(*[0xAA] * (size + 64))
        init(memory, size)
        assert int.from_bytes(bytes(memory[:4]), "little") == size
        assert bytes(memory[4:size]) == defaults[4:size].ljust(size - 4, b"\0")
        assert set(memory[size:]) == {0xAA}
    untouched = (ctypes.c_uint8 * 8)(*[0xAA] * 8)
    init(untouched, 3)
    init(None, 8)
    assert set(untouched) == {0xAA}


@pytest.mark.parametrize("name", list(STRUCTURES))
def test_function_that_the_macro_hides(name: str, library: Library) -> None:
    """The structure as the first version of this ABI had it; it has not grown yet."""
    by_function, sized = STRUCTURES[name](), STRUCTURES[name]()
    getattr(library.c, f"edge_{name}_init")(ctypes.byref(by_function))
    getattr(library.c, f"edge_{name}_init_sized")(ctypes.byref(sized), ctypes.sizeof(sized))
    assert bytes(by_function) == bytes(sized)


def test_larger_structures_of_newer_headers(library: Library, engine: Engine) -> None:
    """What this library does not know it does not look at."""

    class Newer(Film):
        _fields_ = (("added", ctypes.c_char_p),)

    picture = chest_picture(200)
    usual = library.film_of_array(picture)
    film = Newer()
    library.c.edge_film_init_sized(ctypes.byref(film), ctypes.sizeof(film))
    for field in ("pixels", "rows", "columns", "row_stride", "bits_allocated"):
        setattr(film, field, getattr(usual, field))
    film.added = b"nothing that is known"
    assert engine.report(film)["token_ids"] == engine.report(usual)["token_ids"]


def test_last_error_without_an_engine(library: Library) -> None:
    error = Error(7, b"from before")
    library.c.edge_engine_last_error(None, ctypes.byref(error))
    assert (error.status, error.message) == (0, b"")


def test_the_layout_is_the_headers(tmp_path: Path) -> None:
    """The tests' own declarations, which other languages would have, against the compiler's."""
    structures = {**STRUCTURES, "lut": Lut, "error": Error}
    told = [
        (name, field[0], getattr(kind, field[0]).offset, getattr(kind, field[0]).size)
        for name, kind in structures.items()
        for field in kind._fields_
    ]
    lines = "".join(
        f"_Static_assert(offsetof(edge_{name}, {field}) == {offset}, \"\");\n"
        f"_Static_assert(sizeof(((edge_{name}*)0)->{field}) == {size}, \"\");\n"
        for name, field, offset, size in told
    )  # fmt: skip
    (tmp_path / "layout.c").write_text(f"#include <edge_report.h>\n{lines}")
    run("cc", "-std=c11", f"-I{HEADERS}", "-fsyntax-only", tmp_path / "layout.c")


@pytest.mark.parametrize("compiler", ["cc -std=c90", "cc -std=c11", "cc -std=c17", "c++ -std=c++98", "c++ -std=c++20"])
def test_the_header_compiles(compiler: str, tmp_path: Path) -> None:
    tool, standard = compiler.split()
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is missing")
    source = tmp_path / ("a.c" if tool == "cc" else "a.cpp")
    source.write_text(
        "#include <edge_report.h>\nvoid f(edge_film* film);\nvoid f(edge_film* film) { edge_film_init(film); }\n"
    )
    # The types of <stdint.h> are newer than C++98.
    flags = [*STRICT, *(["-Wno-long-long"] if "98" in standard else [])]
    run(tool, standard, *flags, f"-I{HEADERS}", "-fsyntax-only", source)


def test_the_pages_program(tmp_path: Path) -> None:
    """In C and C++, without a warning; and GCC's analyzer finds nothing, neither in the example."""
    page = (ROOT / "docs" / "embedding.md").read_text()
    program = page.split("```c\n")[1].split("```")[0]
    # Declared, as a program of several files would have it.
    head = re.search(r"^int report\(.*\)", program, re.MULTILINE)
    assert head
    text = program.replace("int report(", f"{head[0]};\nint report(", 1)
    (tmp_path / "page.c").write_text(text)
    (tmp_path / "page.cpp").write_text(text)
    run("c++", "-std=c++11", *STRICT, f"-I{HEADERS}", "-fsyntax-only", tmp_path / "page.cpp")
    analyzer = ["-fanalyzer"] if "Free Software Foundation" in run("cc", "--version") else []
    for source in (tmp_path / "page.c", ROOT / "examples" / "embed.c"):
        run("cc", "-std=c11", "-O1", *STRICT, *analyzer, f"-I{HEADERS}", "-c", source, "-o", tmp_path / "page.o")
