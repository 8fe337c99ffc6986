"""Options of single things: the deployments that give them, what these keep, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.runtime.device_options import COMPONENT
from fedgrass.federation.errors import SettingsError
from tests.fakes.memory_greengrass import MemoryGreengrass
from tests.unit.console.device_options.conftest import TRAINER, trainer

Run = Callable[..., None]
Options = Callable[[str], Any]


def table(folder: Path, *rows: str, name: str = "devices.csv") -> str:
    file = folder / name
    file.write_text("\n".join(["thing,option,value", *rows]) + "\n")
    return str(file)


def test_a_thing_gets_its_options_and_the_group_the_component_that_holds_them(
    cloud: MemoryGreengrass, run: Run, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    run("--thing", "press-1", "--option", "digits.share=3", "--option", "cracks.folder=/mnt/1")
    assert options("press-1") == {"digits": {"share": 3}, "cracks": {"folder": "/mnt/1"}}
    assert cloud.deployed(cloud.thing_arn("press-1")).keys() == {COMPONENT}, (
        "the trainer's version stays free"
    )
    group = cloud.deployed(cloud.group_arn("presses"))
    assert group[COMPONENT] == {"componentVersion": "1.0.0"}, "a merge of the group would replace the thing's"
    assert group[TRAINER] == trainer(**json.loads(group[TRAINER]["configurationUpdate"]["merge"]))[TRAINER]
    assert COMPONENT not in cloud.deployed(cloud.group_arn("all"))
    assert cloud.thing_arn("press-2") not in cloud.latest
    said = capsys.readouterr().out
    assert "note: cracks.folder is set for the group presses too: the own value of a thing wins there" in said
    assert "note: the options of cracks, a custom task, are checked on the devices only" in said
    assert said.endswith("deployments created: 1\n")


def test_repeating_the_command_changes_nothing(
    cloud: MemoryGreengrass, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--thing", "press-1", "--option", "digits.share=3")
    run(*words)
    before = dict(cloud.deployments)
    run(*words)
    assert cloud.deployments == before
    assert capsys.readouterr().out.endswith("things that change: 0; up to date: 1\n")
    run(*words, "--again")
    assert cloud.deployments == before, "it did not fail"


def test_a_failed_deployment_is_sent_again_to_the_things_where_it_failed(
    cloud: MemoryGreengrass, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = table(tmp_path, "press-1,digits.share,3", "press-2,digits.share,4")
    cloud.finishes = lambda thing: "FAILED" if thing == "press-2" else "COMPLETED"
    with pytest.raises(SystemExit, match="failed on 1 things: fix what they report"):
        run("--options-table", file, "--watch", "1")
    assert "FAILED      press-2: the disk is full" in capsys.readouterr().out
    before = dict(cloud.deployments)
    run("--options-table", file)
    assert cloud.deployments == before
    with pytest.raises(SystemExit):
        run("--options-table", file, "--again", "--watch", "1")
    (new,) = cloud.deployments.keys() - before.keys()
    assert cloud.deployments[new]["targetArn"] == cloud.thing_arn("press-2")


def test_a_dry_run_prints_the_plan_and_changes_nothing(
    cloud: MemoryGreengrass, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    before = dict(cloud.deployments)
    run("--thing", "press-1", "--thing", "press-2", "--option", "digits.share=3", "--dry-run")
    assert (cloud.deployments, COMPONENT in cloud.versions) == (before, False)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{COMPONENT} 1.0.0 will be published, which holds the options of a thing"
    assert said[1] == f"the group presses gets {COMPONENT}:"
    assert "the deployment to the thing press-2:" in said
    assert said[-2:] == ["things that change: 2; up to date: 0", "nothing was changed (--dry-run)"]


def test_other_options_other_components_and_policies_of_a_thing_stay(
    cloud: MemoryGreengrass, run: Run, options: Options
) -> None:
    camera = {"componentVersion": "1.0.0", "runWith": {"posixUser": "camera"}}
    policies = {"failureHandlingPolicy": "DO_NOTHING"}
    cloud._create(
        targetArn=cloud.thing_arn("press-1"),
        deploymentName="by hand",
        components={"com.example.Camera": camera},
        deploymentPolicies=policies,
        tags={"owner": "works"},
    )
    run("--thing", "press-1", "--option", "digits.share=3", "--option", "digits.split=label")
    run("--thing", "press-1", "--option", "digits.share=4", "--option", "digits.split=")
    assert options("press-1") == {"digits": {"share": 4}}
    found = cloud.deployments[cloud.latest[cloud.thing_arn("press-1")]]
    assert found["components"]["com.example.Camera"] == camera
    assert found["deploymentName"] == "by hand"
    assert found["deploymentPolicies"]["failureHandlingPolicy"] == "DO_NOTHING"
    assert found["tags"] == {"owner": "works", "fedgrass:fleet": "plant"}


def test_removing_the_options_of_a_thing_leaves_an_empty_object_for_the_device(
    run: Run, options: Options
) -> None:
    run("--thing", "press-1", "--option", "digits.share=3")
    run("--thing", "press-1", "--remove")
    assert options("press-1") == {}


def test_a_table_changes_only_the_things_whose_options_change(
    cloud: MemoryGreengrass, run: Run, options: Options, tmp_path: Path
) -> None:
    file = table(tmp_path, "press-1,digits.share,3", "press-2,digits.share,4", "press-2,cracks.folder,/a b")
    run("--options-table", file)
    assert options("press-2") == {"digits": {"share": 4}, "cracks": {"folder": "/a b"}}
    before = len(cloud.deployments)
    table(tmp_path, "press-1,digits.share,3", "press-2,digits.share,5")
    run("--options-table", file)
    assert len(cloud.deployments) == before + 1
    assert options("press-2") == {"digits": {"share": 5}, "cracks": {"folder": "/a b"}}


def test_a_text_stays_a_text_where_the_task_takes_one(run: Run, options: Options, tmp_path: Path) -> None:
    run("--options-table", table(tmp_path, "press-1,cracks.path,007", "press-1,digits.enabled,false"))
    assert options("press-1") == {"cracks": {"path": "007"}, "digits": {"enabled": False}}


def test_a_thing_in_a_group_below_gets_its_options(
    cloud: MemoryGreengrass, run: Run, options: Options
) -> None:
    cloud.add_group("hall", {"press-9"})
    cloud.parents["hall"] = "presses"
    run("--thing", "press-9", "--option", "digits.share=9")
    assert options("press-9") == {"digits": {"share": 9}}


WRONG = [
    ("press-7,digits.share,3", "row 2: there is no thing 'press-7' in the account and region"),
    ("press-3,digits.share,3", "row 2: no thing group of press-3 has a deployment with the trainer"),
    ("press-1,digts.share,3", "row 2: press-1 has no task 'digts': did you mean 'digits'"),
    ("press-1,digits.shar,3", "row 2: task 'digits' has no option 'shar': did you mean 'share'"),
    (
        "press-1,digits.share,three",
        "row 2: task 'digits' cannot partition its data by these options: Expected",
    ),
    ("press-1,digits.share,3.5", "row 2: task 'digits' cannot partition its data by these options: Expected"),
    ("press-1,digits.share,-1", "row 2: task 'digits' cannot partition its data by these options: Expected"),
    ("press-1,digits.share,10", "row 2: press-1: com.fedgrass.Trainer would refuse its configuration: task"),
    ("press-1,share,3", "row 2: 'share' is not an option; it is spelled TASK.OPTION, such as digits.share"),
    ("press 1,digits.share,3", "row 2: 'press 1' is not the name of a thing"),
    (",digits.share,3", "row 2: '' is not the name of a thing"),
    ("press-1,digits.share", "row 2: it must have three cells: thing, option, value"),
    ("press-1,digits.share,3,4", "row 2: it must have three cells: thing, option, value"),
    ("press-1,digits.share,3\npress-1,digits.share,3", "row 3: press-1 already has digits.share in row 2"),
    (f"press-1,cracks.note,{'x' * 501}", "row 2: the value of cracks.note must have at most 500 characters"),
    ("press-1,cracks.note,a\x1bb", "row 2: the value of cracks.note must have"),
    ("press-1,digits.enabled,perhaps", "row 2: press-1: com.fedgrass.Trainer would refuse its configuration"),
]


@pytest.mark.parametrize(("rows", "reason"), WRONG)
def test_a_wrong_row_is_named_with_its_reason_and_nothing_changes(  # noqa: PLR0913, PLR0917
    rows: str,
    reason: str,
    cloud: MemoryGreengrass,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cloud.add_group("others", {"press-3"})
    before = dict(cloud.deployments)
    file = table(tmp_path, *rows.split("\n"))
    with pytest.raises(SystemExit) as ended:
        run("--options-table", file)
    assert f"--options-table {file} has a row that cannot be used; nothing was changed" in str(ended.value)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert reason in said[0]
    assert cloud.deployments == before


def test_all_wrong_rows_are_reported_at_once_up_to_a_number(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"press-1,digits.option{number},3" for number in range(25)]
    with pytest.raises(SystemExit, match="has 25 rows that cannot be used"):
        run("--options-table", table(tmp_path, "press-2,digits.share,2", *rows))
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 21
    assert said[0].startswith("  row 3: task 'digits' has no option 'option0'")
    assert said[-1] == "  ... and 5 more"


def test_many_unknown_things_are_not_all_looked_up(
    cloud: MemoryGreengrass, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="has 3,000 rows that cannot be used"):
        run("--options-table", table(tmp_path, *[f"lathe-{n},digits.share,1" for n in range(3000)]))
    assert cloud.calls["ListThingGroupsForThing"] == 20
    assert len(capsys.readouterr().err.splitlines()) == 21


FILES = [
    (b"", "is empty: it takes a first line thing,option,value"),
    (b"\n\n", "is empty: it takes a first line thing,option,value"),
    (b"thing,option,value\n", "has a first line only: it takes a line per option of a thing"),
    (
        b"press-1,digits.share,3\n",
        "begins with 'press-1,digits.share,3'; its first line must be thing,option",
    ),
    (b"thing,option,value,unit\n", "its first line must be thing,option,value"),
    ("thing,option,value\nprèss-1,digits.share,3".encode("latin-1"), "is not UTF-8 text: invalid"),
    ("thing,option,value\npress-1,digits.share,3".encode("utf-16"), "is not UTF-8 text"),
    ("thing,option,value".encode("utf-16-le"), "is not a CSV file in UTF-8: it has NUL characters"),
    (b'thing,option,value\npress-1,"digits.share,3\n', "is not valid CSV: unexpected end of data"),
]


@pytest.mark.parametrize(("content", "reason"), FILES)
def test_a_file_that_is_no_table_is_refused(content: bytes, reason: str, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "devices.csv"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as refused:
        run("--options-table", str(file))
    assert reason in str(refused.value)
    assert str(file) in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffthing,option,value\r\npress-1,digits.share,3\r\n\r\n",
        "thing;option;value\npress-1;digits.share;3\n",
        "Value\tThing\tOption\n3\t press-1 \tdigits.share\n",
        '"thing","option","value"\n"press-1","digits.share","3"\n',
        "thing,option,value,,\npress-1,digits.share,3,,\n,,,,\n",
    ],
)
def test_what_spreadsheets_write_is_read(content: str, run: Run, options: Options, tmp_path: Path) -> None:
    (tmp_path / "devices.csv").write_bytes(content.encode())
    run("--options-table", str(tmp_path / "devices.csv"))
    assert options("press-1") == {"digits": {"share": 3}}


def test_options_of_a_newer_version_can_be_deployed_unchecked(run: Run, options: Options) -> None:
    words = ("--thing", "press-1", "--option", "digits.newer=3")
    with pytest.raises(SystemExit):
        run(*words)
    run(*words, "--unchecked")
    assert options("press-1") == {"digits": {"newer": 3}}


def test_a_thing_with_the_name_of_its_group_is_refused_on_lite(
    cloud: MemoryGreengrass, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    cloud.add_group("lathe", {"lathe"}, trainer(tasks={"digits": {}}))
    run("--thing", "lathe", "--option", "digits.shares=3", "--dry-run")
    cloud.lite = {"lathe"}
    with pytest.raises(SystemExit):
        run("--thing", "lathe", "--option", "digits.shares=3")
    assert "its group is 'lathe' too, and Nucleus Lite would confuse" in capsys.readouterr().err


def test_a_group_whose_deployment_would_be_too_large_for_lite_is_refused(
    cloud: MemoryGreengrass, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    attributes = {f"a{number}": number for number in range(14)}
    tasks = {"digits": {"share": 0}, **{f"t{n}": {"module": "a:B", "x": 1, "y": 2} for n in range(24)}}
    cloud.add_group("lathes", {"lathe-1"}, trainer(tasks=tasks, attributes=attributes))
    words = ("--thing", "lathe-1", "--option", "digits.shares=3", "--dry-run")
    run(*words)
    cloud.lite = {"lathe-1"}
    with pytest.raises(SettingsError, match=r"the deployment to lathes would have about \d+ values"):
        run(*words)
    capsys.readouterr()


def test_policies_of_the_roll_out_to_things_do_not_change_the_groups(
    cloud: MemoryGreengrass, run: Run
) -> None:
    run(
        "--thing",
        "press-1",
        "--option",
        "digits.share=3",
        "--on-failure",
        "DO_NOTHING",
        "--timeout-minutes",
        "9",
    )
    group, thing = (
        cloud.deployments[cloud.latest[target]]
        for target in (cloud.group_arn("presses"), cloud.thing_arn("press-1"))
    )
    assert thing["deploymentPolicies"]["failureHandlingPolicy"] == "DO_NOTHING"
    assert thing["iotJobConfiguration"]["timeoutConfig"] == {"inProgressTimeoutInMinutes": 9}
    assert group["deploymentPolicies"]["failureHandlingPolicy"] == "ROLLBACK"
    assert "iotJobConfiguration" not in group


CONTRADICTIONS = [
    ((), "deploy devices needs --group GROUP, or --thing or --options-table"),
    (("--group", "presses", "--at-once", "9"), "--at-once goes with --thing or --options-table"),
    (("--group", "presses", "--remove", "--option", "digits.share=1"), "--remove removes the components"),
    (("--thing", "press-1"), "--thing needs --option TASK.OPTION=VALUE, or --remove"),
    (("--thing", "press-1", "--group", "presses", "--option", "digits.share=1"), "--group does not go with"),
    (("--thing", "press-1", "--component", "trainer", "--remove"), "--component does not go with --thing"),
    (("--thing", "press-1", "--remove", "--option", "digits.share=1"), "--remove removes all options"),
    (("--options-table", "x.csv", "--thing", "press-1"), "--options-table does not go with --thing"),
    (("--thing", "press-1", "--option", "digits.share"), "it takes TASK.OPTION=VALUE"),
]


@pytest.mark.parametrize(("words", "reason"), CONTRADICTIONS)
def test_options_that_contradict_each_other_are_refused(
    words: tuple[str, ...], reason: str, run: Run
) -> None:
    with pytest.raises(SettingsError, match=reason):
        run(*words)


def test_options_that_a_lite_device_could_not_store_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [f"press-1,cracks.note{number},{'x' * 400}" for number in range(3)]
    with pytest.raises(SystemExit):
        run("--options-table", table(tmp_path, *rows))
    assert "press-1: its options take 1,2" in capsys.readouterr().err


def test_options_that_were_not_written_by_fedgrass_are_refused_and_can_be_replaced(
    cloud: MemoryGreengrass, run: Run, options: Options
) -> None:
    cloud.versions[COMPONENT] = ["1.0.0"]
    by_hand = {"componentVersion": "1.0.0", "configurationUpdate": {"merge": '{"options": "[]"}'}}
    cloud._create(targetArn=cloud.thing_arn("press-1"), components={COMPONENT: by_hand})
    with pytest.raises(SettingsError, match="the options of press-1 in its deployment cannot be used"):
        run("--thing", "press-1", "--option", "digits.share=3")
    run("--thing", "press-1", "--remove")
    assert options("press-1") == {}


def test_the_options_of_a_group_are_merged_into_its_trainer(cloud: MemoryGreengrass, run: Run) -> None:
    run("--group", "presses", "--option", "digits.share=3", "--option", "cracks.folder=/mnt")
    merged = json.loads(cloud.deployed(cloud.group_arn("presses"))[TRAINER]["configurationUpdate"]["merge"])
    assert merged["tasks"] == {
        "digits": {"shares": 10, "share": 3},
        "cracks": {"module": "cracks:Cracks", "folder": "/mnt"},
    }


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("digts.share=3", "--option names the task 'digts': did you mean 'digits'"),
        ("digits.shar=3", "task 'digits' has no option 'shar': did you mean 'share'"),
        ("digits.share=10", "would refuse its configuration: task 'digits'"),
        ("digits=3", "it takes TASK.OPTION=VALUE"),
    ],
)
def test_a_wrong_option_of_a_group_is_refused(option: str, reason: str, run: Run) -> None:
    with pytest.raises(SettingsError, match=reason):
        run("--group", "presses", "--option", option)
