# SPDX-License-Identifier: Apache-2.0
"""``edge-report`` as a process: what it prints where, what it writes, and its exit codes."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_films import Run, make_dicom
from handmade import make_bundle
from PIL import Image

from edge.bundle import DEMO, Bundle
from edge.errors import UsageError

CONTRACT = {
    "findings": str,
    "sentences": list,
    "token_ids": list,
    "logprobs": list,
    "stop_reason": str,
    "warnings": list,
    "model": dict,
    "input": dict,
    "timings_ms": dict,
    "tokens_per_s": float,
    "software": dict,
    "intended_use": str,
}


def check_contract(report: dict[str, object]) -> None:
    for key, kind in CONTRACT.items():
        assert isinstance(report[key], kind), key
    assert set(report["model"]) >= {"name", "bundle_sha256", "family", "precision", "bias_rows"}
    assert set(report["input"]) == {
        "sop_instance_uid",
        "study_instance_uid",
        "series_instance_uid",
        "modality",
        "view_position",
        "rows",
        "columns",
        "source",
    }
    stages = ["dicom", "preprocess", "vision", "first_token", "decode", "total"]
    assert list(report["timings_ms"]) == [*stages[:3], "prefill", *stages[3:]]
    assert report["timings_ms"]["prefill"] <= report["timings_ms"]["vision"]
    assert all(value >= 0 for value in report["timings_ms"].values())
    assert sum(report["timings_ms"][stage] for stage in stages[:-1]) <= report["timings_ms"]["total"] + 0.01
    assert set(report["software"]) >= {"version", "device", "isa"}
    assert len(report["token_ids"]) == len(report["logprobs"])
    assert all(value <= 0 for value in report["logprobs"])
    for sentence in report["sentences"]:
        assert set(sentence) == {"text", "confidence", "evidence"}
        assert sentence["text"] in report["findings"]
        assert 0 <= sentence["confidence"] <= 1
        evidence = sentence["evidence"]
        if evidence is None:
            continue
        rows, columns = evidence["grid"]
        assert [len(line) for line in evidence["heat"]] == [columns] * rows
        assert math.isclose(sum(map(sum, evidence["heat"])), 1.0, abs_tol=1e-3)
        row, column = evidence["peak"]
        assert evidence["heat"][row][column] == max(map(max, evidence["heat"]))
        x0, y0, x1, y1 = evidence["box"]
        assert 0 <= x0 < x1 <= 1
        assert 0 <= y0 < y1 <= 1


# ---- one film


def test_text(run: Run, films: list[Path]) -> None:
    result = run(films[0])
    assert result.returncode == 0
    assert result.stdout.endswith("\n")
    assert result.stdout.strip()
    assert all(line.startswith(f"edge-report: {films[0]}: warning: ") for line in result.stderr.splitlines())


def test_json_contract(run: Run, films: list[Path]) -> None:
    result = run("--format", "json", films[0])
    assert result.returncode == 0
    report = json.loads(result.stdout)
    check_contract(report)
    assert report["input"]["sop_instance_uid"] == "1.2.826.0.1.3680043.8.498.1"
    assert report["input"]["modality"] == "DX"
    assert report["findings"] == run(films[0]).stdout.strip("\n")
    assert report["stop_reason"] in ("stop", "length")


def test_stream_equals_the_final_text(run: Run, films: list[Path]) -> None:
    assert run("--stream", films[0]).stdout == run(films[0]).stdout


def test_timings(run: Run, films: list[Path]) -> None:
    lines = run("-q", "--timings", films[0], films[1]).stderr.splitlines()
    assert len(lines) == 2
    for line, film in zip(lines, films, strict=False):
        assert line.startswith(f"edge-report: {film}: ")
        for word in ("dicom", "preprocess", "vision", "first token", "decode", "tokens/s", "total"):
            assert word in line


def test_quiet_and_verbose(run: Run, films: list[Path]) -> None:
    assert run("-q", films[0]).stderr == ""
    assert "bundle handmade" in run("-v", films[0]).stderr


def test_cap_and_bias_rows(run: Run, films: list[Path]) -> None:
    result = run("--format", "json", "--max-new-tokens", "5", "--bias-rows", "none", films[0])
    report = json.loads(result.stdout)
    assert len(report["token_ids"]) <= 5
    assert report["model"]["bias_rows"] == "none"
    assert any("bias rows none" in warning for warning in report["warnings"])


def test_cap_beyond_the_model(run: Run, films: list[Path]) -> None:
    """Told once and of the model, not of a film; the limit itself is taken."""
    for words in ([], ["--at-once", "2"], ["--study"]):
        result = run("--max-new-tokens", "100000", *words, *films[: 1 if "--study" in words else 2])
        assert (result.returncode, result.stdout) == (1, "")
        (line,) = result.stderr.splitlines()
        assert "usage: --max-new-tokens must be a whole number from 1 to" in line
        assert str(films[0]) not in line
    limit = int(line.split("from 1 to ")[1].split()[0])
    assert run("-q", "--max-new-tokens", limit, films[0]).returncode == 0
    assert run("-q", "--max-new-tokens", limit + 1, films[0]).returncode == 1


def test_force(run: Run, tmp_path: Path) -> None:
    hand = make_dicom(tmp_path / "hand.dcm", BodyPartExamined="HAND")
    refused = run(hand)
    assert refused.returncode == 24
    assert refused.stdout == ""
    assert "--force" in refused.stderr
    forced = run("--force", hand)
    assert forced.returncode == 0
    assert forced.stdout.strip()
    assert "warning" in forced.stderr


def test_module_and_script_are_the_same(run: Run) -> None:
    from edge.cli.report import main

    assert callable(main)
    assert run("--version").stdout.startswith("edge-report ")


def test_notice_is_always_shown_and_once(run: Run, films: list[Path], tmp_path: Path) -> None:
    notice = "trained on synthetic phantoms; not for clinical use"
    noticed = make_bundle(tmp_path / "bundle", notice=notice, synthetic=True)
    result = run("-q", "--format", "json", "--bundle", noticed, films[0], films[1])
    assert result.stderr == f"edge-report: {notice}\n"
    for line in result.stdout.splitlines():
        assert json.loads(line)["notice"] == notice
        assert any("synthetic" in warning for warning in json.loads(line)["warnings"])
    loud = run("--bundle", noticed, films[0]).stderr
    assert loud.count("synthetic") == 1


@pytest.mark.skipif(not (DEMO / "manifest.json").exists(), reason="the demo bundle is not built yet")
def test_demo_bundle(run: Run, films: list[Path]) -> None:
    result = run("-q", films[0], env={"EDGE_REPORT_BUNDLE": ""})
    assert result.returncode == 0
    assert len(result.stderr.splitlines()) == 1
    assert "synthetic" in result.stderr
    assert "clinical" in result.stderr


# ---- several films


def test_a_line_says_which_film_it_is_about(run: Run, films: list[Path], tmp_path: Path) -> None:
    """Also where one before it is refused and leaves none; its name, which may be a patient's, is not told."""
    (tmp_path / "no.dcm").write_bytes(b"no film")
    result = run("--format", "json", films[0], tmp_path / "no.dcm", films[1])
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["position"] for report in reports] == [1, 3]
    assert films[0].name not in result.stdout
    assert "position" not in json.loads(run("--format", "json", films[0]).stdout)


