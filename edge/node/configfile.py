# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration, and tells everything that is wrong with it at once."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge.errors import UsageError
from edge.node.config import (
    CLASSES,
    FILES,
    OBJECTS,
    Config,
    Deliver,
    Health,
    Listen,
    Queue,
    Reporting,
    Retry,
    Tls,
    Trace,
)
from edge.vision.choice import DEVICES

MAX_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_HOST = re.compile(r"[A-Za-z0-9_.:-]{1,253}")

Check = Callable[[Any], Any]
"""Gives the value as the dataclass keeps it, or raises ValueError with what would be right."""


class ConfigError(UsageError):
    """The configuration is wrong.

    Attributes
    ----------
    problems : list of str
        Each with the place it is about.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__(f"the configuration has {len(problems)} error{'s' * (len(problems) > 1)}")
        self.problems = problems


def read_config(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises
    ------
    ConfigError
        With all that is wrong, not only the first.
    """
    try:
        with open(path, "rb") as handle:
            data = handle.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError("too large for a configuration, which is a short TOML file (docs/node.md)")
        tables = tomllib.loads(data.decode("utf-8"))
    except OSError as error:
        problem = f"{error.strerror or 'cannot be read'}; name the configuration, a TOML file (docs/node.md)"
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError; RecursionError: nested too deep
        problem = str(error) if isinstance(error, ValueError) else "nested too deeply"
    else:
        return parse_config(tables, Path(path).resolve().parent)
    raise ConfigError([problem])


def parse_config(tables: Mapping[str, Any], folder: Path) -> Config:
    """Check the tables of a configuration; relative paths are relative to `folder`.

    Raises
    ------
    ConfigError
    """
    reader = _Reader(folder)
    config = reader.config(tables)
    if reader.problems:
        raise ConfigError(reader.problems)
    return config


