# SPDX-License-Identifier: Apache-2.0
"""Findings as codes: a table of a bundle says which phrases of the model's text stand for which coded findings."""

from edge.coding.read import CodedFinding, Reading, read_sentence, read_sentences
from edge.coding.table import Code, CodingTable, parse_coding

__all__ = ["Code", "CodedFinding", "CodingTable", "Reading", "parse_coding", "read_sentence", "read_sentences"]