def test_a_text_file_keeps_its_warnings(run: Run, films: list[Path], tmp_path: Path) -> None:
    """Nobody saw them on stderr who reads the file; on stdout there is the text alone."""
    words = ("-q", "--max-new-tokens", "2", films[0])
    run("-o", tmp_path / "report.txt", *words)
    text, _, warnings = (tmp_path / "report.txt").read_text().partition("\n\n")
    assert warnings.startswith("Warning: the token cap was reached")
    assert run(*words).stdout == text + "\n"


def test_several_films_as_json_lines(run: Run, films: list[Path]) -> None:
    result = run("--format", "json", *films)
    reports = [json.loads(line) for line in result.stdout.splitlines()]
    assert [report["input"]["sop_instance_uid"][-1] for report in reports] == ["1", "2", "3"]
    for report in reports:
        check_contract(report)


def test_several_films_as_text(run: Run, films: list[Path]) -> None:
    result = run(*films)
    heads = [line for line in result.stdout.splitlines() if line.startswith("== ")]
    assert heads == [f"== {film} ==" for film in films]
    assert run("--stream", *films).stdout == result.stdout


def test_reports_do_not_depend_on_what_came_before(run: Run, films: list[Path]) -> None:
    alone = json.loads(run("--format", "json", films[2]).stdout)
    after = json.loads(run("--format", "json", *films).stdout.splitlines()[2])
    for key in ("findings", "sentences", "token_ids", "logprobs", "warnings", "model", "input"):
        assert alone[key] == after[key]


