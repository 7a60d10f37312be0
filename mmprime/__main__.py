"""python -m mmprime = mmprime"""

from mmprime.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
