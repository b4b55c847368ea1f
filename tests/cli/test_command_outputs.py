# SPDX-License-Identifier: Apache-2.0
"""``edge-report`` as a process: files, what is open already, terminals, pipes and signals."""

from __future__ import annotations

import fcntl
import io
import json
import os
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_films import Run
from PIL import Image
from report_contract import check_contract

# ---- -o and --overlay


def test_output_file(run: Run, films: list[Path], tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    target.write_text("old")
    result = run("--format", "json", "-o", target, films[0])
    assert (result.returncode, result.stdout) == (0, "")
    check_contract(json.loads(target.read_text()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.json"]


def test_the_documentation_explains_every_name_in_the_json(run: Run, films: list[Path]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text()
    table = page.split("## The JSON of a report")[1].split("##")[0]
    report = json.loads(run("--format", "json", films[0], films[1]).stdout.splitlines()[0])
    inner = [*report["sentences"], *(entry["evidence"] for entry in report["sentences"] if entry["evidence"])]
    names = {*report, *(name for part in [*report.values(), *inner] if isinstance(part, dict) for name in part)}
    assert names > {"findings", "position", "confidence", "peak", "view_position", "prefill", "passes", "isa"}
    assert {name for name in names if f"`{name}`" not in table} == set()


def test_a_dash_is_stdout(run: Run, films: list[Path], tmp_path: Path) -> None:
    result = run("--format", "json", "-o", "-", films[0], cwd=tmp_path)
    assert result.returncode == 0
    check_contract(json.loads(result.stdout))
    assert not list(tmp_path.iterdir())


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


@pytest.mark.skipif(not Path("/dev/stdin").exists(), reason="needs /dev/stdin")
def test_film_from_stdin(films: list[Path], shell: Callable[..., tuple[int, str, str]]) -> None:
    """A file is opened anew by that name; a pipe cannot be read twice, and the help says so."""
    text = shell(f"REPORT -q {films[0]}")
    assert text[0] == 0
    assert shell(f"REPORT -q /dev/stdin < {films[0]}") == text
    code, out, err = shell(f"cat {films[0]} | REPORT /dev/stdin")
    assert (code, out) == (20, "")
    (line,) = err.splitlines()
    assert "not from a pipe" in line
    assert "refused (20) behind a pipe" in shell("REPORT --help")[1]


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


def test_output_by_a_link_to_nothing(run: Run, films: list[Path], tmp_path: Path) -> None:
    """A file can be made there, or that it cannot is found out before the model is loaded."""
    (tmp_path / "new.txt").symlink_to("made.txt")
    assert run("-o", tmp_path / "new.txt", films[0]).returncode == 0
    assert (tmp_path / "made.txt").read_text()
    assert (tmp_path / "new.txt").is_symlink()
    (tmp_path / "lost.png").symlink_to("none/there.png")
    (tmp_path / "long.png").symlink_to("x" * 300)
    for option in ("-o", "--overlay"):
        for name, reason in (("lost.png", "/none does not exist: create it first"), ("long.png", "name is too long")):
            result = run(option, tmp_path / name, "--bundle", "none", films[0])
            assert (result.returncode, result.stdout) == (40, "")
            (line,) = result.stderr.splitlines()
            assert reason in line
    (tmp_path / "folder").symlink_to("none")
    result = run("--format", "fhir", "-o", tmp_path / "folder", "--bundle", "none", films[0], films[0])
    assert result.returncode == 40
    assert "link" in result.stderr.splitlines()[0]


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


@pytest.mark.parametrize("words", [["--stream"], ["--format", "json"], [], ["-o", "/dev/stdout"], ["-o", "/dev/fd/1"]])
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


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["--format", "json"], ["--format", "json", "-o", "/dev/stdout"]])
def test_a_pipe_that_does_not_block(
    films: list[Path], command: list[str], environment: dict[str, str], words: list[str], unbuffered: str
) -> None:
    """Its reader is slower than we are, and whoever shares it has set it so."""
    line = [*command, "-q", *words, *map(str, films)]
    whole = subprocess.run(line, env=environment, stdout=subprocess.PIPE, timeout=120).stdout
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    assert len(whole) > 4096
    process = subprocess.Popen(
        line, env=environment | {"PYTHONUNBUFFERED": unbuffered}, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    while not select.select([reader], [], [], 60)[0] and process.poll() is None:
        pass
    time.sleep(0.2)  # the pipe is full
    with open(reader, "rb") as stream:
        got = stream.read()
    assert (process.wait(60), process.stderr.read()) == (0, b"")
    process.stderr.close()
    texts = [[json.loads(text)["findings"] for text in found.splitlines()] for found in (whole, got)]
    assert texts[0] == texts[1]
