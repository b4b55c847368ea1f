# SPDX-License-Identifier: Apache-2.0
"""``edge-node``: a DICOM application entity beside the scanner (extra ``node``).

film by C-STORE -> spool on disk -> report -> objects on disk -> every receiver; one way only, and what is on disk is
all there is to know: a process killed anywhere goes on from there (:mod:`edge.node.spool`).
"""
