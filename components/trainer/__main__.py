"""Run the trainer: ``python3 -m components.trainer``, with ``--mqtt FILE`` on devices without Greengrass."""

import os
import sys

from components.trainer.trainer_main import main

exit_code = main(sys.argv[1:])
sys.stdout.flush()
sys.stderr.flush()
# Python's normal exit would wait for threads, such as that of a hanging upload, and the nucleus starts no new
# process until this one has ended.
os._exit(exit_code)
