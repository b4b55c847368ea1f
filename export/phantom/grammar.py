# SPDX-License-Identifier: Apache-2.0
"""Findings paragraphs for the phantoms: a small grammar in varied radiology phrasing.

The order of information is nearly fixed (devices, heart, lungs, pleura, diaphragm, bones), so that a
small model can learn it; the wording inside each place varies freely. Every positive label is stated;
absent ones are negated or left unmentioned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from . import grammar_phrases as phrases
from .grammar_expand import expand
from .labels import DEVICES, LABELS, SIDES, ZONES

MIN_WORDS = 25
MAX_WORDS = 75
MAX_SENTENCES = 7

_KNOWN = frozenset(LABELS)


def _chance(rng: np.random.Generator, probability: float) -> bool:
    return bool(rng.random() < probability)


def _join(parts: list[str], last: str = "and") -> str:
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])} {last} {parts[-1]}"


def _sentence(template: str, rng: np.random.Generator) -> str:
    text = expand(template, rng)
    return text[0].upper() + text[1:] + "."


def _article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


# --- devices -------------------------------------------------------------------------------------


def _devices(labels: frozenset[str], rng: np.random.Generator, compact: bool) -> list[str]:
    present = [name for name in DEVICES if name in labels]
    if not present:
        return []
    if len(present) > 1 and (compact or len(present) > 2 or _chance(rng, 0.4)):
        names = [expand(phrases.DEVICE_NAMES[name], rng) for name in present]
        return [_sentence(f"{_join(names)} {phrases.DEVICES_SEEN}", rng)]
    return [_sentence(phrases.DEVICE_SENTENCES[name], rng) for name in present]


# --- lungs ---------------------------------------------------------------------------------------


def _sites(labels: frozenset[str], kind: str) -> dict[str, list[str]]:
    return {side: [z for z in ZONES if f"{kind}_{side}_{z}" in labels] for side in SIDES}


def _place(side: str, zones: list[str], rng: np.random.Generator) -> str:
    """One side's zones as a noun phrase without a preposition."""
    if len(zones) == 1:
        return f"the {side} {expand(phrases.ZONE_NOUNS[zones[0]], rng)}"
    return f"the {side} {_join(zones)} {expand('{zones|lung zones}', rng)}"


def _both(zones: list[str], rng: np.random.Generator) -> str:
    if zones == ["lower"] and _chance(rng, 0.5):
        return expand("both {lung|} bases", rng)
    return expand(f"both {_join(zones)} {{zones|lung zones}}", rng)


def _places(sites: dict[str, list[str]], rng: np.random.Generator) -> str:
    if sites["right"] and sites["right"] == sites["left"] and _chance(rng, 0.7):
        return _both(sites["right"], rng)
    return " and ".join(_place(side, zones, rng) for side, zones in sites.items() if zones)


def _focal(labels: frozenset[str], kind: str, rng: np.random.Generator) -> list[str]:
    sites = _sites(labels, kind)
    count = sum(len(zones) for zones in sites.values())
    if count == 0:
        return []
    if count == 1:
        side, zone = next((s, z[0]) for s, z in sites.items() if z)
        if kind == "opacity" and _chance(rng, 0.35):
            place = expand(phrases.ZONE_ADJECTIVES[zone], rng)
            return [_sentence(f"{side} {place} {phrases.OPACITY_SHORT} {{is {{seen|present|noted}}|}}", rng)]
        table = phrases.OPACITY_ONE if kind == "opacity" else phrases.NODULE_ONE
        return [_sentence(table.replace("<place>", _place(side, [zone], rng)), rng)]
    table = phrases.OPACITY_MANY if kind == "opacity" else phrases.NODULE_MANY
    return [_sentence(table.replace("<places>", _places(sites, rng)), rng)]


