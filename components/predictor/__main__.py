"""Runs the predictor: ``python3 -m components.predictor``."""

import os
import sys

from components.predictor.predictor_main import main

exit_code = main()
sys.stdout.flush()
sys.stderr.flush()
# A regular exit would wait for threads with a running prediction or download. Files on disk are complete at
# any moment.
os._exit(exit_code)
