"""Runs the predictor: ``python3 -m components.predictor``."""

import os
import sys

from components.predictor.predictor_main import main

exit_code = main()
sys.stdout.flush()
sys.stderr.flush()
# Python's own exit would wait for the threads of predictions and downloads that are under way; what lies on
# disk is whole at any moment.
os._exit(exit_code)