def _lungs(labels: frozenset[str], rng: np.random.Generator) -> list[str]:
    edema = [_sentence(phrases.EDEMA, rng)] if "edema" in labels else []
    opacity = _focal(labels, "opacity", rng)
    nodule = _focal(labels, "nodule", rng)
    found = edema + opacity + nodule
    if not found:
        aerated = not any(name.startswith(("pneumo", "elevated")) or name.endswith("large") for name in labels)
        return [_sentence(phrases.LUNGS_CLEAR if aerated else phrases.LUNGS_CLEAR_PLAIN, rng)]
    return found


# --- pleura and diaphragm ------------------------------------------------------------------------


def _effusion_clause(sizes: dict[str, str], rng: np.random.Generator, plain: bool = False) -> str:
    """Noun phrase for the positive effusions; ``sizes`` maps side to size, ``plain`` says no blunting."""
    word = {size: expand(phrases.EFFUSION_SIZES[size], rng) for size in ("small", "large")}
    noun = expand("{pleural|pleural|} effusion", rng)
    if len(sizes) == 2:
        if sizes["right"] == sizes["left"]:
            size = sizes["right"]
            if size == "small" and not plain and _chance(rng, 0.25):
                return expand("{minor|slight|mild} blunting of both costophrenic angles", rng)
            return f"{word[size]} bilateral {noun}s"
        if _chance(rng, 0.5):
            return f"{word[sizes['right']]} right and {word[sizes['left']]} left {noun}s"
        return f"{word[sizes['right']]} right {noun} and {word[sizes['left']]} left {noun}"
    side, size = next(iter(sizes.items()))
    if size == "small" and not plain and _chance(rng, 0.25):
        return expand(phrases.BLUNTING.replace("<side>", side), rng)
    if _chance(rng, 0.2):
        return f"{word[size]} {noun} on the {side}"
    return f"{word[size]} {side}{expand('{|-sided}', rng)} {noun}"


def _air_clause(sides: list[str], rng: np.random.Generator) -> str:
    if len(sides) == 2:
        return expand("bilateral {apical|} pneumothoraces", rng)
    side = sides[0]
    return expand(f"{{{side}|{side}|{side}-sided}} {{apical|}} pneumothorax{{| {phrases.AIR_SIGN}}}", rng)


def _pleura(labels: frozenset[str], rng: np.random.Generator, compact: bool) -> list[str]:
    sizes = {s: z for s in SIDES for z in ("small", "large") if f"effusion_{s}_{z}" in labels}
    air = [s for s in SIDES if f"pneumothorax_{s}" in labels]
    if not sizes and not air:
        return [_sentence(phrases.PLEURA_CLEAR, rng)]
    out: list[str] = []
    if sizes and air and (compact or _chance(rng, 0.3)):
        return [_sentence(f"{_effusion_clause(sizes, rng, plain=True)} and {_air_clause(air, rng)}", rng)]
    if sizes:
        clause = _effusion_clause(sizes, rng)
        out.append(_state(clause, len(sizes) == 2, rng))
    if air:
        out.append(_state(_air_clause(air, rng), len(air) == 2, rng))
    if compact:
        return out
    if sizes and not air:
        if _chance(rng, 0.35):
            out[-1] = f"{out[-1][:-1]} {expand(phrases.NO_AIR_TAIL, rng)}."
        elif _chance(rng, 0.5):
            out.append(_sentence(phrases.NO_AIR, rng))
        elif len(sizes) == 1 and _chance(rng, 0.5):
            other = "left" if "right" in sizes else "right"
            out.append(_sentence(f"no {other}{{-sided|}} {{pleural|}} effusion", rng))
    elif air and not sizes:
        if len(air) == 1 and _chance(rng, 0.25):
            other = "left" if air == ["right"] else "right"
            out.append(_sentence(f"no {other}{{-sided|}} pneumothorax", rng))
        elif _chance(rng, 0.6):
            out.append(_sentence(phrases.NO_FLUID, rng))
    return out


