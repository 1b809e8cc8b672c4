"""``python -m yolorep``."""

import sys

from yolorep.cli import main

sys.exit(main())
