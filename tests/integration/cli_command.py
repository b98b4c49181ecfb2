"""The command as a process."""

import sys
from typing import Final

MAYFLY: Final = [sys.executable, "-c", "from mayfly.cli import main; main()"]