def _state(clause: str, plural: bool, rng: np.random.Generator) -> str:
    """A clause as a sentence: bare, or with a verb or "there is" around it."""
    be = "are" if plural else "is"
    many = plural or " and " in clause or "angles" in clause
    roll = rng.random()
    if clause.count("effusion") > 1:
        roll = min(roll, 0.7)
    if " with " in clause or " suggest" in clause or " due " in clause or roll < 0.45:
        return _sentence(clause, rng)
    if roll < 0.75 or "blunting" in clause:
        return _sentence(f"{clause} {'is' if 'blunting' in clause else be} {{seen|present|noted}}", rng)
    return _sentence(f"there {be} {clause if many else _article(clause)}", rng)


def _diaphragm(labels: frozenset[str], rng: np.random.Generator) -> list[str]:
    sides = [s for s in SIDES if f"elevated_hemidiaphragm_{s}" in labels]
    if not sides:
        return []
    if len(sides) == 2:
        return [_sentence(phrases.DIAPHRAGM_BOTH, rng)]
    return [_sentence(phrases.DIAPHRAGM_ONE.replace("<side>", sides[0]), rng)]


# --- the paragraph -------------------------------------------------------------------------------


def _words(sections: dict[str, list[str]]) -> int:
    return sum(len(s.split()) for part in sections.values() for s in part)


def _count(sections: dict[str, list[str]]) -> int:
    return sum(len(part) for part in sections.values())


def _fillers(labels: frozenset[str]) -> list[tuple[str, str]]:
    """Optional (section, template) pairs that do not contradict ``labels``."""
    out = [("mediastinum", phrases.MEDIASTINUM), ("bones", phrases.BONES), ("bones", phrases.BONES)]
    if not any(name in labels for name in DEVICES):
        out.append(("devices", phrases.NO_DEVICES))
    if not any(name.startswith("elevated") or name.startswith("effusion") for name in labels):
        out.append(("diaphragm", phrases.DIAPHRAGM_NORMAL))
    opacity = any(name.startswith("opacity") for name in labels)
    nodule = any(name.startswith("nodule") for name in labels)
    if not opacity and "edema" not in labels:
        out.append(("lungs_tail", phrases.NO_OPACITY if nodule else phrases.NO_OPACITY_NODULE))
    elif not nodule:
        out.append(("lungs_tail", phrases.NO_NODULE))
    if "edema" not in labels:
        out.append(("lungs_tail", phrases.NO_EDEMA))
    if not any(name not in DEVICES for name in labels):
        out.append(("end", phrases.NORMAL_END))
    return out


def _says_focal(sentence: str) -> bool:
    return any(words in sentence.lower() for words in ("with no", "without", "in either lung"))


_ORDER = ("devices", "heart", "mediastinum", "lungs", "lungs_tail", "pleura", "diaphragm", "bones", "end")


