"""What the benchmarks share: contenders, a stage to run them on, clients, statistics, results."""

import sys
from pathlib import Path

# the private containerd and the maker of images are the tests' own
if (_tests := str(Path(__file__).parents[2] / "tests")) not in sys.path:
    sys.path.append(_tests)
