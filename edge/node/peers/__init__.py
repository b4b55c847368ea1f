# SPDX-License-Identifier: Apache-2.0
"""Receivers of results: a DICOM peer, a DICOMweb server, a folder."""
