# SPDX-License-Identifier: Apache-2.0
"""A page on localhost to review drafts with: ``edge-review`` (extra ``web``)."""
