# SPDX-License-Identifier: Apache-2.0
"""``edge-review``: serve the page. See :mod:`edge.review.options` for the options."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

from edge.cli.output import say
from edge.cli.streams import settle_streams
from edge.errors import EdgeError, MissingRuntime
from edge.review.options import PROG, parse

if TYPE_CHECKING:
    from edge.engine import Engine

INTERNAL = 80


class CannotListen(EdgeError):
    kind = "cannot listen"
    exit_code = 60


def main(argv: list[str] | None = None) -> int:
    """Run the command until Ctrl-C; returns the exit code."""
    settle_streams()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        options = parse(argv)
    except SystemExit as end:  # argparse has said what there was to say
        return int(end.code or 0)
    try:
        _serve(options)
    except EdgeError as error:
        hint = f"; {error.hint}" if error.hint else ""
        say(f"{PROG}: {error.kind}: {error}{hint}")
        return error.exit_code
    except KeyboardInterrupt:
        pass
    return 0


def _serve(options: argparse.Namespace) -> None:
    uvicorn = _import_uvicorn()
    check_certificate(options)
    listener = listen(options.host, options.port)
    with listener:
        _log_to_stderr(options.verbose)
        from edge.engine import load

        engine = load(options.bundle, options.device, options.threads)
        config = configured(application(engine, options), options)
        address = _address(options, listener)
        if engine.notice:
            say(f"{PROG}: {engine.notice}")
        if not options.loopback and not options.tls_cert:
            say(f"{PROG}: warning: without TLS of its own; the proxy in front must speak it")
        say(f"{PROG}: {address}  (Ctrl-C ends it)")
        if options.open:
            import webbrowser

            webbrowser.open(address)
        uvicorn.Server(config).run(sockets=[listener])


def application(engine: Engine, options: argparse.Namespace) -> Any:
    """The whole ASGI application: routes behind the guard."""
    from edge.review.app import Server
    from edge.review.guard import Guard
    from edge.review.limits import MIB, Limits

    server = Server(engine, Limits(upload_bytes=options.max_upload * MIB))
    server.warm()
    names = [*options.name, *([] if options.loopback else [socket.gethostname(), options.host])]
    return Guard(server.app(), names=names, token=options.token, any_address=not options.loopback)


def check_certificate(options: argparse.Namespace) -> None:
    """Find out before the model is loaded that TLS cannot be spoken.

    Raises
    ------
    CannotListen
    """
    if not options.tls_cert:
        return
    import ssl

    def no_password() -> str:
        raise ValueError("encrypted")  # else OpenSSL asks for it on the terminal

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(options.tls_cert, options.tls_key, no_password)
        return
    except ssl.SSLError as error:
        problem = "they do not belong together" if error.reason == "KEY_VALUES_MISMATCH" else "this is no PEM file"
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except ValueError:
        problem = "the key is encrypted; give one without a password"
    raise CannotListen(f"the TLS certificate or its key cannot be used: {problem}")


def configured(app: Any, options: argparse.Namespace) -> Any:
    """How uvicorn runs: HTTP only, and no line anywhere about what was asked for."""
    import ssl

    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        limit_concurrency=64,
        timeout_graceful_shutdown=2,
        ssl_certfile=options.tls_cert,
        ssl_keyfile=options.tls_key,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_2
    return config


def _import_uvicorn() -> Any:
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        raise MissingRuntime('the page needs more packages: pip install "edge-report[cpu,web]"') from None
    return uvicorn


def listen(host: str, port: int) -> socket.socket:
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(info[4][:2], family=info[0], backlog=64)
        # Inherited by what is accepted: each piece of a text goes out at once, not with the next.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except OSError as error:
        reason = (error.strerror or "the address is unknown").split(" (")[0]  # Python repeats the address behind it
        if error.errno in (errno.EADDRINUSE, errno.EACCES):
            raise CannotListen(f"port {port}: {reason}", hint="try --port 0") from None
        raise CannotListen(f"--host {host}: {reason}", hint="give an address of this machine") from None


def _address(options: argparse.Namespace, listener: socket.socket) -> str:
    """What to open; the token is behind #, which browsers do not send and servers do not log."""
    port = listener.getsockname()[1]
    host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(options.host, options.host)
    if options.name and not options.loopback:
        host = options.name[0]  # which is what a certificate is for
    host = f"[{host}]" if ":" in host else host
    token = f"#token={options.token}" if options.token else ""
    return f"{'https' if options.tls_cert else 'http'}://{host}:{port}/{token}"


def _log_to_stderr(verbose: bool) -> None:
    """Our own log and the server's, without requests: a line never tells what was asked for."""

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(f"{PROG}: {record.getMessage()}")

    # What peers do to their connections is for -v only, and never a traceback. Our own failures are in our own log.
    for name, level, usual in (
        ("edge", logging.INFO, logging.ERROR),
        ("uvicorn", logging.WARNING, logging.CRITICAL),
        ("asyncio", logging.WARNING, logging.CRITICAL),
    ):
        logger = logging.getLogger(name)
        logger.setLevel(level if verbose else usual)
        logger.addHandler(Lines())
        logger.propagate = False


if __name__ == "__main__":
    sys.exit(main())
