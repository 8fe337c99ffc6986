"""The JSON of ``fedgrass model`` equals the golden files, and every field is on the page."""

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from fedgrass.console.models.alias_moves import MovedAlias
from fedgrass.console.models.model_catalogue import ModelEntry
from fedgrass.console.models.model_comparison import ArrayDifference, ModelDifference, ReshapedArray
from fedgrass.console.models.model_displays import ModelList
from fedgrass.console.models.model_import import ImportResult
from fedgrass.console.models.model_lineage import LineageReply, ModelLineage
from fedgrass.console.models.model_pull import PulledModel
from fedgrass.console.models.pickle_conversion import ConvertedPickle
from fedgrass.console.results import show_result
from fedgrass.federation.models.model_alias import AliasAction, AliasChange
from tests.documents.golden_files import golden_text

PAGE = (Path(__file__).parents[2] / "docs" / "json.md").read_text()
AT = 1_700_000_000_000
SHA256 = "0123456789abcdef" * 4
ENTRY = ModelEntry(
    model="digits-1/2",
    run="digits-1",
    round=2,
    task="digits",
    origin="trained",
    bytes=24_776,
    sha256=SHA256,
    made_at=AT,
    metrics={"accuracy": 0.97, "loss": 0.06},
    aliases=["production", "latest"],
)
REPLY = LineageReply(
    device="press-1",
    checksum="0123456789abcdef" * 2,
    examples=647,
    bytes=24_928,
    started_from="digits-1/1",
    code="trainer 0.4.0",
    received_at=AT - 1000,
)
CHANGE = AliasChange(
    at=AT,
    action=AliasAction.PROMOTE,
    by="arn:aws:iam::123456789012:user/ann",
    run="digits-1",
    round=2,
    from_run="digits-1",
    from_round=1,
    id="0123456789abcdef",
)
SHOWN: dict[str, Any] = {
    "model-list": ModelList(models=[ENTRY], count=1),
    "model-show": ModelLineage(
        model=ENTRY,
        key="models/digits-1/2.safetensors",
        parent="digits-1/1",
        ancestors=["digits-1/0"],
        attempt=1,
        strategy="weighted_mean",
        selection="all",
        settings={"task": "digits", "rounds": 3},
        code="fedgrass 0.4.0",
        replies=[REPLY],
        refused={"lathe-2": "its update has a value that is not finite"},
        history={"production": [CHANGE]},
    ),
    "model-pull": PulledModel(
        model="digits-1/2",
        task="digits",
        file="digits-1-2.safetensors",
        format="safetensors",
        bytes=24_776,
        sha256=SHA256,
    ),
    "model-diff": ModelDifference(
        before="digits-1/1",
        after="digits-1/2",
        arrays=[
            ArrayDifference(
                array="0.bias",
                shape=[16],
                dtype_before="F32",
                dtype_after="F32",
                norm_before=1.4,
                norm_after=1.6,
                norm_difference=0.33,
                largest_difference=0.21,
                cosine=0.98,
                is_equal=False,
            )
        ],
        reshaped=[ReshapedArray(array="head", shape_before=[2, 3], shape_after=[2, 4])],
        removed=["old"],
        added=["new"],
        norm_difference=0.33,
        cosine=None,
    ),
    "model-promote": MovedAlias(
        alias="production",
        task="digits",
        model="digits-1/2",
        before="digits-1/1",
        serial=2,
        changed=True,
    ),
    "model-import": ImportResult(
        model="base/0",
        task="digits",
        bytes=24_840,
        sha256=SHA256,
        arrays=6,
        checked="digits: 6 arrays",
        is_new=True,
    ),
    "model-convert-pickle": ConvertedPickle(
        source="old.pkl", file="old.safetensors", arrays=6, bytes=24_840, reader="the unpickler for arrays"
    ),
}


@pytest.mark.parametrize("name", SHOWN)
def test_the_json_of_a_command_is_that_of_the_golden_file(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show_result(SHOWN[name], "json", lambda _: None)
    assert json.loads(capsys.readouterr().out) == json.loads(golden_text(name))


def fields(kind: Any) -> set[str]:
    """Return the fields of a struct, and of the structs within it."""
    found = set()
    for field in msgspec.structs.fields(kind):
        found.add(field.name)
        for inner in (
            field.type,
            *get_args(field.type),
            *(i for a in get_args(field.type) for i in get_args(a)),
        ):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                found |= fields(inner)
    return found


@pytest.mark.parametrize("name", SHOWN)
def test_every_field_is_explained_on_the_page(name: str) -> None:
    start = PAGE.index("## fedgrass model list")
    following = PAGE.find("\n## fedgrass ", PAGE.index("## fedgrass model convert-pickle") + 1)
    section = PAGE[start : following if following > 0 else len(PAGE)]
    assert [field for field in sorted(fields(type(SHOWN[name]))) if f"`{field}`" not in section] == []
    command = name.removeprefix("model-")
    assert f"model {command}" in section