def _missing(path: Path, words: str) -> str:
    """Why a path is not what it should be: what the system says, where that is more than that it is not there."""
    try:
        os.stat(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        return error.strerror or words
    return words


class _Reader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def config(self, tables: Mapping[str, Any]) -> Config:
        known = ("node", "queue", "report", "retry", "deliver", "health", "trace")
        for name in tables:
            if name not in known:
                self.unknown("", name, known)
        node = self.table(tables, "node", Listen, self.listen_checks(), needed=("modalities",))
        deliver = self.receivers(tables.get("deliver"))
        health = self.table(tables, "health", Health, {"host": _host, "port": _whole(0, 65535)})
        config = Config(
            node=node,
            queue=self.table(tables, "queue", Queue, _QUEUE),
            report=self.table(tables, "report", Reporting, self.report_checks()),
            retry=self.table(tables, "retry", Retry, _RETRY),
            deliver=deliver,
            health=health,
            trace=self.table(
                tables, "trace", Trace, {"path": self.path, "max_mb": _whole(1, 10_000), "keep": _whole(1, 1000)}
            ),
        )
        self.together(config)
        return config

    def table(
        self,
        tables: Mapping[str, Any],
        name: str,
        kind: type,
        checks: Mapping[str, Check],
        needed: tuple[str, ...] = (),
    ) -> Any:
        given = tables.get(name, {})
        if not isinstance(given, dict):
            self.problems.append(f"[{name}] is not a table")
            given = {}
        return kind(**self.values(f"[{name}]", given, checks, needed))

    def values(
        self, place: str, given: Mapping[str, Any], checks: Mapping[str, Check], needed: tuple[str, ...]
    ) -> dict[str, Any]:
        """What is right of a table; what is wrong becomes a problem."""
        good = {}
        for key, value in given.items():
            if key not in checks:
                self.unknown(place, key, tuple(checks))
                continue
            try:
                good[key] = checks[key](value)
            except ValueError as error:
                self.problems.append(f"{place} {key}: {error}")
        for key in needed:
            if key not in given:
                self.problems.append(f"{place} {key} is missing")
        return good

    def unknown(self, place: str, name: str, known: tuple[str, ...]) -> None:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}"
        self.problems.append(f"{place} {name[:60]!r} is unknown{hint}".strip())

    def listen_checks(self) -> dict[str, Check]:
        return {
            "ae_title": _ae_title,
            "host": _host,
            "port": _whole(1, 65535),
            "spool": self.path,
            "modalities": _list_of(_ae_title, "AE titles", least=1),
            "networks": _list_of(_network, "networks", least=1),
            "accept": _list_of(_one_of(CLASSES), "kinds of film", least=1),
            "max_associations": _whole(1, 512),
            "max_pdu": _whole(16384, 1 << 20),
            "max_dataset_mb": _whole(1, 4096),
            "association_s": _number(1, 3600),
            "idle_s": _number(1, 3600),
            "stop_s": _number(0, 3600),
            "tls": self.tls(server=True),
        }

    def report_checks(self) -> dict[str, Check]:
        return {
            "bundle": self.existing_folder,
            "device": _one_of(DEVICES),
            "threads": _whole(1, 512),
            "workers": _whole(1, 16),
            "tries": _whole(1, 100),
            "max_crashes": _whole(1, 1000),
        }

    def receivers(self, given: Any) -> tuple[Deliver, ...]:
        if given is None:
            self.problems.append("[[deliver]] is missing: nothing would ever leave this node")
            return ()
        if not isinstance(given, list) or not all(isinstance(table, dict) for table in given) or not given:
            self.problems.append("[[deliver]] is a list of tables: write it in double brackets")
            return ()
        found = [self.receiver(table, number) for number, table in enumerate(given, 1)]
        names = [table.get("name") for table in given]
        for name in sorted({str(name) for name in names if name is not None and names.count(name) > 1}):
            self.problems.append(f"[[deliver]] name: {name[:40]!r} is used twice")
        return tuple(peer for peer in found if peer is not None)

    def receiver(self, table: Mapping[str, Any], number: int) -> Deliver | None:
        name = table.get("name")
        place = f"[[deliver]] {name if isinstance(name, str) and _NAME.fullmatch(name) else f'number {number}'}:"
        kinds = ("dicom", "stow", "folder")
        kind = table.get("kind")
        if kind not in kinds:
            self.problems.append(f"{place} kind must be one of {', '.join(kinds)}")
            return None
        files = FILES if kind == "folder" else OBJECTS
        checks: dict[str, Check] = {
            "name": _name,
            "kind": lambda value: value,
            "objects": _list_of(_one_of(files), "objects", least=1),
        }
        if kind != "folder":
            checks |= {"timeout_s": _number(1, 3600), "tls": self.tls(server=False)}
        if kind == "dicom":
            checks |= {"host": _host, "port": _whole(1, 65535), "ae_title": _ae_title}
        elif kind == "stow":
            checks |= {"url": _url, "token_file": self.existing_file}
        else:
            checks |= {"path": self.existing_folder}
        needed = {"dicom": ("name", "host", "port", "ae_title"), "stow": ("name", "url"), "folder": ("name", "path")}
        before = len(self.problems)
        values = self.values(place, table, checks, needed[kind])
        return Deliver(**values) if len(self.problems) == before else None

    def tls(self, *, server: bool) -> Check:
        def check(value: Any) -> Tls:
            if not isinstance(value, dict):
                raise ValueError("is a table of cert, key and ca")
            known = [entry.name for entry in fields(Tls)]
            if strange := [key for key in value if key not in known]:
                raise ValueError(f"{strange[0][:40]!r} is unknown; known: {', '.join(known)}")
            if server and ("cert" not in value or "key" not in value):
                raise ValueError("needs cert and key")
            if ("cert" in value) != ("key" in value):
                raise ValueError("cert and key belong together")
            return Tls(**{key: self.existing_file(path) for key, path in value.items()})

        return check

    def path(self, value: Any) -> Path:
        if not isinstance(value, str) or not value or "\0" in value:
            raise ValueError("must be a path")
        try:
            return self.folder / Path(value).expanduser()
        except RuntimeError:
            raise ValueError("~ leads to no home folder: give the whole path") from None

    def existing_file(self, value: Any) -> Path:
        path = self.path(value)
        if not os.path.isfile(path):
            raise ValueError(f"{path}: {_missing(path, 'no such file')}")
        if not os.access(path, os.R_OK):
            raise ValueError(f"{path}: cannot be read")
        return path

    def existing_folder(self, value: Any) -> Path:
        path = self.path(value)
        if not os.path.isdir(path):
            raise ValueError(f"{path}: {_missing(path, 'no such folder')}")
        return path

    def together(self, config: Config) -> None:
        """What is only wrong in company."""
        if config.health.port == config.node.port and config.health.port:
            self.problems.append("[health] port: is the one of [node]")
        if config.retry.first_s > config.retry.longest_s:
            self.problems.append("[retry] first_s: is longer than longest_s")
        for peer in config.deliver:
            if peer.kind == "folder" and peer.path is not None and not os.access(peer.path, os.W_OK):
                self.problems.append(f"[[deliver]] {peer.name}: path {peer.path}: cannot be written to")
            inside = peer.path is not None and peer.path.resolve().is_relative_to(config.node.spool.resolve())
            if inside:
                self.problems.append(f"[[deliver]] {peer.name}: path lies in the spool, which is the node's own")
            if peer.tls is not None and peer.kind == "stow" and urlsplit(peer.url).scheme != "https":
                self.problems.append(f"[[deliver]] {peer.name}: tls: the url is not https")
            if peer.token_file is not None and urlsplit(peer.url).scheme != "https":
                self.problems.append(f"[[deliver]] {peer.name}: token_file: a token goes over https only")


