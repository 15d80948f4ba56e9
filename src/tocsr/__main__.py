"""`python -m tocsr`."""

import sys

from tocsr.cli import main

sys.exit(main())
