"""A grid in real processes whose simulations are fakes: ``python -m ... GRID.toml OUT``, for its tests."""

import sys
from pathlib import Path

from fedgrass.console.interruption import ended_by_signals
from fedgrass.simulation.grids.executors.process_executor import ProcessExecutor
from fedgrass.simulation.grids.grid_action import run_grid
from fedgrass.simulation.simulation_spec import SimulationSpec
from tests.fakes.simulated_cells import slow_run_cell


def main() -> int:
    """Run the grid; 130 after a signal."""
    try:
        with ended_by_signals():
            return run_grid(
                Path(sys.argv[1]),
                SimulationSpec(devices=5),
                seeds=1,
                out=Path(sys.argv[2]),
                open_executor=lambda _grid, _workers: ProcessExecutor(2, slow_run_cell),
            )
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
