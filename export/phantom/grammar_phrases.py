# SPDX-License-Identifier: Apache-2.0
"""The wording of the findings grammar: ``{a|b}`` is a choice, ``<name>`` is filled by the grammar."""

from __future__ import annotations

_SEEN = "{seen|present|noted}"

# --- devices ---
DEVICE_NAMES = {
    "endotracheal_tube": "{endotracheal tube|endotracheal tube|ET tube}",
    "central_line": "central {venous line|venous catheter|line}",
    "pacemaker": "{pacemaker|cardiac pacemaker|pacemaker with leads}",
    "sternal_wires": "{sternal wires|sternotomy wires|median sternotomy wires}",
}
DEVICES_SEEN = "are {in place|in situ|seen|present|noted}"
DEVICE_SENTENCES = {
    "endotracheal_tube": (
        "{an endotracheal tube|the endotracheal tube|endotracheal tube|ET tube} "
        "{is in {place|situ}|{ends|terminates} {above the carina|in the mid trachea}"
        "|tip {lies|projects} above the carina}"
    ),
    "central_line": (
        "{a central|the central|central} {venous line|venous catheter|line} "
        "{is in {place|situ}|{ends|terminates} in the superior vena cava"
        "|tip {lies|projects} over the superior vena cava}"
    ),
    "pacemaker": (
        "{{a pacemaker|pacemaker|a cardiac pacemaker} "
        "{is in {place|situ}|with leads {over the heart|in place} is " + _SEEN + "}"
        "|pacemaker leads project over the heart}"
    ),
    "sternal_wires": ("{sternal|sternotomy|median sternotomy} wires are {intact|in place|aligned|" + _SEEN + "}"),
}
NO_DEVICES = "no {support devices|lines or tubes|tubes or lines} {are {seen|present}|}"

# --- heart and mediastinum ---
HEART_NORMAL = (
    "{{the heart|the cardiac silhouette|cardiac silhouette} is {normal in size|not enlarged|of normal size}"
    "|heart size is {normal|within normal limits}|no {cardiomegaly|cardiac enlargement} is {seen|present}}"
)
HEART_LARGE = (
    "{{the heart|the cardiac silhouette|cardiac silhouette} is {enlarged|enlarged|increased in size}"
    "|heart size is increased|{cardiomegaly|cardiac enlargement} is " + _SEEN + "}"
)
AND = "{and|and|, and}"
MEDIASTINUM = (
    "{the {mediastinal|mediastinal and hilar} contours are {normal|unremarkable|preserved}"
    "|the {mediastinum|trachea} is {central|midline}|the mediastinum is {not widened|normal|unremarkable}}"
)

