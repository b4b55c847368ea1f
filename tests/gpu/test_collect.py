# SPDX-License-Identifier: Apache-2.0
"""The tests of a device can be collected on a machine that has little more than the device."""

from __future__ import annotations

import subprocess
import sys

import pytest
from stand_in import ROOT

BARE = """\
import sys
for name in ("onnx", "onnxruntime", "pydicom", "gdcm", "torch", "transformers"):
    sys.modules[name] = None
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def test_without_onnx_and_its_runtime() -> None:
    call = ["-p", "no:cacheprovider", "-q", "--collect-only", "--rootdir", str(ROOT), str(ROOT / "tests" / "gpu")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", BARE, *call, "-m", "gpu and not slow"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == pytest.ExitCode.OK, done.stdout[-2000:] + done.stderr[-2000:]
    for name in ("kernels", "steps", "decoder", "persistent", "draft"):
        assert f"test_cuda_{name}.py::" in done.stdout
