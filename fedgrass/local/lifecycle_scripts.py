"""What a component's process is told to run, and how often it may fail."""

from __future__ import annotations

from dataclasses import dataclass

from fedgrass.local.guarded_script import Script


@dataclass(frozen=True)
class TimedScript:
    """A script that has to end in time."""

    script: Script
    seconds: float


@dataclass(frozen=True)
class LifecycleScripts:
    """A component's lifecycle with all variables filled in."""

    install: TimedScript | None = None
    run: Script | None = None
    shutdown: TimedScript | None = None
    bootstrap: TimedScript | None = None
    startup: TimedScript | None = None
    """In the place of `run`: the component runs when it has ended, by what it has left running."""
    recover: TimedScript | None = None


@dataclass(frozen=True)
class RestartLimits:
    """When a failed component is started again, and when it is given up."""

    pause_seconds: float = 1.0
    failures: int = 3
    window_seconds: float = 3_600.0
    stop_seconds: float = 5.0
    """How long a component may take to end after SIGTERM."""