def _whole(least: int, most: int) -> Check:
    def check(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}")
        return value

    return check


def _number(least: float, most: float) -> Check:
    def check(value: Any) -> float:
        if type(value) not in (int, float) or not least <= value <= most:
            raise ValueError(f"must be a number from {least} to {most}")
        return float(value)

    return check


def _one_of(allowed: tuple[str, ...]) -> Check:
    def check(value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}")
        return value

    return check


def _list_of(check: Check, what: str, *, least: int = 0) -> Check:
    def check_all(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) < least:
            raise ValueError(f"must be a list of {what}" + (", not empty" if least else ""))
        return tuple(dict.fromkeys(check(item) for item in value))

    return check_all


def _ae_title(value: Any) -> str:
    """PS3.5 section 6.2: 16 characters of the default repertoire without backslash, not only spaces."""
    if (
        not isinstance(value, str)
        or not 1 <= len(value) <= 16
        or not value.isascii()
        or not value.isprintable()
        or "\\" in value
        or value != value.strip()
    ):
        raise ValueError("must be an AE title: 1 to 16 printable ASCII characters, no backslash, no outer spaces")
    return value


def _name(value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ValueError("must be 1 to 32 letters, digits, - or _")
    return value


def _host(value: Any) -> str:
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError("must be a host name or an address")
    return value


def _network(value: Any) -> str:
    try:
        return str(ipaddress.ip_network(value))
    except (ValueError, TypeError):
        raise ValueError("must be networks like 10.1.0.0/16 or addresses") from None


def _url(value: Any) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
        good = good and parts.username is None and parts.port != 0 and value.isascii() and value.isprintable()
    except (ValueError, TypeError, AttributeError):
        good = False
    if not good:
        raise ValueError("must be the http(s) address of a STOW-RS service, as https://pacs/dicomweb/studies")
    return str(value)


_QUEUE: dict[str, Check] = {
    "max_films": _whole(1, 100_000),
    "max_undelivered": _whole(1, 1_000_000),
    "min_free_mb": _whole(0, 1 << 30),
    "remember_days": _number(0.01, 36500),
}
_RETRY: dict[str, Check] = {
    "first_s": _number(0.01, 3600),
    "longest_s": _number(0.01, 86400),
    "refusals": _whole(1, 1000),
    "give_up_hours": _number(0.0001, 24 * 3650),
}
