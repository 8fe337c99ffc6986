"""Runs the trainer: ``python3 -m components.trainer``; with ``--mqtt FILE`` where there is no Greengrass."""

import os
import sys

from components.trainer.trainer_main import main

exit_code = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
# Python's own exit would wait for the threads of an upload that boto3 has under way; for as long as that
# hangs the nucleus would start no new process.
os._exit(exit_code)
