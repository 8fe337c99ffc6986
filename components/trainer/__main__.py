"""Runs the trainer: ``python3 -m components.trainer``."""

import sys

from components.trainer.main import main

sys.exit(main())
