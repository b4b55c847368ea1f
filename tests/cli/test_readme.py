# SPDX-License-Identifier: Apache-2.0
"""The commands of the README leave the checkout as it was."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="this is no checkout")
def test_what_the_first_command_makes_is_not_for_git() -> None:
    block = re.search(r"<!-- first command -->\n```bash\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert block is not None
    words = shlex.split(block.group(1))
    made = [words[i + 1] for i, word in enumerate(words) if word in ("--overlay", "venv")]
    assert len(made) == 2
    # As folders: a pattern for folders only says nothing of a name that is not there yet.
    names = [f"{name}/" if "." not in name[1:] else name for name in made]
    ignored = subprocess.run(["git", "-C", ROOT, "check-ignore", *names], capture_output=True, text=True, timeout=60)
    assert ignored.stdout.split() == names
