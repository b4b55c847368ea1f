# SPDX-License-Identifier: Apache-2.0
"""``edge-report`` as a process: what it says of one film and of several, what it refuses, and its exit codes.

Where it writes: ``test_command_outputs.py``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_films import Run, make_dicom
from handmade import make_bundle
from report_contract import check_contract

from edge.bundle import DEMO, Bundle
from edge.errors import UsageError

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


@pytest.mark.parametrize("name", ["IM000001", "IM1.DCM", "a.png"])
def test_what_a_folder_is_answered_with_can_be_typed(run: Run, films: list[Path], tmp_path: Path, name: str) -> None:
    disc = tmp_path / "Müller's disc"
    series = disc / "ST 1" / "SE1"
    series.mkdir(parents=True)
    for place in (disc / "DICOMDIR", disc / ".hidden"):
        place.write_bytes(b"x")
    (series / name).write_bytes(films[0].read_bytes())
    result = run(disc)
    assert result.returncode == 1
    example = result.stderr.partition("for example  edge-report ")[2].strip()
    found = subprocess.run(["sh", "-c", f"printf %s {example}"], capture_output=True, text=True, encoding="utf-8")
    assert found.stdout == str(series / name)


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
    assert "use --device" in result.stderr


def test_isa_that_is_not_here(run: Run, films: list[Path]) -> None:
    result = run(films[0], env={"EDGE_ISA": "avx1024"})
    assert result.returncode == 82
    assert "generic" in result.stderr


def test_names_as_long_as_they_may_be(run: Run, films: list[Path], tmp_path: Path) -> None:
    """255 bytes; the temporary file beside it has a name of its own. Longer ones are told before the work."""
    longest = tmp_path / ("\u80ba" * 83 + ".txt")  # three bytes each
    result = run("-q", films[0], "-o", longest)
    assert (result.returncode, result.stderr) == (0, "")
    assert longest.read_text()
    result = run("-v", films[0], films[1], "--overlay", tmp_path / ("x" * 251 + ".png"))
    assert (result.returncode, result.stdout) == (40, "")
    assert "too long" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_as_many_threads_as_there_can_be(run: Run, films: list[Path]) -> None:
    for option, value, words in (
        ("--threads", "513", "from 1 to 512"),
        ("--max-new-tokens", str(1 << 30), "from 1 to"),
    ):
        result = run(films[0], option, value)
        assert result.returncode == 1
        assert f"{option}: '{value}' is not a whole number {words}" in result.stderr


def test_a_context_for_a_model_that_reads_none(run: Run, films: list[Path]) -> None:
    result = run(films[0], "--context", "cough")
    assert result.returncode == 1
    assert "reads none; leave it out" in result.stderr


def test_help_names_the_exit_codes_there_are(run: Run) -> None:
    said = " ".join(run("--help").stdout.split())
    for code in ("1 wrong", *(f"{code} " for code in (20, 21, 22, 23, 24, 25, 26, 27, 30, 130, 141)), "40-59", "80-99"):
        assert code in said
    assert "position" in said


def test_a_package_that_does_not_load(films: list[Path], environment: dict[str, str]) -> None:
    """As where there is too little memory to map it into, or somebody has taken it away."""
    code = "import sys; sys.modules['PIL'] = None; from edge.cli.report import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-P", "-c", code, "--threads", "1", str(films[0])]
    result = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (81, "")
    (line,) = result.stderr.splitlines()
    assert "a package that it needs does not load (PIL); install edge-report again" in line


def test_names_cannot_write_to_the_terminal(run: Run, tmp_path: Path) -> None:
    result = run(f"{tmp_path}/a\x1b[2J\nb.dcm", f"{tmp_path}/\u202ec.dcm")
    assert result.returncode == 20
    assert len(result.stderr.splitlines()) == 2
    assert "\x1b" not in result.stderr
    assert "\u202e" not in result.stderr


@pytest.mark.parametrize(
    ("films", "device", "environment", "kept", "runtime"),
    [
        (1, "auto", "", "", "ort"),
        (11, "cpu", "", "", "ort"),
        (12, "cpu", "", "", None),
        (1, "cuda", "", "", None),
        (1, "cpu", "x", "", None),
        (2, "auto", "", "ab" * 32, "ort"),
        (3, "auto", "", "ab" * 32, None),
        (3, "auto", "", "ab" * 7 + "cd" * 25, "ort"),
    ],
)
def test_few_films_are_not_worth_a_compiler(
    films: int,
    device: str,
    environment: str,
    kept: str,
    runtime: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from edge.cli.report import _runtime

    monkeypatch.setenv("EDGE_VISION_RUNTIME", environment)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if kept:
        from edge.vision.plans import PlanCache

        assert PlanCache(tmp_path / "edge-report" / "openvino").put({"graph": kept}, b"compiled")
    assert _runtime(films, device, "ab" * 32) == runtime
    monkeypatch.setenv("EDGE_VISION_CACHE", "off")
    assert _runtime(films, device, "ab" * 32) == ("ort" if kept else runtime)


def test_an_interrupt_before_the_command_has_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it is being imported, as when somebody types the wrong name."""
    from importlib.metadata import entry_points

    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    for command, module in (("report", "edge.cli.report"), ("node", "edge.node.cli"), ("review", "edge.review.cli")):
        finder = type("Interrupted", (), {"find_spec": staticmethod(_interrupt_at(module))})
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        assert scripts[f"edge-{command}"].load()() == 130
        assert capsys.readouterr() == ("", f"edge-{command}: interrupted\n")


def _interrupt_at(module: str) -> Any:
    def find_spec(name: str, *_: Any) -> None:
        if name == module:
            raise KeyboardInterrupt

    return find_spec
