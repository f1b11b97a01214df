"""`python -m cairnkv`: the command line."""

import sys

from cairnkv.cli.main import main

sys.exit(main())