def test_texts_at_once(run: Run, films: list[Path], tmp_path: Path) -> None:
    """The same results in the same order, a film that cannot be reported among them."""
    bad = tmp_path / "bad.dcm"
    bad.write_bytes(b"not a film at all" * 20)
    words = (films[0], films[1], bad, films[2], films[0])
    plain, together = run(*words), run("--at-once", "3", *words)
    assert (together.stdout, together.returncode) == (plain.stdout, plain.returncode)
    assert together.stderr.splitlines() == plain.stderr.splitlines()
    changing = ("timings_ms", "tokens_per_s", "decoding")
    lines = [
        [{k: v for k, v in json.loads(line).items() if k not in changing} for line in result.stdout.splitlines()]
        for result in (run("--format", "json", *words), run("--format", "json", "--at-once", "16", *words))
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 4


def test_worst_exit_code(run: Run, films: list[Path], tmp_path: Path) -> None:
    noise = tmp_path / "noise.bin"
    noise.write_bytes(os.urandom(3000))
    result = run("-q", films[0], tmp_path / "missing.dcm", noise, films[1])
    assert result.returncode == 21
    assert [line for line in result.stdout.splitlines() if line.startswith("== ")] == [
        f"== {films[0]} ==",
        f"== {films[1]} ==",
    ]
    assert run("-q", tmp_path / "missing.dcm", films[1]).stdout.startswith(f"== {films[1]} ==\n")
    lines = result.stderr.splitlines()
    assert len(lines) == 2
    assert f"{tmp_path}/missing.dcm: cannot read: " in lines[0]
    assert f"{noise}: not DICOM or a picture: " in lines[1]


# ---- what is refused


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--nope", "x.dcm"],
        ["--format", "xml", "x.dcm"],
        ["--threads", "0", "x.dcm"],
        ["--threads", "two", "x.dcm"],
        ["--at-once", "17", "x.dcm"],
        ["--stream", "--at-once", "2", "x.dcm"],
        ["--max-new-tokens", "-1", "x.dcm"],
        ["--bias-rows", "some", "x.dcm"],
        ["--device", "tpu", "x.dcm"],
        ["--stream", "--format", "json", "x.dcm"],
        ["--stream", "-o", "y.txt", "x.dcm"],
        ["--overlay", "y.jpg", "x.dcm"],
        ["-q", "-v", "x.dcm"],
        ["--bundle", "", "x.dcm"],
        ["-o", "", "x.dcm"],
        ["--format", "sr", "-o", "", "x.dcm"],
        ["--form", "json", "x.dcm"],
    ],
)
def test_wrong_usage(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("edge-report: usage: ")


def test_folder(run: Run, tmp_path: Path) -> None:
    result = run(tmp_path)
    assert result.returncode == 1
    assert "folder" in result.stderr
    assert "*.dcm" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_missing_bundle(run: Run, films: list[Path], tmp_path: Path) -> None:
    result = run("--bundle", tmp_path / "none", films[0])
    assert result.returncode == 30
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "edge-export" in result.stderr


def test_bundle_without_a_name(run: Run, films: list[Path]) -> None:
    result = run("--bundle", "", films[0])
    assert "--bundle is empty" in result.stderr
    with pytest.raises(UsageError, match="empty"):
        Bundle.open("")


def test_damaged_bundle(run: Run, films: list[Path], bundle: Path, tmp_path: Path) -> None:
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with open(tmp_path / "decoder.safetensors", "r+b") as stream:
        stream.seek(-8, os.SEEK_END)
        stream.write(b"\xff" * 8)
    result = run("--bundle", tmp_path, films[0], films[1])
    assert result.returncode == 30
    assert len(result.stderr.splitlines()) == 1


def test_devices_that_are_not_here(run: Run, films: list[Path]) -> None:
    result = run("--device", "tensorrt", films[0])
    assert result.returncode == 82
    # The first thing that is missing, before TensorRT is touched: it ends the process where there is no driver.
    assert (
        "no CUDA decoding library" in result.stderr
        or "driver is missing" in result.stderr
        or "no CUDA" in result.stderr
    )


def test_isa_that_is_not_here(run: Run, films: list[Path]) -> None:
    result = run(films[0], env={"EDGE_ISA": "avx1024"})
    assert result.returncode == 82
    assert "generic" in result.stderr


def test_names_cannot_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    result = run(f"{tmp_path}/a\x1b[2J\nb.dcm", f"{tmp_path}/\u202ec.dcm")
    assert result.returncode == 20
    assert len(result.stderr.splitlines()) == 2
    assert "\x1b" not in result.stderr
    assert "\u202e" not in result.stderr


# ---- -o and --overlay


def test_output_file(run: Run, films: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    result = run("--format", "json", "-o", target, films[0])
    assert (result.returncode, result.stdout) == (0, "")
    check_contract(json.loads(target.read_text()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]


def test_output_file_of_several_films(run: Run, films: list[Path], tmp_path: Path) -> None:
    result = run("--format", "json", "-o", tmp_path / "all.jsonl", films[0], tmp_path / "none.dcm", films[1])
    assert result.returncode == 20
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == 2


def test_no_output_file_without_a_report(run: Run, tmp_path: Path) -> None:
    target = tmp_path / "report.txt"
    target.write_text("old")
    (tmp_path / "noise.dcm").write_bytes(b"\0" * 1000)
    assert 20 <= run("-o", target, tmp_path / "noise.dcm").returncode < 40
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("option", ["-o", "--overlay"])
def test_output_into_a_missing_folder(run: Run, films: list[Path], tmp_path: Path, option: str) -> None:
    result = run(option, tmp_path / "none" / "a.png", films[0])
    assert result.returncode == 40
    assert result.stdout == ""
    assert "does not exist" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("option", ["-o", "--overlay"])
def test_an_input_is_never_overwritten(run: Run, films: list[Path], tmp_path: Path, option: str) -> None:
    film = tmp_path / "film.png"
    film.write_bytes(films[0].read_bytes())
    (tmp_path / "same.png").symlink_to("film.png")
    result = run(option, tmp_path / "same.png", film)
    assert result.returncode == 1
    assert "input" in result.stderr
    assert film.read_bytes() == films[0].read_bytes()


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--overlay", "z.dcm", "--mask-dicom", "z.dcm"], 1),
        (["--overlay", "z.dcm", "--mask-dicom", "z.dcm"], 2),
        (["--overlay", "z.png", "-o", "z.png"], 1),
        (["--overlay", "z.png", "-o", "./z.png"], 1),
        (["--overlay", "z.png", "-o", "link"], 1),
        (["--overlay", "z.png", "-o", "z-1.png"], 2),
        (["--format", "sr", "--overlay", "z.dcm", "-o", "z.dcm/"], 1),
    ],
)
def test_two_outputs_of_one_name(
    run: Run, films: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], count: int
) -> None:
    """One would replace the other: refused before any work, also by another name of the same file."""
    monkeypatch.chdir(tmp_path)
    Path("link").symlink_to("z.png")
    result = run(*words, *films[:count])
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "usage: two outputs would go to this file" in line
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