# --- lungs ---
LUNGS_CLEAR = (
    "{the lungs|both lungs|lungs} are "
    "{clear|clear|well aerated|well expanded and clear|clear and well aerated}"
    "{|| with no {focal|} {opacity|consolidation}| without focal {opacity|consolidation}}"
)
LUNGS_CLEAR_PLAIN = (
    "{{the lungs|both lungs|lungs} are {|otherwise} clear{|| with no {focal|} {opacity|consolidation}}"
    "|no {focal|} {opacity|consolidation} {or nodule|} in either lung}"
)
ZONE_NOUNS = {
    "upper": "{upper zone|upper lung zone|upper zone|lung apex}",
    "mid": "{mid zone|mid lung zone|middle zone}",
    "lower": "{lower zone|lower lung zone|lung base|base}",
}
ZONE_ADJECTIVES = {
    "upper": "{upper zone|upper zone|apical}",
    "mid": "{mid zone|middle zone|mid lung}",
    "lower": "{lower zone|basal|basal}",
}
OPACITY_SHORT = "{consolidation|airspace opacity|opacity}"
OPACITY_ONE = (
    "{{consolidation|patchy consolidation|airspace opacity|patchy opacity} {in|in|is {seen|noted} in} <place>"
    "|there is {focal|patchy|} consolidation in <place>}"
)
OPACITY_MANY = (
    "{{multifocal|patchy|} consolidation {in|is {seen|present} in}"
    "|{multifocal|patchy|airspace} opacities {in|are {seen|present} in}} <places>"
)
NODULE_ONE = (
    "{a {{well-circumscribed|rounded|small|solitary} {nodule|nodular density}|nodule} "
    "{projects over|overlies|is {seen|noted} in} <place>"
    "|there is a {rounded|small|well-circumscribed|} {nodule|nodular density} {in|over} <place>}"
)
NODULE_MANY = (
    "{{rounded|small|well-circumscribed|} nodules|nodular densities} "
    "{project over|overlie|in|are {seen|noted} in} <places>"
)
EDEMA = (
    "{interstitial {oedema|edema|pulmonary edema} {is " + _SEEN + "|with {Kerley lines|perihilar haze}|}"
    "|perihilar haze with Kerley lines {in keeping with|suggesting} {interstitial|pulmonary} {oedema|edema}}"
)
NO_OPACITY = "no {focal|airspace|} {consolidation|opacity} {is seen|}"
NO_NODULE = "no {{pulmonary|lung|} nodule|{suspicious|} nodule or mass} {is seen|}"
NO_OPACITY_NODULE = (
    "no {focal {consolidation|opacity}|consolidation} or {nodule|mass|{pulmonary|lung} nodule} {is seen|}"
)
NO_EDEMA = (
    "{no {interstitial|pulmonary} {oedema|edema} {is seen|}"
    "|the pulmonary vascularity is normal {with no {interstitial|pulmonary} {oedema|edema}|}}"
)

# --- pleura ---
EFFUSION_SIZES = {
    "small": "{small|small|trace}",
    "large": "{large|large|moderate to large}",
}
BLUNTING = (
    "{minor|slight|mild} blunting of the <side> costophrenic angle"
    "{| {suggesting|due to} a {small|trace} {pleural|} effusion}"
)
AIR_SIGN = "with a {visible|thin} pleural line"
PLEURA_CLEAR = (
    "{no {pleural effusion or pneumothorax|pneumothorax or pleural effusion|effusion or pneumothorax} "
    "{is {seen|present}|}|there is no {pleural effusion or pneumothorax|pneumothorax or pleural effusion}"
    "|{the costophrenic angles|both costophrenic angles|the pleural spaces} are clear "
    "{with no pneumothorax|with no pneumothorax|and there is no pneumothorax}}"
)
NO_AIR = "{no|there is no} pneumothorax {on either side|}"
NO_AIR_TAIL = "{without {a|}|with no} pneumothorax"
NO_FLUID = "{no {pleural|} effusion {is seen|}|there is no pleural effusion|the costophrenic angles are clear}"

# --- diaphragm and bones ---
DIAPHRAGM_ONE = (
    "{{the|} <side> hemidiaphragm is {elevated|raised|elevated}"
    "|{elevation of the|elevated|raised} <side> hemidiaphragm {is " + _SEEN + "|}}"
)
DIAPHRAGM_BOTH = "{both hemidiaphragms are {elevated|raised}|elevation of both hemidiaphragms {is " + _SEEN + "|}}"
DIAPHRAGM_NORMAL = (
    "{{the|both} hemidiaphragms are {normal in position|well defined}|the diaphragm is {normal|well defined}}"
)
BONES = (
    "{{no {acute|} {bony|osseous} {abnormality|lesion} {is seen|}|no {rib|} fracture {is seen|}}"
    "{|, and the soft tissues are {normal|unremarkable}}"
    "|{the {visible|} bones|the ribs|the {visible|} bones and soft tissues|the ribs and clavicles} are "
    "{intact|unremarkable|normal}|{the bony thorax|the thoracic skeleton} is {intact|unremarkable|normal}}"
)
NORMAL_END = (
    "{no acute {cardiopulmonary|chest|thoracic} {abnormality|process|disease} {is seen|}"
    "|{normal|unremarkable} {frontal|} chest radiograph|no active {chest|lung} disease}"
)
