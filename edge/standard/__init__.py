# SPDX-License-Identifier: Apache-2.0
"""A report as the standard objects of a hospital: DICOM SR, Secondary Capture and Segmentation, and FHIR R4."""
