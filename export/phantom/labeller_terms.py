# SPDX-License-Identifier: Apache-2.0
"""Term lists of the labeller: findings, negations, sides, sizes and zones, as radiologists write them."""

from __future__ import annotations

import re


def word_set(words: str) -> frozenset[str]:
    """The words of a space-separated list."""
    return frozenset(words.split())


REWRITES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[\u2010-\u2015\-/]", " "),
        (r"\bw o\b", "without"),
        (r"\boedema", "edema"),
        (r"haemo", "hemo"),
        (r"\bbi ?(basal|basilar|apical)\b", r"bilateral \1"),
        (r"\bright middle lobe\b", "right mid lobe"),
        (r"\blingula(r)?\b", "left mid zone"),
        (r"\bretrocardiac\b", "left lower retrocardiac"),
        (r"\brul\b", "right upper lobe"),
        (r"\brml\b", "right mid lobe"),
        (r"\brll\b", "right lower lobe"),
        (r"\blul\b", "left upper lobe"),
        (r"\blll\b", "left lower lobe"),
        (r"\b(rt)\b", "right"),
        (r"\b(lt)\b", "left"),
        # Hedges count as mentions; "no change" negates nothing.
        (
            r"\b(can ?not|can't|could not|is not|are not|not) (be )?(entirely |completely |fully )?"
            r"(excluded?|ruled out|rule out)",
            "possible",
        ),
        (
            r"\b(no|without) (significant |interval |appreciable |definite )*(interval )?change( in| of)?\b",
            "stable",
        ),
        (r"\bnot only\b", ""),
        # Comparisons between sides.
        (
            r"\b(right|left)( side)? (greater|larger|more|worse"
            r"|bigger)( \w+)? than( on)?( the)? (left|right)\b",
            r"right and left",
        ),
        (r"\b(higher|more elevated) than( on)?( the)? (left|right)\b", "elevated"),
        (r"\b(than|compared (to|with)|relative to)( on)?( the)? (left|right)( side| one)?\b", ""),
        # A range of sizes is read as its lower end, "moderate to large" stays large.
        (
            r"\b(small|mild|minor|trace|tiny|minimal)( sized?)? (to|or) (moderate|small|mild)\w*( sized?)?\b",
            "small",
        ),
    )
)

CONTRAST = re.compile(
    r"\b(but|although|though|however|whereas|while|yet|except(ing)?( for)?|apart from|other than|aside from"
    r"|save for)\b"
)

NEGATION = re.compile(
    r"\b(no|not|without|neither|nor|never|nil|none|negative for|free (of|from)|clear of|rather than"
    r"|instead of"
    r"|absence of|lack of|devoid of|lacks?|denies|isn't|aren't|doesn't|excludes|resolution of|removal of)\b"
)

NEGATION_AFTER = re.compile(
    r"\b((no longer|not|never)( been| be| clearly| definitely)* "
    r"(seen|present|identified|demonstrated|evident|visible|visuali[sz]ed|detected|appreciated"
    r"|noted|found|apparent"
    r"|observed|shown)|absent|excluded|ruled out|(has|have) (completely )?(resolved|cleared)"
    r"|removed|unlikely|negative)\b"
)

SIDES: dict[str, tuple[str, ...]] = {
    "right": ("right",),
    "left": ("left",),
    "both": ("right", "left"),
    "bilateral": ("right", "left"),
    "bilaterally": ("right", "left"),
}

SIZES: dict[str, str] = {
    **dict.fromkeys(
        (
            "small",
            "smaller",
            "trace",
            "tiny",
            "minor",
            "minimal",
            "mild",
            "slight",
            "little",
            "subtle",
            "minute",
            "thin",
        ),
        "small",
    ),
    **dict.fromkeys(
        (
            "large",
            "moderate",
            "moderately",
            "massive",
            "sizeable",
            "sizable",
            "substantial",
            "huge",
            "extensive",
            "considerable",
            "big",
            "marked",
        ),
        "large",
    ),
}

ZONES: dict[str, str] = {
    **dict.fromkeys(("upper", "apical", "apex", "apices", "apically", "suprahilar"), "upper"),
    **dict.fromkeys(("mid", "middle", "midzone", "midlung", "midzones", "perihilar"), "mid"),
    **dict.fromkeys(("lower", "base", "bases", "basal", "basally", "basilar", "infrahilar"), "lower"),
}

ZONE_DECOYS = word_set(
    "abdomen abdominal mediastinum mediastinal limit limits thoracic rib ribs trachea end svc border lumbar neck"
)
"""Words that make a preceding "upper", "mid" or "lower" no lung zone."""

PLURAL_PLACE = re.compile(r"\b(zones|bases|apices|lobes|lungs|effusions|pneumothoraces|hemidiaphragms|angles|sulci)\b")

NORMAL = word_set("clear normal unremarkable intact aerated expanded preserved")

