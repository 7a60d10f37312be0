"""python tools/prepare.py = mmprime prepare"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmprime.cli.prepare import main

if __name__ == "__main__":
    raise SystemExit(main())
