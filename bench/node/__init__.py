# SPDX-License-Identifier: Apache-2.0
"""``edge-bench node``: modalities that send at once to a node, for minutes."""
