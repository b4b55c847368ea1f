# SPDX-License-Identifier: Apache-2.0
"""``python -m edge_bench.peers``: the same as ``edge-bench peers``."""

import sys

from ..cli import main

sys.exit(main(["peers", *sys.argv[1:]]))
