# SPDX-License-Identifier: Apache-2.0
"""``edge-bench cost``: what each format of weights and of the KV cache costs in fidelity, and saves in time."""
