# SPDX-License-Identifier: Apache-2.0
"""Is this a frontal chest film? Body part and view, from code strings, codes and (weaker) free words.

PS3.3 C.8.1.2 (ViewPosition, BodyPartExamined), PS3.16 annex L, CID 4009/4010/4031. What is not named is no
refusal: the masks of the model are looked at later.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass, field
from typing import Literal

from edge.film.header import Values

_CHEST = re.compile(
    r"CHEST|THORAX|TORAX|TORAKS|TORACE|LUNG|PULMO|POUMON|POLMON|CXR|CHST|BRUST(KORB)?$|POITRINE|KLATKA|BORSTKAS|"
    r"BRYSTKASSE|BROESTKORG|RINTAKEHA|MELLKAS|HRUDNIK|PRSNI KOS|GOEGUES|GOGUS|AKCIGER|NGUC|胸"
)
_NOT_CHEST = re.compile(r"THORACIC.?SPINE|T.?SPINE|BRUST(WS|BEIN|WIRBEL)|胸腰?椎|胸骨")
_UNNAMED = {
    "", "UNKNOWN", "OTHER", "NONE", "NA", "N A", "UNDEFINED", "UNSPECIFIED", "GENERAL", "DEFAULT", "EXAM",
    "BODY", "PATIENT", "TEST", "ANY", "NOT SPECIFIED", "NULL", "MISC", "XRAY", "X RAY", "PORTABLE", "CR", "DX", "DR",
}  # fmt: skip

_OTHER_PARTS = {
    "SKULL": "SKULL CRANIUM HEAD BRAIN SCHAEDEL KOPF CRANEO CRANIO",
    "FACE": "FACE FACIAL SINUS SINUSES ORBIT ORBITS NASAL MANDIBLE MAXILLA TMJ JAW ZYGOMA",
    "TEETH": "TEETH TOOTH DENTAL PANOREX",
    "NECK": "NECK CERVICAL CSPINE HWS CERVICALE HALS CUELLO",
    "SPINE": "SPINE LSPINE TSPINE SSPINE LUMBAR SACRUM SACRAL COCCYX WIRBELSAEULE SPINAL COLUMN LWS BWS "
    "WERVELKOLOM COLUMNA RACHIS COLONNA",
    "ABDOMEN": "ABDOMEN ABDOMINAL KUB BAUCH ADDOME BUIK",
    "PELVIS": "PELVIS BECKEN PELVIC BASSIN BACINO BEKKEN",
    "HIP": "HIP HIPS HUEFTE CADERA HANCHE HEUP",
    "SHOULDER": "SHOULDER SHOULDERS SCAPULA CLAVICLE ACJOINT SCHULTER HOMBRO EPAULE SPALLA SCHOUDER",
    "STERNUM": "STERNUM SCJOINT",
    "RIBS": "RIB RIBS",
    "BREAST": "BREAST BREASTS MAMMOGRAM MAMMOGRAPHY MAMMA",
    "UPPER ARM": "HUMERUS UPPERARM OBERARM",
    "ELBOW": "ELBOW ELBOWS ELLBOGEN CODO COUDE GOMITO ELLEBOOG",
    "FOREARM": "FOREARM RADIUS ULNA UNTERARM",
    "WRIST": "WRIST WRISTS SCAPHOID HANDGELENK MUNECA POIGNET POLSO POLS",
    "HAND": "HAND HANDS FINGER FINGERS THUMB MANO DAUMEN",
    "THIGH": "FEMUR THIGH OBERSCHENKEL FEMORE",
    "KNEE": "KNEE KNEES PATELLA KNIE GENOU RODILLA GINOCCHIO",
    "LOWER LEG": "TIBIA FIBULA LOWERLEG UNTERSCHENKEL",
    "ANKLE": "ANKLE ANKLES SPRUNGGELENK TOBILLO CHEVILLE CAVIGLIA ENKEL",
    "FOOT": "FOOT FEET TOE TOES CALCANEUS HEEL FUSS PIED PIEDE VOET",
    "HEART": "HEART",
}
_PART_OF_WORD = {word: part for part, words in _OTHER_PARTS.items() for word in words.split()}
_EXTRA_NAMED = {"ARM": "UPPER ARM", "LEG": "LOWER LEG", "EXTREMITY": "EXTREMITY", "WHOLEBODY": "WHOLE BODY"}

# SNOMED CT and the older SNOMED-RT style codes of CID 4031; 51185008 is SNOMED CT's former chest concept.
_CHEST_CODES = {
    "816094009", "51185008", "39607008", "43799004", "416550000", "416775004", "417437006", "416152001",
    "416319003", "T-D3000", "T-28000", "T-D3050", "R-FAB55", "R-FAB56", "R-FAB53", "R-FAB54", "R-FAB52",
}  # fmt: skip

_FRONTAL_CODES = {"399348003", "272479007", "R-10206", "R-10214", "399033003"}
_SIDE_CODES = {
    "399067008": "lateral", "399173006": "lateral", "399198007": "lateral", "399352003": "lateral",
    "399260004": "lateral", "260427002": "oblique", "399182000": "oblique", "399184004": "oblique",
    "399236003": "oblique", "399135007": "oblique", "399356000": "oblique", "399006002": "oblique",
    "399038007": "oblique", "399312000": "oblique", "399059000": "oblique", "399160007": "oblique",
    "R-10236": "lateral", "R-10232": "lateral", "R-10228": "lateral",
}  # fmt: skip

_FRONTAL_WORDS = frozenset(
    ("AP", "PA", "FRONTAL", "FRONT", "ANTEROPOSTERIOR", "POSTEROANTERIOR", "ANTERIOR", "POSTERIOR")
)
_LATERAL_WORDS = frozenset(
    (  # noqa: SIM905
        "LAT LATERAL LL RL LLAT RLAT XTLAT LATERALE LATERAAL LATERALER SEITLICH SEITL PROFIL PERFIL PROFILO BOK BOCZNE "
        "SWIMMERS CHESTLAT LATCHEST THORAXLAT CXRLAT"
    ).split()
)
_DECUBITUS_WORDS = {"LLD", "RLD", "DECUB", "DECUBITUS"}
_ELSEWHERE = {
    "frontal": "正面|正位|前[後后]位|[後后]前位|정면|후전|전후|ПРЯМ|ФРОНТ|ΟΠΙΣΘΟΠΡΟΣΘ|ΠΡΟΣΘΟΠΙΣΘ|אחורי|קדמי|امامي|خلفي",
    "lateral": "側面|[側侧]位|측면|БОКОВ|БІЧН|ПРОФИЛ|ΠΛΑΓΙ|צדי|צדדי|جانبي",
    "oblique": "斜位|사위|КОСА|КОСОИ|ΛΟΞ",
    "decubitus": "[側侧][臥卧]",
}
"""In scripts that are not Latin; not whole words, which some of them do not set apart."""
_OBLIQUE_WORDS = {"OBL", "OBLIQUE", "LLO", "RLO", "LAO", "RAO", "LPO", "RPO", "OBLIC", "SCHRAEG"}

View = Literal["", "frontal", "lateral", "oblique", "decubitus"]


@dataclass(slots=True)
class Anatomy:
    """What the header says. `refusal` is empty where nothing speaks against a frontal chest film."""

    body_part: str = ""
    view_position: str = ""
    refusal: str = ""
    warnings: list[str] = field(default_factory=list)


def look(values: Values) -> Anatomy:
    """Read body part and view."""
    out = Anatomy()
    _body_part(values, out)
    _view(values, out)
    return out


def _folded(text: str) -> str:
    """Upper case, without accents (``HÜFTE``: ``HUEFTE``, ``tórax``: ``TORAX``)."""
    text = re.sub("[ÄÖÜ]", lambda found: {"Ä": "AE", "Ö": "OE", "Ü": "UE"}[found[0]], text.upper())
    parts = unicodedata.normalize("NFKD", text)
    return "".join(letter for letter in parts if not unicodedata.combining(letter))


def _tokens(text: str) -> list[str]:
    """Upper-case words; dotted abbreviations (P.A., a.p.) are joined."""
    text = _folded(text)
    text = re.sub(r"\b([A-Z])\.\s?([A-Z])\b\.?", r"\1\2", text)
    text = re.sub(r"\b([PA])/([AP])\b", r"\1\2", text)
    text = re.sub(r"\b([CTLS])[- ](SPINE)\b", r"\1\2", text)
    return re.findall(r"[^\W_0-9]+", text)


def _part(text: str, *, named: bool) -> str:
    """Return "CHEST", another part, "other" (named, unknown to us) or "" (nothing named, or nothing we can read)."""
    upper = " ".join(re.split(r"[\W_]+", _folded(text))).strip()
    other = _NOT_CHEST.search(upper)
    if not other and _CHEST.search(upper):
        return "CHEST"
    if named and upper in _UNNAMED:
        return ""
    words = _tokens(text)
    for word in words:
        if word in _PART_OF_WORD:
            return _PART_OF_WORD[word]
        if named and word in _EXTRA_NAMED:
            return _EXTRA_NAMED[word]
    if other:
        return "STERNUM" if other[0].endswith(("BEIN", "骨")) else "SPINE"
    return "other" if named and _readable(text) else ""


def _readable(text: str) -> bool:
    """Whether all words are of Latin letters, so that one that names the chest would be known here.

    A word with as many other letters as ASCII ones is of another alphabet, read in a wrong character set: "грудь" in
    Windows-1251 that says it is Latin-1. So are control characters.
    """
    text = unicodedata.normalize("NFKC", text)
    if any(unicodedata.category(letter) in ("Cc", "Cn", "Co") or letter == "\ufffd" for letter in text):
        return False
    words = re.findall(r"[^\W\d_]+", text)
    for word in words:
        plain = sum(letter.isascii() for letter in word)
        latin = all(letter.isascii() or unicodedata.name(letter, "").startswith("LATIN") for letter in word)
        if not latin or (len(word) > 1 and 2 * plain <= len(word)):
            return False
    return any(word.isascii() or len(word) > 1 for word in words)


def _body_part(values: Values, out: Anatomy) -> None:
    named = [_part(values.text("BodyPartExamined"), named=True)]
    for item in values.items("AnatomicRegionSequence"):
        code = item.text("CodeValue") or item.text("LongCodeValue")
        named.append("CHEST" if code in _CHEST_CODES else _part(item.text("CodeMeaning"), named=True))
    named = [part for part in named if part]
    unlike = [part for part in named if part != "CHEST"]
    # One attribute that names another part is enough, whatever the other says: devices fill in one of them by default.
    others = [part for part in unlike if part != "other"]
    if "CHEST" in named and not others:
        out.body_part = "CHEST"
        if unlike:  # in words that are not known here, which may well mean the chest
            out.warnings.append("the header names the chest and another body part")
        return
    if unlike:
        out.body_part = others[0] if others else "OTHER"
        words = f"another body part ({others[0]})" if others else "a body part other than the chest"
        beside = ", though also the chest" if "CHEST" in named else ""
        out.refusal = f"the header names {words}{beside}"
        return
    hints = [
        _part(values.text(keyword), named=False)
        for keyword in (
            "StudyDescription",
            "SeriesDescription",
            "ProtocolName",
            "RequestedProcedureDescription",
            "PerformedProcedureStepDescription",
            "AcquisitionDeviceProcessingDescription",
        )
    ]
    hints = [hint for hint in hints if hint]
    others = sorted({hint for hint in hints if hint != "CHEST"})
    if not others:
        return
    if "CHEST" in hints:
        out.warnings.append("descriptions in the header name the chest and another body part")
    else:
        out.refusal = f"descriptions in the header name another body part ({others[0]}) and not the chest"


def _words_view(text: str) -> set[str]:
    views: set[str] = set()
    for word in _tokens(text):
        if word in _FRONTAL_WORDS:
            views.add("frontal")
        elif word in _LATERAL_WORDS:
            views.add("lateral")
        elif word in _DECUBITUS_WORDS:
            views.add("decubitus")
        elif word in _OBLIQUE_WORDS:
            views.add("oblique")
    if not text.isascii():
        folded = _folded(text)
        views |= {view for view, words in _ELSEWHERE.items() if re.search(_folded(words), folded)}
    return views


def _view(values: Values, out: Anatomy) -> None:
    position = values.text("ViewPosition")
    named = _words_view(position)
    term = " ".join(_tokens(position))
    known = _FRONTAL_WORDS | _LATERAL_WORDS | _DECUBITUS_WORDS | _OBLIQUE_WORDS
    out.view_position = " ".join(word for word in term.split() if word in known)
    for item in values.items("ViewCodeSequence"):
        code = item.text("CodeValue") or item.text("LongCodeValue")
        if code in _FRONTAL_CODES:
            named.add("frontal")
        elif code in _SIDE_CODES:
            named.add(_SIDE_CODES[code])
        else:
            named |= _code_view(item.text("CodeMeaning"))
    weak = _words_view(values.text("SeriesDescription")) | _words_view(values.text("ProtocolName"))
    weak.discard("decubitus")
    side = next((view for view in ("oblique", "lateral", "decubitus") if view in named), "")
    row = values.texts("PatientOrientation")[:1]
    if row and row[0][:1].upper() in ("A", "P") and not side and (named or not weak):
        out.warnings.append("the patient orientation in the header is that of a lateral view")
    if term and not named and term not in _UNNAMED:
        out.warnings.append("the view position in the header is none that is known here")
    if side == "decubitus" and "frontal" in named:
        out.warnings.append("the film was taken with the patient lying on one side (decubitus)")
    elif side:
        article = {"oblique": "an oblique", "lateral": "a lateral", "decubitus": "a lateral decubitus"}[side]
        refusal = f"the header names {article} view; only frontal (PA or AP) films are reported"
        out.refusal = f"{out.refusal}; {refusal}" if out.refusal else refusal
    elif named:
        if weak - {"frontal"}:
            out.warnings.append("a description in the header speaks of a lateral or oblique view")
    elif weak - {"frontal"}:
        if "frontal" in weak:
            out.warnings.append("a description in the header speaks of a lateral or oblique view")
        else:
            refusal = "the series description speaks of a lateral or oblique view"
            out.refusal = f"{out.refusal}; {refusal}" if out.refusal else refusal


def _code_view(meaning: str) -> set[str]:
    """The view a code meaning names; "postero-anterior" and the like are frontal, "... oblique" is not."""
    text = meaning.lower()
    if "obliq" in text:
        return {"oblique"}
    if "decub" in text:
        return {"decubitus"}
    if "lateral" in text or "medial" in text:
        return {"lateral"}
    if "antero" in text or "postero" in text or "frontal" in text:
        return {"frontal"}
    return _words_view(meaning)
