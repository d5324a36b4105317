"""`python -m minivim` is the command line."""

import sys

from minivim.cli import main

sys.exit(main())
