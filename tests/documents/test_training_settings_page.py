"""docs/own_task.md lists the settings of the training with their defaults and values."""

import json
import re
from pathlib import Path

import msgspec.inspect
import pytest
from msgspec import UNSET

from components.trainer.tasks.partition import Partition
from components.trainer.training import TrainingSettings

PAGE = (Path(__file__).parents[2] / "docs" / "own_task.md").read_text()


def rows() -> dict[str, list[str]]:
    table = PAGE.split("<!-- training settings", 1)[1].split("##", 1)[0]
    lines = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def values(kind: msgspec.inspect.Type) -> str:
    """Return a type's values as the page spells them."""
    match kind:
        case msgspec.inspect.LiteralType(values=words):
            return ", ".join(sorted(str(word) for word in words))
        case msgspec.inspect.UnionType():
            return "a whole number or null"
        case msgspec.inspect.IntType(ge=least, le=most) if most is not None:
            return f"{least} to {most}"
        case msgspec.inspect.FloatType(ge=least, lt=below) if below is not None:
            return f"{least} to below {below}"
        case msgspec.inspect.FloatType(gt=least) if least is not None:
            return f"above {least}"
        case msgspec.inspect.IntType(ge=least) | msgspec.inspect.FloatType(ge=least):
            return f"{least} or more"
    pytest.fail(f"say how the docs put {kind}")


def test_the_docs_list_each_setting_with_its_default_and_its_values() -> None:
    found = rows()
    kind = msgspec.inspect.type_info(TrainingSettings)
    assert isinstance(kind, msgspec.inspect.StructType)
    assert list(found) == [field.name for field in kind.fields]
    for field in kind.fields:
        assert field.default is not UNSET
        default, told, meaning = found[field.name]
        assert default == (field.default if isinstance(field.default, str) else json.dumps(field.default))
        told = ", ".join(sorted(told.split(", ")))
        assert told == values(field.type), field.name
        assert meaning


def test_the_docs_list_each_option_of_a_share_with_its_default() -> None:
    table = PAGE.split("## Shares of one data set", 1)[1]
    cells = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    for name in Partition.__struct_fields__:
        default = next(told for names, told in cells if f"`{name}`" in names)
        assert str(getattr(Partition(), name)) in re.split(r"[`, ]+", default)
