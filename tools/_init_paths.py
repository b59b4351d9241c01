"""Put the repository's root on `sys.path`, so that a tool can be run in any folder."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
