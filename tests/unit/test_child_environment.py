from fedgrass.local.child_environment import local_variables


def test_loopback_is_never_proxied_in_either_spelling() -> None:
    found = local_variables({"HTTP_PROXY": "http://proxy.example:3128"})
    assert found["NO_PROXY"] == found["no_proxy"] == "127.0.0.1,localhost,::1"


def test_hosts_that_go_without_a_proxy_already_are_kept_once() -> None:
    found = local_variables(
        {"NO_PROXY": "intranet.example, localhost", "no_proxy": "10.0.0.0/8,,intranet.example"}
    )
    assert found["no_proxy"] == "10.0.0.0/8,intranet.example,localhost,127.0.0.1,::1"
    assert found["NO_PROXY"] == found["no_proxy"]


def test_text_is_utf_8_whatever_the_locale() -> None:
    assert local_variables({"LC_ALL": "C", "PYTHONUTF8": "0"})["PYTHONUTF8"] == "1"