# ---- what is written to as it is


@pytest.fixture
def shell(command: list[str], environment: dict[str, str], tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """``shell("REPORT film.dcm | cat")``: a line of bash in `tmp_path`, with the command for ``REPORT``."""

    def call(line: str) -> tuple[int, str, str]:
        report = f"{shlex.join(command)} -q --threads 1"
        line = f"set -o pipefail; {line.replace('REPORT', report)}"
        done = subprocess.run(
            ["bash", "-c", line], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        return done.returncode, done.stdout, done.stderr

    return call


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_output_to_what_is_open(
    run: Run, films: list[Path], shell: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    app = tmp_path / "app.txt"
    run("-q", films[0], "-o", app)
    text = app.read_text()
    for redirection, before in ((">>", "old\n"), (">", "")):
        app.write_text("old\n")
        inode = app.stat().st_ino
        loop = f"(for i in 1 2; do REPORT {films[0]} -o /dev/stdout; done) {redirection} app.txt"
        assert shell(loop) == (0, "", "")
        assert app.read_text() == before + 2 * text
        assert app.stat().st_ino == inode
    assert shell(f"REPORT {films[0]} -o /dev/stdout | cat") == (0, text, "")
    assert shell(f"REPORT {films[0]} -o >(cat) | cat") == (0, text, "")
    assert shell(f"ln -s /dev/stdout here; REPORT {films[0]} -o here | cat") == (0, text, "")
    assert shell(f"echo first > app.txt; REPORT {films[0]} -o /dev/fd/3 3>> app.txt")[0] == 0
    assert app.read_text() == "first\n" + text
    # Of another process it can only be opened anew: at the end of what is there.
    assert shell(f"exec 3>> app.txt; REPORT {films[0]} -o /proc/$$/fd/3")[0] == 0
    assert app.read_text() == "first\n" + 2 * text
    assert shell(f"mkfifo pipe; cat pipe & REPORT {films[0]} -o pipe && wait") == (0, text, "")
    assert (tmp_path / "pipe").is_fifo()
    assert shell(f"REPORT {films[0]} -o /dev/null --overlay x.png") == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["app.txt", "here", "pipe", "x.png"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("-o /dev/fd/77", "no such descriptor is open"),
        ("-o /dev/fd/99999999999", "no such descriptor is open"),
        ("-o /dev/stdout >&-", "no such descriptor is open"),
        ("-o /dev/fd/3 3< old.txt", "cannot be written to"),
    ],
)
def test_output_to_what_is_not_open(
    films: list[Path], shell: Callable[..., tuple[int, str, str]], tmp_path: Path, words: str, reason: str
) -> None:
    """Found out before the model is loaded."""
    (tmp_path / "old.txt").write_text("old")
    code, out, err = shell(f"REPORT --bundle none {films[0]} {words}")
    assert (code, out) == (40, "")
    (line,) = err.splitlines()
    assert reason in line
    assert (tmp_path / "old.txt").read_text() == "old"


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_output_to_the_file_behind_stdout(
    films: list[Path], shell: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, _, err = shell(f"REPORT {films[0]} -o /dev/stdout --overlay z.png > z.png")
    assert code == 1
    assert "two outputs" in err


def test_no_stdout(films: list[Path], command: list[str], environment: dict[str, str]) -> None:
    line = " ".join([*command, "-q", str(films[0]), ">&-"])
    result = subprocess.run(line, shell=True, env=environment, stderr=subprocess.PIPE, text=True, timeout=120)
    assert result.returncode == 40
    assert len(result.stderr.splitlines()) == 1


def test_output_onto_a_folder(run: Run, films: list[Path], tmp_path: Path) -> None:
    for name in (tmp_path, f"{tmp_path}/none/"):
        result = run("-o", name, films[0])
        assert (result.returncode, result.stdout) == (40, "")
        assert "this is a folder: give the name of a file" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_no_space_left(run: Run, films: list[Path], command: list[str], environment: dict[str, str]) -> None:
    result = run("-q", "-o", "/dev/full", films[0])
    assert result.returncode == 40
    assert "No space left" in result.stderr
    with open("/dev/full", "w") as full:
        direct = subprocess.run(
            [*command, "-q", str(films[0])],
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
    assert direct.returncode == 40
    assert len(direct.stderr.splitlines()) == 1
    assert Path("/dev/full").is_char_device()


def test_output_follows_a_link(run: Run, films: list[Path], tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    assert run("-o", tmp_path / "link.txt", films[0]).returncode == 0
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() != "old"


def test_overlay(run: Run, films: list[Path], tmp_path: Path) -> None:
    assert run("--overlay", tmp_path / "one.png", films[0]).returncode == 0
    picture = Image.open(io.BytesIO((tmp_path / "one.png").read_bytes()))
    assert picture.mode == "RGB"
    assert picture.height >= 1024
    assert picture.width > 1024
    assert run("--overlay", tmp_path / "two.png", films[0], films[1]).returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.png", "two-1.png", "two-2.png"]


# ---- terminals, pipes, signals


def test_terminal_that_knows_only_ascii(run: Run, films: list[Path]) -> None:
    for words in ([], ["--stream"], ["--format", "json"]):
        result = run(*words, films[0], env={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
        assert result.returncode == 0
        assert result.stdout.isascii()


def test_no_control_characters_in_the_text(run: Run, films: list[Path]) -> None:
    for film in films:
        text = run("--max-new-tokens", "100", film).stdout
        assert all(c.isprintable() or c in "\n\t" for c in text)


@pytest.mark.parametrize("words", [["--stream"], ["--format", "json"], []])
def test_closed_pipe(words: list[str], films: list[Path], command: list[str], environment: dict[str, str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [*command, "-q", *words, *map(str, films)],
        env=environment,
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    os.close(writer)
    assert result.returncode == 141
    assert result.stderr == ""


def test_closed_stderr_is_no_failure(films: list[Path], command: list[str], environment: dict[str, str]) -> None:
    line = " ".join([*command, str(films[0]), "2>&-"])
    result = subprocess.run(line, shell=True, env=environment, stdout=subprocess.PIPE, text=True, timeout=120)
    assert result.returncode == 0
    assert result.stdout.strip()


@pytest.mark.parametrize("delay", [0.0, 0.4])
def test_ctrl_c(
    films: list[Path], command: list[str], environment: dict[str, str], tmp_path: Path, delay: float
) -> None:
    target = tmp_path / "all.txt"
    process = subprocess.Popen(
        [*command, "-v", "-o", str(target), *([str(films[0])] * 3000)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that runs the tests in the background has them ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    seen = ""
    while "kernel" not in seen:  # -v says so once the model is loaded
        seen = process.stderr.readline()
        assert seen
    time.sleep(delay)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "edge-report: interrupted"
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("films", "device", "environment", "runtime"),
    [
        (1, "auto", "", "ort"),
        (11, "cpu", "", "ort"),
        (12, "cpu", "", None),
        (1, "cuda", "", None),
        (1, "cpu", "x", None),
    ],
)
def test_few_films_are_not_worth_a_compiler(
    films: int, device: str, environment: str, runtime: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from edge.cli.report import _runtime

    monkeypatch.setenv("EDGE_VISION_RUNTIME", environment)
    assert _runtime(films, device) == runtime
