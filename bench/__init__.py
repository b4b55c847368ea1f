# SPDX-License-Identifier: Apache-2.0
"""``edge-bench``: how fast a model runs here, and how much of this machine's memory bandwidth it uses."""
