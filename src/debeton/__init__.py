"""debeton: training that does not take the shortcut."""

import os

__version__ = "0.1.0"

# torch's OpenMP threads spin while they wait, and so take the cores from the threads that decode the next batch:
# waiting passively trains 3 to 4 times faster on two busy cores and a tenth slower on two idle ones (RESULTS.md).
# Read when torch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
