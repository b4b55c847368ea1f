# SPDX-License-Identifier: Apache-2.0
"""``edge-bench complete``: finishing a sentence, in the engine and through the review page's server."""

from __future__ import annotations

import argparse
import http.client
import json
import threading
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from .exits import exit_code

PROG = "edge-bench complete"

_EPILOG = """\
A film is looked at once; then, by turns, its report is written and the sentence begun behind all of the report's is
finished. Times are from the call to the first word and to the whole sentence: in this process, and over HTTP to a
server as edge-review runs it. "fresh" is what the same completion costs where nothing is kept: a report with the
text as its prompt.
"""


def make_parser() -> argparse.ArgumentParser:
    from edge.cli.numbers import whole
    from edge.cli.parser import Parser

    parser = Parser(prog=PROG, epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    add = parser.add_argument
    add("--bundle", metavar="DIR", help="the model (default: $EDGE_REPORT_BUNDLE, else the demo model)")
    add("--film", metavar="PATH", help="default: examples/*.dcm, else a drawn picture")
    add("--text", metavar="TEXT", default="The heart", help="the beginning (default: The heart)")
    add("--rounds", metavar="N", type=whole(1, 1000), default=20, help="default: 20")
    add("--threads", metavar="N", type=whole(1, 512), help="default: the physical cores this process may use")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, and print milliseconds as min / median / max."""
    options = make_parser().parse_args(argv)
    return exit_code(PROG, lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    import tempfile

    from edge.cli.output import write_stdout
    from edge.engine import load

    from .films import choose_film

    with tempfile.TemporaryDirectory() as work:
        path = choose_film(options.film, Path(work))
        engine = load(options.bundle, threads=options.threads)
        film = engine.open(path)
        report = film.report()
        before = [sentence.text for sentence in report.sentences]
        text = " ".join([*before, options.text])
        while before and film.room(text) < 40:
            before, text = before[1:], " ".join([*before[1:], options.text])
        about = f"{engine.manifest.name}, {engine.threads} threads, {engine.isa}"
        write_stdout(f"{about}; {len(before)} sentences before\n")
        client = _client(engine, path)
        rows: dict[str, list[tuple[float, float]]] = {"in the engine": [], "over HTTP": [], "fresh": []}
        for round_ in range(options.rounds + 1):
            film.report()
            taken = [
                _timed(lambda on: film.complete(text, partial_word=True, on_text=on)),
                _timed(lambda on: client(before, options.text, on)),
            ]
            if round_ < 4:
                taken.append(_timed(lambda on: engine.report(path, prompt=text, on_text=on)))
            if round_:
                for name, pair in zip(rows, taken, strict=False):
                    rows[name].append(pair)
        for name, pairs in rows.items():
            first, whole = ([pair[i] * 1e3 for pair in pairs] for i in (0, 1))
            write_stdout(f"{name:14}  first word {_spread(first)} ms   whole {_spread(whole)} ms   n={len(pairs)}\n")


def _timed(call: Callable[[Callable[[str], None]], Any]) -> tuple[float, float]:
    """Seconds to the first word that is not the prompt's, and to the end."""
    start, first = perf_counter(), list[float]()
    call(lambda _piece: first.append(perf_counter()))
    end = perf_counter()
    return (first[0] if first else end) - start, end - start


def _spread(values: list[float]) -> str:
    ordered = sorted(values)
    return f"{ordered[0]:.1f} / {ordered[len(ordered) // 2]:.1f} / {ordered[-1]:.1f}"


def _client(engine: Any, film: Path) -> Callable[[list[str], str, Callable[[str], None]], None]:
    """Asks a server of this process, in a thread of its own, as the page does."""
    import uvicorn

    from edge.review.cli import application, configured, listen
    from edge.review.options import parse

    options = parse(["--port", "0"])
    listener = listen(options.host, options.port)
    server = uvicorn.Server(configured(application(engine, options), options))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=120)
    headers = {"X-Edge-Review": "1"}

    def ask(path: str, body: bytes) -> http.client.HTTPResponse:
        connection.request("POST", path, body, headers)
        return connection.getresponse()

    answer = ask("/api/film", film.read_bytes())
    answer.read()
    headers["X-Edge-Session"] = answer.headers["X-Edge-Session"]
    ask("/api/report", b"").read()

    def complete(before: list[str], text: str, on_text: Callable[[str], None]) -> None:
        for line in ask("/api/complete", json.dumps({"before": before, "text": text}).encode()):
            event = json.loads(line)
            if event["event"] == "text":
                on_text(event["text"])

    return complete
