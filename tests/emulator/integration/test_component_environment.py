"""The environment of a component's process, and the paths of its core's files."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from greengrass_emulator.core.core_folders import PlainRoot, folder_name
from greengrass_emulator.core.profiles import CLASSIC, LITE, Profile
from tests.emulator.core_device import Device, on_device
from tests.emulator.local_core import COMPONENT, recipe

BOTH = pytest.mark.parametrize("profile", [CLASSIC, LITE], ids=["classic", "lite"])
# Set by systemd, the nucleus and the shell itself.
EXPECTED = {
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL"),
    *("SVCUID", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT"),
    *("AWS_IOT_THING_NAME", "AWS_REGION", "AWS_DEFAULT_REGION", "GGC_VERSION", "GG_ROOT_CA_PATH", "FLEET"),
    *("PWD", "OLDPWD", "SHLVL", "_"),
}
FOREIGN = {
    "AWS_ACCESS_KEY_ID": "mine",
    "AWS_CONFIG_FILE": "mine",
    "LC_ALL": "C",
    "LANG": "de_DE.ISO-8859-1",
    "PYTHONPATH": "/mine",
    "PYTHONUTF8": "0",
    "PIP_INDEX_URL": "http://mine",
    "VIRTUAL_ENV": "/mine",
    "XDG_CACHE_HOME": "/mine",
    "LD_PRELOAD_OF_MINE": "mine",
}


def variables(device: Device) -> dict[str, str]:
    return dict(line.split("=", 1) for line in device.log().splitlines())


def run_to_its_end(folder: Path, content: dict[str, Any], profile: Profile, **changes: Any) -> Device:
    async def scenario(device: Device) -> None:
        await device.deploy(content)
        await device.reach("FINISHED")

    return on_device(folder, scenario, profile=profile, **changes)


@BOTH
def test_nothing_of_the_developer_s_shell_reaches_a_component(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)

    seen = variables(run_to_its_end(tmp_path, recipe("env"), profile))

    assert set(seen) <= EXPECTED
    assert seen["HOME"] == str(tmp_path / "core" / "home")
    assert seen["USER"] == profile.component_user
    assert seen["PATH"] == os.environ["PATH"]


@BOTH
def test_a_component_reads_and_writes_utf_8_whatever_the_developer_s_locale_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile
) -> None:
    for name, value in {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}.items():
        monkeypatch.setenv(name, value)
    program = "import sys; print(sys.stdout.encoding.lower(), open(sys.argv[0]).encoding.lower())"
    (tmp_path / "program.py").write_text(program)

    device = run_to_its_end(tmp_path, recipe(f"{sys.executable} {tmp_path}/program.py"), profile)

    assert device.log() == "utf-8 utf-8\n"


@BOTH
@pytest.mark.parametrize(("proxy", "no_proxy"), [("HTTPS_PROXY", "NO_PROXY"), ("https_proxy", "no_proxy")])
def test_a_proxy_is_set_in_both_spellings_and_not_for_the_core_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: Profile, proxy: str, no_proxy: str
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv(proxy, "http://127.0.0.1:9")
    monkeypatch.setenv(no_proxy, "intranet")

    seen = variables(run_to_its_end(tmp_path, recipe("env"), profile))

    assert seen["https_proxy"] == seen["HTTPS_PROXY"] == "http://127.0.0.1:9"
    assert seen["no_proxy"] == seen["NO_PROXY"]
    assert {"intranet", "127.0.0.1", "localhost"} <= set(seen["no_proxy"].split(","))
    assert "http_proxy" not in seen


@BOTH
def test_keys_in_the_component_user_s_home_come_before_the_token_exchange_service(
    tmp_path: Path, profile: Profile
) -> None:
    """As on every nucleus: a component that does not want them has to exclude them itself."""
    home = tmp_path / "core" / "home" / ".aws"
    home.mkdir(parents=True)
    (home / "credentials").write_text("[default]\naws_access_key_id = STALE\naws_secret_access_key = x\n")
    program = "import boto3; print(boto3.Session().get_credentials().access_key)"
    needs = {"aws.greengrass.TokenExchangeService": {"VersionRequirement": "^2.0.0"}}
    content = recipe(f"{sys.executable} -c '{program}'", ComponentDependencies=needs)

    assert run_to_its_end(tmp_path, content, profile).log() == "STALE\n"


ODD_NAMES = ["line:2", "two words", "100%s", "${HOME}", "it's", 'a"b', "a;b", "ä"]


@BOTH
@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_core_in_a_folder_of_any_name_runs_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path, profile: Profile, name: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    folder = tmp_path / name
    folder.mkdir()
    (tmp_path / "found.py").write_text("print('found')")
    run = (
        f"cp {tmp_path}/found.py {{work:path}}/ && python3 -m found"
        " && python3 -m venv --without-pip {work:path}/venv && {work:path}/venv/bin/python -m found"
        ' && test -S "$AWS_GG_NUCLEUS_DOMAIN_SOCKET_FILEPATH_FOR_COMPONENT" && echo "$PYTHONPATH"'
    )
    content = recipe(run, lifecycle={"Setenv": {"PYTHONPATH": "{work:path}"}})

    device = run_to_its_end(folder, content, profile)

    first, second, path = device.log().splitlines()
    assert (first, second) == ("found", "found")
    assert path.endswith(f"/work/{COMPONENT}")
    assert str(folder) not in path
    assert not list(runtime.rglob("core-*"))  # the link is removed with the core


def test_a_path_that_is_plain_stays_as_it_is(tmp_path: Path) -> None:
    root = PlainRoot(tmp_path)
    root.make()
    assert root.path == tmp_path
    root.remove()
    assert tmp_path.is_dir()


def test_a_core_has_the_same_plain_path_at_each_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: Path
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    odd = tmp_path / "two words"
    odd.mkdir()
    paths = []
    for _ in range(2):
        root = PlainRoot(odd)
        root.make()
        paths.append(root.path)
        assert root.path.resolve() == odd
        root.remove()
    assert paths[0] == paths[1]


def test_two_things_never_share_a_folder() -> None:
    names = ["line:2", "line-2", "line_2", "line2", "::", ":"]
    folders = [folder_name(name) for name in names]
    assert len(set(folders)) == len(names)
    assert not {".", "..", ""} & set(folders)
    assert all(":" not in folder for folder in folders)
