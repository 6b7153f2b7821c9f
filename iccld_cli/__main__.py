"""`python -m iccld_cli` and the console script `iccld`."""

from __future__ import annotations

from iccld_cli.cli.app import main

if __name__ == "__main__":
    main()
