"""Entry point of `python -m irepdeploy`, the same as `irepdeploy`."""

from __future__ import annotations

import sys

from irepdeploy.cli import main

if __name__ == "__main__":
    sys.exit(main())
