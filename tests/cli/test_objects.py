# SPDX-License-Identifier: Apache-2.0
"""``edge-report`` as a process: DICOM and FHIR objects, and what is left of them when writing fails."""

from __future__ import annotations

import json
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from cli_films import make_dicom
from handmade import CODING, chest_picture, make_bundle
from PIL import Image

from edge.cli.report import main as edge_report

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Main:
    """The command in this process: ``code, stdout, stderr = main(...)``."""
    monkeypatch.setenv("EDGE_REPORT_BUNDLE", str(bundle))

    def call(*words: object) -> tuple[int, str, str]:
        code = edge_report(["--threads", "1", *map(str, words)])
        out, err = capfd.readouterr()
        assert "SECRET" not in err
        return code, out, err

    return call


def test_every_object_of_one_film(main: Main, films: list[Path], tmp_path: Path) -> None:
    options = ["--overlay", tmp_path / "sc.dcm", "--mask-dicom", tmp_path / "seg.dcm"]
    assert main("-q", "--format", "sr", "-o", tmp_path / "sr.dcm", *options, films[0]) == (0, "", "")
    film = pydicom.dcmread(films[0])
    made = {name: pydicom.dcmread(tmp_path / f"{name}.dcm") for name in ("sr", "sc", "seg")}
    assert {name: ds.Modality for name, ds in made.items()} == {"sr": "SR", "sc": "OT", "seg": "SEG"}
    for ds in made.values():
        assert (ds.PatientName, ds.StudyInstanceUID) == (film.PatientName, film.StudyInstanceUID)
    items = made["sr"].ContentSequence[-1].ContentSequence
    found = [item.TextValue for item in items if item.ConceptNameCodeSequence[0].CodeValue == "121071"]
    assert found
    assert "".join("".join(found).split()) == "".join(main("-q", films[0])[1].split())
    assert made["seg"].pixel_array.shape == (film.Rows, film.Columns)
    assert len(list(tmp_path.iterdir())) == 3


