# SPDX-License-Identifier: Apache-2.0
"""Options of ``edge-review``. Imports little but the standard library, so that ``--help`` is instant."""

from __future__ import annotations

import argparse
import os
import secrets
import sys

from edge.cli.numbers import whole
from edge.cli.parser import Parser

PROG = "edge-review"
ENVIRONMENT = "EDGE_REVIEW_TOKEN"
SHORTEST_TOKEN = 16

_EPILOG = """\
The page answers on this machine only. For another --host a token is needed (--token makes one, or $EDGE_REVIEW_TOKEN
holds it), and a certificate: without TLS token and films could be read on the way. Films stay in this process's memory
until their page is closed or they are not used for half an hour.

Drafts are for research. This is not a medical device.
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser. Wrong usage ends the process with exit code 1 and one line on stderr."""
    parser = Parser(
        prog=PROG,
        description="Serve a page to review drafts with: drop a film, read, edit, save.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--bundle", metavar="DIR", help="the model (default: $EDGE_REPORT_BUNDLE, else the demo model)")
    add("--host", metavar="ADDRESS", default="127.0.0.1", help="where to listen (default: 127.0.0.1)")
    add("--port", metavar="N", type=whole(0, 65535), default=8741, help="default: 8741; 0: any that is free")
    add(
        "--token",
        metavar="TEXT",
        nargs="?",
        const="",
        help=f"ask for this token, at least {SHORTEST_TOKEN} characters; without TEXT: a new one (others on this"
        f" machine can see TEXT in the list of processes: ${ENVIRONMENT} is better)",
    )
    add("--name", metavar="HOST", action="append", default=[], help="a host name that the page is asked for under")
    add("--tls-cert", metavar="PEM", help="serve HTTPS with this certificate (chain)")
    add("--tls-key", metavar="PEM", help="its key")
    add("--no-tls", action="store_true", help="serve others without TLS: a proxy in front adds it")
    add("--device", choices=("auto", "cpu", "cuda", "tensorrt"), default="auto", help="default: auto")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    add("--max-upload", metavar="MIB", type=whole(1, 4096), default=128, help="largest film taken (default: 128)")
    add("--open", action="store_true", help="open the page in this machine's browser")
    add("-v", "--verbose", action="store_true", help="more on stderr")
    parser.add_version()
    return parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Parse, find the token, and refuse to listen for others without one."""
    parser = make_parser()
    options = parser.parse_args(sys.argv[1:] if argv is None else argv)
    if options.token is None:
        options.token = os.environ.get(ENVIRONMENT)
    if options.token == "":
        options.token = secrets.token_urlsafe(24)
    if options.token is not None and (
        len(options.token) < SHORTEST_TOKEN or not options.token.isascii() or not options.token.isprintable()
    ):
        parser.error(f"a token has at least {SHORTEST_TOKEN} printable ASCII characters")
    options.loopback = is_loopback(options.host)
    if not options.loopback and options.token is None:
        parser.error(f"--host {options.host}: others could reach the films; add --token, or set ${ENVIRONMENT}")
    if bool(options.tls_cert) != bool(options.tls_key):
        parser.error("--tls-cert and --tls-key go together")
    if options.no_tls and options.tls_cert:
        parser.error("--no-tls and --tls-cert contradict each other")
    if not (options.loopback or options.tls_cert or options.no_tls):
        parser.error(
            f"--host {options.host}: token and films would cross the network in the clear; add --tls-cert and "
            "--tls-key, or --no-tls where a proxy speaks TLS"
        )
    return options


def is_loopback(host: str) -> bool:
    """Whether all that `host` means are addresses of this machine that no other can reach."""
    import ipaddress
    import socket

    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(ipaddress.ip_address(one.split("%")[0]).is_loopback for one in found)
