"""`python -m minivim.reproduce NAME` trains and compares."""

import sys

from minivim.reproduce import main
from minivim.runtime import restart_with_environment

restart_with_environment()
sys.exit(main())
