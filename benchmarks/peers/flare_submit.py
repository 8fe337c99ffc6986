"""Submits a job to FLARE, in FLARE's own environment: ``python flare_submit.py ADMIN_FOLDER JOB_FOLDER``.

Prints the job's identifier.
"""

import sys

from nvflare.fuel.flare_api.flare_api import new_secure_session

_USER = "admin@nvidia.com"  # of `nvflare poc prepare`
_LOGIN_SECONDS = 60.0


def main() -> None:
    """Run the command line."""
    admin, job = sys.argv[1:]
    session = new_secure_session(_USER, admin, timeout=_LOGIN_SECONDS)
    try:
        print(session.submit_job(job))
    finally:
        session.close()


if __name__ == "__main__":
    main()