def test_several_films_into_a_folder(main: Main, films: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "drafts"
    code, out, _ = main("-q", "--format", "sr", "-o", folder, films[0], films[1], films[0])
    assert (code, out) == (0, "")
    names = {path.name for path in folder.iterdir()}
    assert names == {f"SR.{pydicom.dcmread(path).SOPInstanceUID}.dcm" for path in folder.iterdir()}
    assert len(names) == 2  # the same film again replaces, it does not double
    assert main("-q", "--format", "fhir", "-o", folder, films[0])[0] == 0
    (resource,) = folder.glob("DiagnosticReport.*.json")
    assert json.loads(resource.read_text())["subject"]["identifier"]["value"] == "SECRETID"


@pytest.mark.parametrize("form", ["sr", "fhir"])
def test_a_folder_by_its_slash(main: Main, films: list[Path], tmp_path: Path, form: str) -> None:
    """It is made, for one film as for several, and the files have the same names."""
    names = []
    for folder, chosen in (("one", films[:1]), ("two", films[:2])):
        assert main("-q", "--format", form, "-o", f"{tmp_path / folder}/", *chosen) == (0, "", "")
        assert main("-q", "--format", form, "-o", f"{tmp_path / folder}//", *chosen) == (0, "", "")
        names.append({path.name for path in (tmp_path / folder).iterdir()})
    assert [len(found) for found in names] == [1, 2]
    assert names[0] < names[1]
    code, out, err = main("--format", form, "-o", f"{tmp_path}/none/none/", films[0])
    assert (code, out) == (40, "")
    assert f"the folder {tmp_path}/none does not exist" in err
    (tmp_path / "file").write_text("old")
    assert main("--format", form, "-o", f"{tmp_path}/file/", films[0])[0] == 40
    assert (tmp_path / "file").read_text() == "old"


def test_coded_findings(main: Main, films: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only of a bundle that says how they are coded, and that is found out before any work."""
    out = tmp_path / "coded.dcm"
    code, said, err = main("--format", "sr-tid1500", "-o", out, films[0])
    assert (code, said) == (1, "")
    assert "does not say how its findings are coded (it has no coding.json)" in err
    assert not out.exists()
    monkeypatch.setenv("EDGE_REPORT_BUNDLE", str(make_bundle(tmp_path / "bundle", coding=CODING)))
    assert main("-q", "--format", "sr-tid1500", "-o", out, films[0]) == (0, "", "")
    made = pydicom.dcmread(out)
    assert (made.SOPClassUID, made.PatientID) == ("1.2.840.10008.5.1.4.1.1.88.34", "SECRETID")
    assert main("-q", "--format", "sr-tid1500", films[0], films[1])[0] == 1  # several need a folder


def test_several_films_as_fhir_lines(main: Main, films: list[Path]) -> None:
    lines = main("-q", "--format", "fhir", *films[:2])[1].splitlines()
    assert [json.loads(line)["resourceType"] for line in lines] == ["DiagnosticReport"] * 2


def test_a_picture_as_fhir_and_not_as_dicom(main: Main, tmp_path: Path) -> None:
    picture = tmp_path / "film.png"
    Image.fromarray(chest_picture()).save(picture)
    out = tmp_path / "a.dcm"
    for words in (["--format", "sr", "-o", out], ["--overlay", out], ["--mask-dicom", out]):
        code, said, err = main(*words, picture)
        assert (code, said) == (1, "")
        (line,) = err.splitlines()
        assert f"{picture}: usage: a PNG picture has no DICOM header" in line
        assert list(tmp_path.iterdir()) == [picture]
    code, said, _ = main("-q", "--format", "fhir", picture)
    assert code == 0
    assert "subject" not in json.loads(said)


def test_a_film_without_uids(main: Main, films: list[Path], tmp_path: Path) -> None:
    bad = make_dicom(tmp_path / "bad.dcm", StudyInstanceUID="")
    code, _, err = main("-q", "--format", "sr", "-o", tmp_path / "out", bad, films[0])
    assert code == 41
    assert "Study Instance UID" in err
    assert len(list((tmp_path / "out").iterdir())) == 1


def test_wrong_usage_of_objects(main: Main, films: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    bundle = make_bundle(tmp_path / "bundle", bias=False)
    for words, expected in (
        (["--format", "sr", *films], 1),
        (["--format", "sr", "--stream", films[0]], 1),
        (["--mask-dicom", "x.png", films[0]], 1),
        (["--format", "sr", "-o", tmp_path / "file", *films], 40),
        (["--format", "sr", "-o", tmp_path / "none" / "none", *films], 40),
        (["--mask-dicom", tmp_path / "x.dcm", "--bundle", bundle, films[0]], 1),
    ):
        code, out, err = main(*words)
        assert (code, out) == (expected, "")
        assert len(err.splitlines()) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "file"]


def test_sr_to_a_pipe(films: list[Path], command: list[str], environment: dict[str, str]) -> None:
    words = [*command, "--threads", "1", "-q", "--format", "sr", str(films[0])]
    done = subprocess.run(words, env=environment, capture_output=True, timeout=120)
    assert done.returncode == 0
    assert done.stdout[128:132] == b"DICM"


def test_a_full_disk_leaves_nothing(
    films: list[Path], command: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    """No file may grow over 4000 bytes: the report fits nowhere, and what was there stays as it was."""
    (tmp_path / "sr.dcm").write_bytes(b"old")
    words = ["--format", "sr", "-o", "sr.dcm", "--overlay", "sc.dcm", "--mask-dicom", "seg.dcm", str(films[0])]
    done = subprocess.run(
        [*command, "--threads", "1", "-q", *words],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)),
    )
    assert done.returncode == 40
    lines = done.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == ["sc.dcm", "sr.dcm"]
    assert all("nothing was changed" in line for line in lines)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["seg.dcm", "sr.dcm"]
    assert (tmp_path / "sr.dcm").read_bytes() == b"old"
    assert pydicom.dcmread(tmp_path / "seg.dcm").Modality == "SEG"  # small enough, and so whole


def test_no_folder_without_an_object(main: Main, films: list[Path], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.dcm"
    damaged.write_bytes(films[0].read_bytes()[:600])
    code, out, err = main("--format", "sr", "-o", f"{tmp_path / 'drafts'}/", damaged)
    assert (code, out) == (22, ""), err
    code, out, _ = main("--bundle", tmp_path / "none", "--format", "fhir", "-o", tmp_path / "drafts", *films[:2])
    assert (code, out) == (30, "")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # as on a full disk
    try:
        code, out, _ = main("--format", "sr", "-o", tmp_path / "drafts", *films[:2])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (code, out) == (40, "")
    assert list(tmp_path.iterdir()) == [damaged]
    assert main("--format", "fhir", "-o", tmp_path / "drafts", damaged, *films[:2])[0] == 22
    assert len(list((tmp_path / "drafts").iterdir())) == 2