def _compose(labels: frozenset[str], rng: np.random.Generator, compact: bool) -> str:
    heart = phrases.HEART_LARGE if "cardiomegaly" in labels else phrases.HEART_NORMAL
    if not compact and _chance(rng, 0.5):
        heart = f"{heart} {phrases.AND} {phrases.MEDIASTINUM}"
    limit = MAX_SENTENCES - int(rng.choice(3, p=(0.6, 0.3, 0.1)))
    sections: dict[str, list[str]] = {
        "devices": _devices(labels, rng, compact),
        "heart": [_sentence(heart, rng)],
        "mediastinum": [],
        "lungs": _lungs(labels, rng),
        "lungs_tail": [],
        "pleura": _pleura(labels, rng, compact),
        "diaphragm": _diaphragm(labels, rng),
        "bones": [],
        "end": [],
    }
    merged = False
    fluid = any(name.startswith("effusion") for name in labels)
    last = sections["pleura"][-1][:-1]
    if not (compact or fluid or sections["diaphragm"] or " and " in last) and _chance(rng, 0.35):
        sections["pleura"][-1] = _sentence(f"{last} and {phrases.DIAPHRAGM_NORMAL}", rng)
        merged = True
    target = float(np.clip(rng.normal(51.0, 8.0), 34.0, 66.0))
    options = _fillers(labels)
    if merged:
        options = [option for option in options if option[0] != "diaphragm"]
    for index in rng.permutation(len(options)):
        place, template = options[int(index)]
        total = _words(sections)
        if sections[place] or (total >= MIN_WORDS and _count(sections) >= limit):
            continue
        if place == "mediastinum" and " and the " in sections["heart"][0]:
            continue
        if place == "lungs_tail" and _says_focal(sections["lungs"][0]) and "edema" not in template:
            continue
        sentence = _sentence(template, rng)
        if total >= MIN_WORDS and total + 0.5 * len(sentence.split()) > target:
            continue
        sections[place].append(sentence)
    order = list(_ORDER)
    if sections["devices"] and _chance(rng, 0.1):
        order = [*order[1:], "devices"]
    if _chance(rng, 0.1):
        low, high = order.index("lungs"), order.index("pleura")
        order[low : high + 1] = ["pleura", "lungs", "lungs_tail"]
    return " ".join(s for name in order for s in sections[name])


def write_findings(labels: Iterable[str], rng: np.random.Generator) -> str:
    """Write one findings paragraph that states exactly ``labels``.

    Parameters
    ----------
    labels : iterable of str
        Names from `LABELS`; at most one effusion size for each side.
    rng : numpy.random.Generator
        Source of the wording.

    Returns
    -------
    str
        Two to seven sentences, 25 to 75 words (more words only for sets far beyond the usual size).

    Raises
    ------
    ValueError
        For an unknown label, or both effusion sizes on one side.
    """
    wanted = frozenset(labels)
    if unknown := sorted(wanted - _KNOWN):
        raise ValueError(f"unknown labels: {', '.join(unknown)}")
    for side in SIDES:
        if {f"effusion_{side}_small", f"effusion_{side}_large"} <= wanted:
            raise ValueError(f"two sizes for the {side} effusion")
    best = ""
    for attempt in range(8):
        text = _compose(wanted, rng, compact=attempt > 0 or len(wanted) > 5)
        sentences, words = text.count("."), len(text.split())
        if sentences <= MAX_SENTENCES and MIN_WORDS <= words <= MAX_WORDS:
            return text
        if not best or words < len(best.split()):
            best = text
    return best


def random_labels(rng: np.random.Generator) -> frozenset[str]:
    """Draw a label set independent of the phantoms' own sampler: each family present by chance."""
    if _chance(rng, 0.12):
        return frozenset()
    out: set[str] = set()
    for side in SIDES:
        if _chance(rng, 0.25):
            out.add(f"effusion_{side}_{'small' if _chance(rng, 0.5) else 'large'}")
        if _chance(rng, 0.13):
            out.add(f"pneumothorax_{side}")
        if _chance(rng, 0.1):
            out.add(f"elevated_hemidiaphragm_{side}")
        for zone in ZONES:
            if _chance(rng, 0.1):
                out.add(f"opacity_{side}_{zone}")
            if _chance(rng, 0.07):
                out.add(f"nodule_{side}_{zone}")
    out.update(name for name in ("cardiomegaly", *DEVICES) if _chance(rng, 0.2))
    if _chance(rng, 0.15):
        out.add("edema")
    return frozenset(out)


def corpus(n: int, seed: int) -> Iterator[str]:
    """Yield ``n`` paragraphs of random label sets, for tokenizers and draft tables.

    Parameters
    ----------
    n : int
        How many texts.
    seed : int
        Seed of the label sets and the wording.
    """
    rng = np.random.default_rng(seed)
    for _ in range(n):
        yield write_findings(random_labels(rng), rng)
