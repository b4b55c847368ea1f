# SPDX-License-Identifier: Apache-2.0
"""The DICOM standard's tables for dicom-validator, which reads the standard's text from the network by itself.

The package ``dicom-standard`` on PyPI (MIT) holds the tables of PS3.3 of spring 2020 as JSON: IODs, their modules, and
the attributes of these with types and descriptions. Conditions are taken from the descriptions by dicom-validator's own
parser; enumerated values are not in the tables in a form that could be taken. The tables have every macro written out,
so that an item of a structured report seems to need what belongs to other value types, and cannot hold further items;
both is put right here.
"""

from __future__ import annotations

import html
import json
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any

_MARKUP = re.compile(r"<[^>]+>")
_CONTENT = "(0040,A730)"
_GROUPS = ("(5200,9229)", "(5200,9230)")
_OF_VALUE_TYPES = {  # PS3.3 table C.17.3-7 and what it refers to
    "CONTAINER": ("0040A050",),
    "CODE": ("0040A168",),
    "NUM": ("0040A300",),
    "IMAGE": ("00081199",),
    "SCOORD": ("00700022", "00700023"),
    "SCOORD3D": ("30060024",),
    "TCOORD": ("0040A130", "0040A132", "0040A138", "0040A13A"),
}
_VALUE_TYPE = {_tag: kind for kind, tags in _OF_VALUE_TYPES.items() for _tag in tags}


def tables_folder() -> Path | None:
    """Where the package's tables are; None without the package."""
    try:
        listed = files("dicom-standard") or []
    except PackageNotFoundError:
        return None
    found = [Path(str(file.locate())).resolve() for file in listed if file.name == "module_to_attributes.json"]
    return found[0].parent if found and found[0].exists() else None


@cache
def _table(name: str) -> list[dict[str, Any]]:
    folder = tables_folder()
    assert folder is not None
    data: list[dict[str, Any]] = json.loads((folder / f"{name}.json").read_bytes())
    return data


def _text(description: str) -> str:
    """A description without its markup."""
    return " ".join(html.unescape(_MARKUP.sub(" ", description)).split())


class Tables:
    """What dicom-validator needs to know of these SOP classes."""

    def __init__(self, *sop_classes: str) -> None:
        from dicom_validator.spec_reader.condition_parser import ConditionParser
        from dicom_validator.spec_reader.serializer import DefinitionEncoder
        from dicom_validator.validator.dicom_info import DicomInfo

        self._dictionary = {
            row["tag"]: {
                "name": row["name"],
                "vr": row["valueRepresentation"].split(" ")[0],
                "vm": row["valueMultiplicity"],
                "prop": "RET" if row["retired"] == "Y" else "",
            }
            for row in _table("attributes")
        }
        self._parser = ConditionParser(self._dictionary)
        self._modules: dict[str, dict[str, Any]] = {}
        iods = {uid: self._iod(uid) for uid in sop_classes}

        def plain(value: Any) -> Any:
            return json.loads(json.dumps(value, cls=DefinitionEncoder))

        self.info = DicomInfo(self._dictionary, plain(iods), plain(self._modules))

    def _iod(self, uid: str) -> dict[str, Any]:
        (title,) = [row["ciod"] for row in _table("sops") if row["id"] == uid]
        (name,) = [row["id"] for row in _table("ciods") if row["name"] == title]
        modules = [row for row in _table("ciod_to_modules") if row["ciodId"] == name]
        macros = [row for row in _table("ciod_to_fg_macros") if row["ciodId"] == name]
        return {
            "title": title,
            "modules": {row["moduleId"]: self._use(row, row["moduleId"], "module") for row in modules},
            "group_macros": {row["macroId"]: self._use(row, row["macroId"], "macro") for row in macros},
        }

    def _use(self, row: dict[str, Any], name: str, kind: str) -> dict[str, Any]:
        if name not in self._modules:
            self._modules[name] = self._attributes(name, kind)
        use = {"ref": name, "use": f"{row['usage']} - {row['conditionalStatement'] or ''}".rstrip(" -")}
        return use | ({"cond": self._parser.parse(use["use"])} if len(use["use"]) > 1 else {})

    def _attributes(self, name: str, kind: str) -> dict[str, Any]:
        """The tree of attributes of a module, from the paths of its rows."""
        tree: dict[str, Any] = {}
        content = name == "sr-document-content"
        rows = [row for row in _table(f"{kind}_to_attributes") if row[f"{kind}Id"] == name]
        for row in sorted(rows, key=lambda row: str(row["path"]).count(":")):
            place = tree
            *way, last = row["path"].split(":")[1:]
            if content and way and _tag_of(way[0]) == _CONTENT:
                continue
            for tag in way:
                place = place[_tag_of(tag)].setdefault("items", {})
            tag, kind, words = _tag_of(last), row["type"], _text(row["description"])
            if content and not way and last.upper() in _VALUE_TYPE:
                kind, words = f"{kind[0]}C", f"Required if Value Type (0040,A040) is {_VALUE_TYPE[last.upper()]}."
            known = self._dictionary.get(tag, {"name": tag})
            place[tag] = {"name": known["name"], "type": kind}
            if kind in ("1C", "2C", "3"):
                condition = self._parser.parse(words)
                if condition.type.value != "U":
                    place[tag]["cond"] = condition
            if content and tag == _CONTENT:
                relation = {"name": "Relationship Type", "type": "1"}
                place[tag]["items"] = {"(0040,A010)": relation, "include": [{"ref": name}]}
            elif tag in _GROUPS:
                place[tag]["items"] = {"include": [{"ref": "FuncGroup"}]}
        return tree


def _tag_of(digits: str) -> str:
    return f"({digits[:4]},{digits[4:]})".upper().replace("X", "x")
