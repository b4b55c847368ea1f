# SPDX-License-Identifier: Apache-2.0
"""Synthetic frontal chest films ("phantoms") with known findings, masks and texts."""
