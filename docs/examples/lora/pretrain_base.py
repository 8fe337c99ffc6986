"""Trains the base model of the task ``vibration_task`` on data of a test bench, once, on one machine.

    python docs/examples/lora/pretrain_base.py [--out base.safetensors] [--steps 500]

It takes half a minute on one processor core. All devices need the same file: publish it with the task. A run
whose devices have different bases is refused by its fingerprint.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from vibration_data import CLASSES, read_windows
from vibration_task import HEAD, Transformer

_WINDOWS, _BATCH, _RATE = 8000, 64, 2e-3


def pretrain(out: Path, steps: int, seed: int = 0) -> float:
    """Train a base model and write it without its last layer; return its accuracy on other windows."""
    torch.set_num_threads(1)  # with matrices this small, further threads only wait for each other
    torch.manual_seed(seed)
    model = Transformer(CLASSES)
    windows, classes = read_windows("bench", _WINDOWS, seed=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(_WINDOWS, (_BATCH,))
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(windows[chosen]), classes[chosen])
        loss.backward()  # type: ignore[no-untyped-call] # torch does not type it
        optimizer.step()
        schedule.step()
    save_file({name: array for name, array in model.state_dict().items() if not name.startswith(HEAD)}, out)
    windows, classes = read_windows("bench", 1000, seed=2)
    with torch.no_grad():
        return float((model(windows).argmax(dim=1) == classes).float().mean())


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "base.safetensors")
    parser.add_argument("--steps", type=int, default=500, help="batches of 64 windows (default: 500)")
    options = parser.parse_args()
    accuracy = pretrain(options.out, options.steps)
    print(f"wrote {options.out} ({options.out.stat().st_size:,} bytes): accuracy {accuracy:.1%} on the bench")


if __name__ == "__main__":
    main()
