"""`python -m anchortrain`."""

import sys

from anchortrain.cli import main

if __name__ == "__main__":
    sys.exit(main())
