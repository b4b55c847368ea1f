# SPDX-License-Identifier: Apache-2.0
"""``edge-phantom``: exit codes, and one line for whatever cannot be done."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("cv2")

from edge_export.phantom.cli import _parser, main
from edge_export.phantom.evaluate import evaluate

from edge.errors import UsageError

NOWHERE = "/proc/x"
"""Nobody can make this, whoever runs the tests."""


def line(capsys: pytest.CaptureFixture[str]) -> str:
    """What was said on stderr: a line, and nothing on stdout."""
    said = capsys.readouterr()
    assert said.out == ""
    (only,) = said.err.splitlines()
    return only


@pytest.mark.parametrize(
    "call",
    [
        "",
        "foo",
        "draw --foo",
        "draw --out OUT --foo",
        "draw --out OUT --n -1",
        "draw --out OUT --n 0",
        "draw --out OUT --n many",
        "draw --out OUT --size 3",
        "draw --out OUT --seed -1",
        "train --out OUT --images 0",
        "train --out OUT --steps -1",
        "train --out OUT --workers 0",
        "train --out OUT --threads 0",
        "train --out OUT --evaluate 0",
        "draft --out OUT --threads 0",
        "coding",
        "evaluate --n 0",
        "evaluate --size 1",
        "evaluate --threads 0",
    ],
)
def test_wrong_usage_is_a_line_and_exit_code_1(call: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(call.replace("OUT", str(out)).split()) == 1
    said = line(capsys)
    assert said.startswith("edge-phantom: usage: ")
    assert "--help" in said
    assert not out.exists()


def test_help_is_whole() -> None:
    parser = _parser()
    assert "`" not in parser.format_help()
    (commands,) = (action.choices for action in parser._actions if isinstance(action.choices, dict))
    silent = [(name, a.dest) for name, command in commands.items() for a in command._actions if not a.help]
    assert silent == []


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "--help"]) == 0
    assert "--format" in capsys.readouterr().out


@pytest.mark.parametrize(
    "call",
    [
        f"draw --n 1 --size 128 --out {NOWHERE}",
        f"coding --out {NOWHERE}.json",
        f"coding --out {NOWHERE}/table.json",
        f"draft --out {NOWHERE}/bundle",
        f"evaluate --n 1 --json {NOWHERE}/scores.json",
        f"evaluate --n 1 --drafting --json {NOWHERE}/scores.json",
    ],
)
def test_what_cannot_be_written_is_told_in_a_line(call: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(call.split()) == 40
    said = line(capsys)
    assert said.startswith("edge-phantom: cannot write: ")
    assert NOWHERE in said


@pytest.mark.parametrize("form", ["dicom", "png"])
def test_a_disk_that_is_full(form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        code = main(["draw", "--n", "1", "--size", "200", "--format", form, "--out", str(tmp_path / "films")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 40
    assert capsys.readouterr().err.splitlines()[-1] == f"edge-phantom: cannot write: {tmp_path}/films: File too large"
    assert list((tmp_path / "films").iterdir()) == []


@pytest.mark.parametrize("family", ["lana", "bert-cross"])
@pytest.mark.parametrize("rest", [f"--no-draw --out {NOWHERE}", f"--draw-only --cache {NOWHERE} --workers 1 --out OUT"])
def test_training_that_cannot_write(family: str, rest: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["train", "--family", family, *rest.replace("OUT", str(tmp_path)).split()]) == 40
    assert NOWHERE in line(capsys)


@pytest.mark.parametrize("seed", [0, 7, (1 << 31) - 1])
def test_the_ends_of_the_ranges_are_drawn(seed: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["draw", "--n", "2", "--size", "128", "--seed", str(seed), "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*.dcm"))) == 2


def test_the_table_is_written_as_a_whole(tmp_path: Path) -> None:
    from edge_export.phantom.coding import coding_json

    assert main(["coding", "--out", str(tmp_path / "table.json")]) == 0
    assert (tmp_path / "table.json").read_bytes() == coding_json()
    assert len(list(tmp_path.iterdir())) == 1


def test_no_phantoms_have_no_scores() -> None:
    with pytest.raises(UsageError):
        evaluate(0, 1)


def test_an_inner_error_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_arguments: object) -> None:
        raise ValueError("two\nlines")

    monkeypatch.setattr("edge_export.phantom.cli._run", fail)
    assert main(["coding", "--out", "x"]) == 80
    assert line(capsys) == "edge-phantom: internal error: ValueError: two?lines"
