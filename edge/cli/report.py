# SPDX-License-Identifier: Apache-2.0
"""``edge-report``: films in, findings drafts out. See :mod:`edge.cli.options` for the options."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import errno
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from edge.cli.objects import Objects
from edge.cli.options import PROG, parse
from edge.cli.output import ClosedPipe, check_target, named_twice, printable, say, write_stdout, write_whole
from edge.cli.streams import settle_streams
from edge.errors import CannotRead, EdgeError, MissingRuntime, UsageError

if TYPE_CHECKING:
    from edge.engine import Engine
    from edge.prepare import Ahead, Prepared
    from edge.report import Report
    from edge.standard.filmheader import FilmHeader
    from edge.study import Study

INTERRUPTED = 130
CLOSED_PIPE = 141
INTERNAL = 80
FEW_FILMS, MANY_FILMS = 3, 12


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Without `argv` it is the program itself and ends the process: taking interpreter and model apart piece by piece
    takes longer than writing a report.
    """
    code = _command(argv)
    if argv is None:
        _leave(code)
    return code


def _command(argv: list[str] | None) -> int:
    settle_streams()
    # NumPy's linear algebra is not used, but its threads would be started, and spin for a while, on import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        options = parse(argv)
    except SystemExit as end:  # argparse has said what there was to say
        return int(end.code or 0)
    try:
        return _Run(options).go()
    except KeyboardInterrupt:
        say(f"{PROG}: interrupted")
        return INTERRUPTED
    except ClosedPipe:
        return CLOSED_PIPE


def _leave(code: int) -> NoReturn:
    """End the process; what was registered for its end (the decoding worker's) is done, and nothing else."""
    with contextlib.suppress(Exception):
        atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # what is written was flushed, and failures were told, before
            stream.flush()
    os._exit(code)


def _runtime(films: int, device: str | None, graph: str) -> str | None:
    """The vision runtime for so many films; None leaves it to the engine. `graph` is the SHA-256 of OpenVINO's graph.

    ONNX Runtime loads a graph in a fifth of the time that OpenVINO takes to compile one, which only a dozen films earn
    back. What it has compiled before, and kept, a few do.
    """
    from edge.vision.choice import ENVIRONMENT

    if films >= MANY_FILMS or device in ("cuda", "tensorrt") or os.environ.get(ENVIRONMENT):
        return None
    if films >= FEW_FILMS:
        from edge.vision.ov_cache import is_kept

        if is_kept(graph):
            return None
    return "ort"


