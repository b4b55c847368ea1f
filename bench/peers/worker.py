# SPDX-License-Identifier: Apache-2.0
"""The process of one peer: ``python -m edge_bench.peers.worker JOB``, JSON lines in and out.

It loads the peer and says ``{"ready": {...}}``, ``{"missing": why}`` or ``{"failed": why}``; then each line
``{"task": name}`` is answered with ``{"ms": figure}`` or ``{"failed": why}``. What the peer prints goes to stderr.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from typing import Any, TextIO

from .job import Job, Missing, Runner


def load(job: Job) -> Runner:
    """The peer of a job, ready to run.

    Raises
    ------
    Missing
    """
    module = importlib.import_module(job.peer if "." in job.peer else f"{__package__}.{job.peer}_peer")
    runner: Runner = module.load(job)
    return runner


def serve(job: Job, commands: TextIO, answers: TextIO) -> None:
    """Load, then answer commands until there are no more."""

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        runner = load(job)
    except Missing as error:
        return answer({"missing": str(error)})
    except Exception as error:
        return answer({"failed": _line(error)})
    answer({"ready": runner.info})
    for line in commands:
        try:
            answer({"ms": runner.run(json.loads(line)["task"])})
        except Exception as error:
            answer({"failed": _line(error)})


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__


def read_job(text: str) -> Job:
    """A job as JSON; a TypeError or ValueError where it is none."""
    return Job(**json.loads(text))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m edge_bench.peers.worker", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("job", metavar="JOB", type=read_job, help="what to load, as JSON")
    job = parser.parse_args(argv).job
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # a peer that prints must not spoil the answers
    serve(job, sys.stdin, answers)
    return 0


if __name__ == "__main__":
    sys.exit(main())
