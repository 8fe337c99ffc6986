"""Run ``greengrass-emulator`` as ``python -m greengrass_emulator``."""

from greengrass_emulator.command.emulator_command import main

if __name__ == "__main__":
    main()
