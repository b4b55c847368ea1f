# SPDX-License-Identifier: Apache-2.0
"""``edge-node``: the command."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

from edge.cli.output import ClosedPipe, say, write_stdout
from edge.cli.parser import Parser
from edge.cli.streams import settle_streams

if TYPE_CHECKING:
    from edge.node.config import Config

PROG = "edge-node"
_EPILOG = """\
exit codes: 0 stopped on request; 1 wrong usage or configuration; 20 --find knows no such film; 30 bundle; 40-59 the
spool; 60 an address cannot be used; 80-99 the model. Drafts are for research. This is not a medical device.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser. Wrong usage ends the process with exit code 1 and one line on stderr."""
    parser = Parser(
        prog=PROG,
        description="A DICOM application entity: films by C-STORE in, drafts of their findings out.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="CONFIG.toml", help="the configuration; see docs/node.md")
    parser.add_argument("--check", action="store_true", help="tell everything that is wrong with it, and start nothing")
    parser.add_argument(
        "--find", metavar="UID", help="print what the trace says about the film of this SOP Instance UID, and end"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="more lines on stderr")
    parser.add_version()
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command; the exit code."""
    settle_streams()
    options = make_parser().parse_args(argv)
    from edge.errors import EdgeError

    try:
        return _run(options)
    except EdgeError as error:
        hint = f"; {error.hint}" if error.hint else ""
        say(f"{PROG}: {error.kind}: {error}{hint}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except ClosedPipe:
        return 141
    except Exception as error:  # no traceback: it might quote what a peer sent
        say(f"{PROG}: error: internal error ({type(error).__name__}); please report it")
        return 80


def _run(options: argparse.Namespace) -> int:
    from edge.errors import MissingRuntime
    from edge.node.configfile import ConfigError, read_config

    try:
        config = read_config(options.config)
    except ConfigError as error:
        return _tell(options.config, error.problems)
    if options.find is not None:
        return _find(config, options.find)
    try:
        import pynetdicom  # noqa: F401
    except ImportError:
        raise MissingRuntime("pynetdicom is not installed", hint='pip install "edge-report[cpu,node]"') from None
    from edge.node import log

    log.set_up(10 if options.verbose else 30 if options.check else 20)
    os.umask(0o077)  # everything the node writes is its own
    if options.check:
        from edge.node.node import check

        problems = check(config)
        if problems:
            return _tell(options.config, problems)
        write_stdout(f"{options.config}: no errors\n")
        return 0
    return serve(config)


def _find(config: Config, uid: str) -> int:
    """Print the lines about a film, and where it or its result is while it waits or once it was put aside."""
    from edge.errors import InputError, UsageError
    from edge.film.header import valid_uid
    from edge.node.spool import film_key
    from edge.node.trace import find

    if not valid_uid(uid):
        raise UsageError("--find takes a SOP Instance UID: digits and dots")
    spool, key = config.node.spool, film_key(uid)
    found = list(find(config.trace.path or spool / "trace.jsonl", spool / "trace.key", uid))
    # A film as KEY, a result as KEY.BUNDLE, or KEY.BUNDLE@RECEIVER where one receiver was given up.
    states = ("queue", "out", "dead")
    places = [f"{state}/{path.name}" for state in states for path in sorted((spool / state).glob(f"{key}*"))]
    if not found and not places:
        raise InputError("no film of this UID was taken, or its line is older than the trace")
    for line in (*found, *places):
        write_stdout(f"{line}\n")
    return 0


def _tell(path: str, problems: list[str]) -> int:
    for problem in problems:
        say(f"{PROG}: {path}: {problem}")
    return 1


def serve(config: Config) -> int:
    """Serve until SIGTERM or SIGINT; a second one ends at once."""
    from edge.node.log import log
    from edge.node.node import Node

    asked = threading.Event()
    node: Node | None = None

    def on_signal(number: int, _frame: Any) -> None:
        if asked.is_set():
            os._exit(128 + number)  # everything that matters is on disk
        asked.set()
        if node is not None:
            node.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    node = Node(config)
    try:
        if node.notice:
            log.warning("%s", node.notice)
        node.start()
        if asked.is_set():
            node.stop()
        node.serve()
    finally:
        finished = node.close()
    log.info("stopped%s", "" if finished else "; what was not finished is on disk")
    if not finished:
        sys.stderr.flush()
        os._exit(0)  # a thread still waits for a peer or a picture
    return 0


if __name__ == "__main__":
    sys.exit(main())
