# SPDX-License-Identifier: Apache-2.0
"""Ours and other engines side by side: the same geometry, weights, threads and lengths, by turns in one run.

Each module whose name ends in ``_peer`` loads one engine and times it; each runs in a process of its own.
"""