# Words that shape the negation segments.
DETERMINERS = word_set("a an the there this it both")
SUBJECTS = word_set(
    "heart lungs lung cardiac cardiomegaly mediastinum mediastinal bones bony trachea hila hilar "
    "hemidiaphragm hemidiaphragms diaphragm endotracheal pacemaker sternal sternotomy cardiomediastinal"
)
VERBS = word_set("seen present identified noted evident visible detected demonstrated elevated raised clear")
FINITE = word_set("is are was remains appears shows has")
PREPOSITIONS = word_set("in at over on within of overlying projecting throughout projects overlies is are")
WITH_KEPT = word_set("consistent compatible keeping associated along together")

_HEART = r"(heart|cardiac|cardiomediastinal|cardiothoracic|cardiopericardial)"
_HEART_PART = r"( (silhouette|size|shadow|contours?|ratio|outline))*"
_DIAPHRAGM = r"(hemi)?diaphragms?"

TERMS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(r"\b(" + pattern + r")\b"))
    for name, pattern in (
        # Decoys come first and claim their words.
        (
            "none",
            r"(pericardial|joint) (effusion|fluid)|(soft tissue|subcutaneous) edema|mass effect"
            r"|interstitial (opacit(y|ies)|infiltrates?)|(atrial|ventricular|hilar|aortic"
            r"|vascular) enlargement"
            r"|tracheostomy( tube)?|large bore",
        ),
        (
            "cardiomegaly",
            r"cardiomegaly|cardiac enlargement|enlarge(d|ment)( of)?( the)? "
            + _HEART
            + _HEART_PART
            + r"|(large|big|increased)( the)? "
            + _HEART
            + _HEART_PART
            + "|"
            + _HEART
            + _HEART_PART
            + r"( (is|are|appears?|remains?|was|looks|again|not|mildly|moderately|markedly|grossly"
            r"|borderline|slightly"
            r"|severely|significantly|somewhat|to be|and|mediastin\w+|silhouette|contours?|overtly))*"
            r" (enlarged|increased|enlargement|dilated|large|big)",
        ),
        (
            "edema",
            r"(interstitial |pulmonary |alveolar |cardiogenic )*edema|kerley( b)?( lines)?"
            r"|(thickened |prominent )?septal (lines|thickening)|perihilar haz(e|iness)"
            r"|bat ?wing\w*|fluid overload"
            r"|(increased|prominent|thickened) interstitial markings",
        ),
        ("effusion", r"hydropneumothora(x|ces)"),
        ("pneumothorax", r"(hemo)?pneumothora(x|ces)"),
        (
            "effusion",
            r"(pleural )?effusions?|pleural fluid|subpulmonic fluid|(hydro|hemo)thora(x|ces)"
            r"|(blunt(ing|ed)|obliteration|obliterated)( of)?( the| both| right| left| lateral"
            r"| posterior| bilateral| and)*"
            r" (costophrenic|cp) (angles?|sulci|sulcus|recess(es)?)"
            r"|(costophrenic|cp) (angles?|sulci|sulcus|recess(es)?)( \w+){0,3} (blunt(ing|ed)|obliterated)",
        ),
        (
            "nodule",
            r"nodul(e|es|ar|arity)( (density|densities|opacity|opacities|lesions?|shadow|shadows|shadowing))?"
            r"|(round|rounded|coin|well circumscribed|well defined|circumscribed|spherical)( \w+)?"
            r" (lesions?|density|densities|opacity|opacities|mass|masses|shadows?)|mass(es)?"
            r"|pulmonary lesions?",
        ),
        (
            "opacity",
            r"consolidations?|consolidative( \w+)?|(airspace |air space )?(opacity|opacities"
            r"|opacification|shadowing)"
            r"|infiltrates?|infiltration|air ?space disease|pneumonia",
        ),
        (
            "hemidiaphragm",
            r"(elevat(ed|ion)|rais(ed|ing)|high|high riding|eventration)( (of|the|right|left|both"
            r"|bilateral|and|a))* "
            + _DIAPHRAGM
            + "|"
            + _DIAPHRAGM
            + r"( (is|are|appears?|remains?|was|not|mildly|moderately|slightly|markedly|again|also"
            r"|somewhat))*"
            r" (elevat(ed|ion)|raised|high)",
        ),
        ("endotracheal_tube", r"endotracheal( tubes?)?|et tube|ett|tracheal tube|intubated|intubation"),
        (
            "central_line",
            r"central (venous )?(pressure )?(lines?|catheters?|access)|cvc|picc|(jugular"
            r"|subclavian) (central )?(venous )?"
            r"(lines?|catheters?)|swan ganz|port ?a ?cath|dialysis (line|catheter)|hickman",
        ),
        (
            "pacemaker",
            r"pacemakers?|pacing (device|leads?|wires?)|pacer|icd|aicd|cardioverter|pulse generator"
            r"|cardiac device",
        ),
        (
            "sternal_wires",
            r"(sternal|sternotomy|cerclage)( \w+)? (wires?|sutures?)|(sternal|sternotomy"
            r"|cerclage) (wires?|sutures?)"
            r"|sternotomy|cerclage",
        ),
    )
)
