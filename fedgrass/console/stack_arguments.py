"""What all commands take that work on a deployed stack."""

import argparse


def add_stack(parser: argparse.ArgumentParser, *others: str) -> None:
    """Add --stack, and ``others`` that mean the same."""
    parser.add_argument(
        "--stack", *others, default="fedgrass", help="the fleet's CloudFormation stack (fedgrass)"
    )


def add_account(parser: argparse.ArgumentParser) -> None:
    """Add --account."""
    parser.add_argument(
        "--account", default="", help="12 digits: refuse the credentials of any other account"
    )
