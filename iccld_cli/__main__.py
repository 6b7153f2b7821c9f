"""`python -m iccld_cli` and the console script `iccld`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; what it needs is imported here, so that a failure of that is one line too."""
    try:
        from iccld_cli.cli.app import main as run
    except OSError as error:
        print(f"error: the program cannot be loaded: {error.strerror or error}", file=sys.stderr)
        sys.exit(1)
    run()


if __name__ == "__main__":
    main()
