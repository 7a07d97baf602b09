"""`python -m pwmray`: the `pwmray` command."""

import sys

from pwmray.cli import main

sys.exit(main())