class _Run:
    """One call of the command."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.films: list[str] = options.images
        self.study = options.study and len(self.films) > 1
        self.several = len(self.films) > 1 and not self.study
        self.codes = [0]
        self.objects = Objects(options)
        self.headers: dict[str, FilmHeader | None] = {}
        self.parts: list[str | bytes] = []  # what goes to -o
        self.delivered = 0
        self.context: dict[str, str] = {}

    def go(self) -> int:
        options = self.options
        _prepare_streams(options.verbose)
        targets, folder = self.targets(), self.objects.folder
        twice = named_twice(targets if folder is None else [folder, *targets])
        if twice is not None:
            return self.fail(twice, UsageError("two outputs would go to this file; give each a name of its own"))
        for target in targets:
            if not self.attempt(target, partial(check_target, target, self.films)):
                return max(self.codes)
        if folder is not None and not self.attempt(folder, self.objects.check_folder):
            return max(self.codes)
        ready = [self.attempt(film, partial(self.check, film)) for film in self.films]
        if not (all(ready) if self.study else any(ready)):
            return max(self.codes)
        chosen = [(index, film) for index, film in enumerate(self.films, 1) if ready[index - 1]]
        self.attempt(self.model, partial(self.report, chosen))
        if options.output is not None and self.parts:
            data = b"".join(part if isinstance(part, bytes) else part.encode() for part in self.parts)
            self.attempt(options.output, lambda: write_whole(options.output, data))
        return max(self.codes)

    def check(self, film: str) -> None:
        """Refuse before a model is loaded what needs none to be refused."""
        _check_film(film)
        self.headers[film] = self.objects.header(film)

    def targets(self) -> list[str]:
        """Every file that is going to be written."""
        films = range(1, len(self.films) + 1)
        targets = [path for index in films for _, path in self.objects.pictures(index)]
        return targets if self.options.output is None or self.objects.folder else [self.options.output, *targets]

    def attempt(self, name: str, action: Callable[[], None]) -> bool:
        """Run `action`; a failure becomes one line on stderr and an exit code."""
        try:
            action()
            return True
        except EdgeError as error:
            self.fail(name, error)
        except (KeyboardInterrupt, ClosedPipe):
            raise
        except MemoryError:
            self.fail(name, EdgeError("not enough memory"))
        except ImportError as error:  # also where there is no memory to map it into
            package = (error.name or "one of them").partition(".")[0]
            hint = "install edge-report again, or give it more memory"
            self.fail(name, MissingRuntime(f"a package that it needs does not load ({package})", hint=hint))
        except Exception as error:  # no traceback, and no text of it: that might quote the header
            if isinstance(error, OSError) and error.errno == errno.ENOMEM:
                self.fail(name, EdgeError("not enough memory"))
                return False
            self.fail(name, EdgeError(f"internal error ({type(error).__name__}); please report it"))
        return False

    def fail(self, name: str, error: EdgeError) -> int:
        hint = f"; {error.hint}" if error.hint else ""
        say(f"{PROG}: {name}: {error.kind}: {error}{hint}")
        self.codes.append(error.exit_code)
        return error.exit_code

    @property
    def model(self) -> str:
        """What errors of the model are told about."""
        from edge.bundle import ENVIRONMENT

        return self.options.bundle or os.environ.get(ENVIRONMENT) or "demo bundle"

    def report(self, films: list[tuple[int, str]]) -> None:
        """Load the model and report the films; a film is being read while the model loads or reports another."""
        from edge.film.hint import begin_decoder

        options = self.options
        begin_decoder(films[0][1])
        from edge.bundle import Bundle
        from edge.prompt import named_texts

        bundle = Bundle.open(options.bundle)
        self.objects.check_model(bundle.manifest)
        context = named_texts(options.context, bundle.manifest.generation.context)
        _import_compiled()  # before there is a second thread: NumPy breaks when two import it at once
        from edge.engine import load
        from edge.prepare import Ahead

        with Ahead([film for _, film in films], bundle.manifest.image, force=options.force) as ahead:
            draft = not options.no_draft
            manifest = bundle.manifest
            graph = manifest.files[manifest.vision_static_file or manifest.vision_file]
            vision = _runtime(len(films), options.device, graph.sha256)
            engine = load(
                bundle,
                options.device or "auto",
                options.threads,
                options.bias_rows,
                vision,
                draft=draft,
                kv_dtype=options.kv,
            )
            self.context = context
            self.objects.check_cap(bundle.manifest, engine.read_context(context))
            self.tell_fallback(engine)
            if engine.notice:
                say(f"{PROG}: {engine.notice}")
            if self.study:
                self.whole_study(engine, ahead)
                return
            width = options.at_once
            for at in range(0, len(films), width):
                if width > 1:
                    self.group(engine, ahead, films[at : at + width])
                else:
                    index, film = films[at]
                    self.attempt(film, partial(self.one, engine, ahead.take, film, index))

    def tell_fallback(self, engine: Engine) -> None:
        """One line where the CPU does what was left to ``auto``: if that was asked for, or if there is a GPU."""
        options = self.options
        if not engine.fallback or options.quiet:
            return
        from edge.cuda import driver_shows_gpu

        if options.device == "auto" or driver_shows_gpu():
            say(f"{PROG}: --device auto: {'; '.join(engine.fallback)}")

    def whole_study(self, engine: Engine, ahead: Ahead) -> None:
        """Report all films together; each that cannot be read is told, and then there is no report."""
        from edge.standard.filmheader import film_header
        from edge.study import Study

        ready: list[Prepared] = []
        for film in self.films:
            self.attempt(film, lambda: ready.append(ahead.take()))
        if len(ready) < len(self.films):
            return
        first, headers = self.films[0], [self.headers[film] for film in self.films]
        self.headers[first] = None if None in headers else film_header(headers)
        self.attempt(first, partial(self.one, engine, lambda: Study(ready), first, 1))

    def group(self, engine: Engine, ahead: Ahead, films: list[tuple[int, str]]) -> None:
        """Report the next films, their texts written at once, and deliver the results in order."""
        sources: list[Any] = []
        for _ in films:
            try:
                sources.append(ahead.take())
            except Exception as error:
                sources.append(error)
        try:
            made: list[Any] = list(
                engine.reports(sources, at_once=len(films), max_new_tokens=self.options.max_new_tokens)
            )
        except Exception as error:
            made = [source if isinstance(source, Exception) else error for source in sources]
        for (index, film), result in zip(films, made, strict=True):
            self.attempt(film, partial(self.finish, engine, film, index, result))

    def heading(self, film: str) -> str:
        gap = "\n" if self.delivered else ""
        return f"{gap}== {printable(film)} ==\n" if self.several else ""

    def one(self, engine: Engine, take: Callable[[], Prepared | Study], film: str, index: int) -> None:
        """Report what `take` yields, and deliver the result."""
        begun: list[bool] = []
        heading = self.heading(film)

        def on_text(piece: str) -> None:
            write_stdout(piece if begun else heading + piece)
            begun.append(True)

        try:
            report = engine.report(
                take(),
                context=self.context,
                max_new_tokens=self.options.max_new_tokens,
                on_text=on_text if self.options.stream else None,
            )
        except BaseException:
            if begun:
                self.delivered += 1
                write_stdout("\n")
            raise
        self.finish(engine, film, index, report, begun=bool(begun))

    def finish(self, engine: Engine, film: str, index: int, report: Report | Exception, *, begun: bool = False) -> None:
        """Deliver a report; `begun`: its text has been written while it came. An error is raised."""
        from edge.session import beside_notice

        if isinstance(report, Exception):
            raise report
        options, header, heading = self.options, self.headers[film], self.heading(film)
        warnings = beside_notice(report)
        failed = self.objects.write_pictures(report, header, index)
        if options.stream:
            write_stdout("\n" if begun else heading + "\n")
        elif self.objects.wanted:
            if (data := self.objects.deliver(report, header)) is not None:
                self.deliver(data)
        elif options.format == "json":
            # A line tells which film it is about by its place: the name may be a patient's.
            place = index if self.several else None
            self.deliver(report.to_json(indent=2 if place is None else None, position=place) + "\n")
        else:
            # On a terminal warnings are on stderr; a file is read later, by somebody else.
            warned = "".join(f"Warning: {warning}.\n" for warning in warnings) if options.output is not None else ""
            self.deliver(heading + report.findings + "\n" + (f"\n{warned}" if warned else ""))
        self.delivered += 1
        if not options.quiet:
            for warning in (*warnings, *self.objects.warnings(header)):
                say(f"{PROG}: {film}: warning: {warning}")
        if options.timings:
            say(f"{PROG}: {film}: {timings_line(report)}")
        for name, error in failed:
            self.fail(name, error)

    def deliver(self, text: str | bytes) -> None:
        if self.options.output is not None:
            self.parts.append(text)
        else:
            write_stdout(text)


def timings_line(report: Report) -> str:
    """The stages in order, in milliseconds, and the speed of the decode stage."""
    ms, cache = report.timings_ms, report.cache
    hidden = cache.get("image_keys", 0) - cache.get("image_keys_kept", 0)
    share = f", {100 * hidden / cache['image_keys']:.0f} % of the image keys hidden and not read" if hidden else ""
    return (
        f"{ms['dicom']:.1f} ms dicom, {ms['preprocess']:.1f} ms preprocess, {ms['vision']:.1f} ms vision, "
        f"{ms['first_token']:.1f} ms first token, {ms['decode']:.1f} ms decode "
        f"({len(report.token_ids)} tokens, {report.tokens_per_s:.1f} tokens/s, "
        f"{report.decoding.get('tokens_per_pass', 1.0):.2f} per pass), {ms['total']:.1f} ms total{share}"
    )


def _check_film(film: str) -> None:
    """Find out before a model is loaded that a film cannot be read."""
    if os.path.isdir(film):
        from edge.cli.folders import films_in

        raise UsageError(f"this is a folder; give its films, for example  {PROG} {printable(films_in(film))}")
    try:
        os.stat(film)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a file name"
        raise CannotRead(f"{reason}; check the name") from None


def _import_compiled() -> None:
    """Import what holds compiled code with Ctrl-C put off: inside, it would come out as another error."""
    import signal

    pending: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:  # as in a script's background job: Ctrl-C is meant for others
        try:
            signal.signal(signal.SIGINT, lambda number, _frame: pending.append(number))
        except ValueError:  # not the main thread: there is no Ctrl-C to put off
            return
    try:
        for name in ("numpy", "tokenizers", "edge._kernel"):
            with contextlib.suppress(ImportError):  # told later, with what to do
                import_module(name)
        from edge.vision.ort import import_runtime

        with contextlib.suppress(EdgeError):
            import_runtime()
    finally:
        signal.signal(signal.SIGINT, before)
    if pending:
        raise KeyboardInterrupt


def _prepare_streams(verbose: int) -> None:
    """Characters that a terminal cannot show must not end the program; -v shows the package's log."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, ValueError, OSError):
            errors = "backslashreplace" if stream is sys.stderr else "replace"
            stream.reconfigure(errors=errors)  # type: ignore[union-attr]
    if verbose:
        import logging

        class Lines(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                say(f"{PROG}: {record.getMessage()}")

        logger = logging.getLogger("edge")
        logger.setLevel(logging.INFO if verbose == 1 else logging.DEBUG)
        logger.addHandler(Lines())
        logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
