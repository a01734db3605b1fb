"""`python -m runtime` is `spillway`."""

import sys

from runtime.cli import main

sys.exit(main())
