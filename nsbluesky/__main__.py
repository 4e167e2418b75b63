"""``python -m nsbluesky COMMAND``, for where the command itself is not on the path."""

import sys

from nsbluesky.cli import main

sys.exit(main())
