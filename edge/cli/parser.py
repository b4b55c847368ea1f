# SPDX-License-Identifier: Apache-2.0
"""The parser of every command. Imports little but argparse, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from edge.cli.output import ClosedPipe, write_stdout
from edge.errors import OutputError
from edge.version import __version__

CLOSED_PIPE = 141


class Parser(argparse.ArgumentParser):
    """Wrong usage ends the process with exit code 1 and one line on stderr.

    Answers (``--help``, ``--version``) that cannot be written end it as reports do that cannot: argparse itself takes
    them for written.
    """

    def error(self, message: str) -> NoReturn:
        line = "".join(c if c.isprintable() else "?" for c in message)
        self.exit(1, f"{self.prog}: usage: {line}; see {self.prog} --help\n")

    def add_version(self) -> None:
        """Add ``--version``."""
        self.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")

    def print_help(self, file: Any = None) -> None:
        if file is None:
            self.answer(self.format_help())
        else:
            super().print_help(file)

    def answer(self, text: str) -> None:
        """Write to stdout; ends the process where that fails."""
        try:
            write_stdout(text)
        except OutputError as error:
            self.exit(error.exit_code, f"{self.prog}: {error.kind}: {error}\n")
        except ClosedPipe:
            self.exit(CLOSED_PIPE)


class _Version(argparse.Action):
    def __init__(self, option_strings: list[str], dest: str, **more: Any) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, default=argparse.SUPPRESS, **more)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        parser.answer(f"{parser.prog} {__version__}\n")
        parser.exit()
