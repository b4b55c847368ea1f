# SPDX-License-Identifier: Apache-2.0
"""What ``edge-report`` says about devices: a demanded one that is not here, and ``auto`` that stays on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_films import Run

import edge.cuda
import edge.engine
from edge.cli.report import main


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if "--device" in line]


@pytest.mark.skipif(edge.cuda.driver_shows_gpu(), reason="there is a GPU here")
def test_auto_that_was_asked_for_says_why_it_is_the_cpu(run: Run, films: list[Path]) -> None:
    result = run("--device", "auto", films[0])
    assert result.returncode == 0
    (line,) = lines(result.stderr)
    assert line.startswith("edge-report: --device auto: decoding on the CPU: ")
    assert "no CUDA decoding library" in line or "driver" in line
    assert "--device" not in result.stdout
    # Who has no GPU and asked for nothing is told nothing; -q is quiet.
    for words in ((), ("-q", "--device", "auto"), ("--device", "cpu")):
        result = run(*words, films[0])
        assert result.returncode == 0
        assert not lines(result.stderr)


def test_a_gpu_that_is_not_used_is_told(
    films: list[Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(edge.cuda, "library_path", lambda: tmp_path / edge.cuda.LIBRARY)
    call = ["--bundle", str(bundle), "--threads", "1", str(films[0])]
    for here in (True, False):
        monkeypatch.setattr(edge.cuda, "driver_shows_gpu", lambda here=here: here)
        assert main(call) == 0
        told = lines(capsys.readouterr().err)
        assert len(told) == here
        assert not here or told[0].startswith("edge-report: --device auto: decoding on the CPU: this build has no CUDA")


def test_a_demanded_gpu_is_not_half_of_one(
    films: list[Path], bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The graph could run there (as if: on the CPU), the decoder has no library: an error, and no report."""

    class Vision(edge.engine.VisionSession):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **(options | {"device": "cpu"}))  # type: ignore[arg-type]

    monkeypatch.setattr(edge.engine, "VisionSession", Vision)
    monkeypatch.setattr(edge.cuda, "library_path", lambda: tmp_path / edge.cuda.LIBRARY)
    assert main(["--bundle", str(bundle), "--threads", "1", "--device", "cuda", str(films[0])]) == 82
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.splitlines()
    assert "device: this build has no CUDA decoding library" in line
    assert "use --device auto or cpu" in line
