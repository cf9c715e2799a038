"""Settings: four layers, Go's flags, and errors that name setting, source and remedy."""

import re
from pathlib import Path
from typing import Any

import pytest

from hostkit.config import (
    ConfigError,
    Option,
    Settings,
    boolean,
    choice,
    comma_list,
    duration,
    integer,
    load,
    nearest,
    parse_flags,
    show,
    text,
    usage,
)

OPTIONS = (
    Option("config", text, "/nowhere/settings.toml", "file with settings"),
    Option("etcd-prefix", text, "/coreos.com/network", "where the keys are", "KEY"),
    Option("etcd-password", text, "", "password", secret=True),
    Option("pin", integer(0, 9), 0, "secret number", secret=True),
    Option("ip-masq", boolean, False, "masquerade"),
    Option("forward", boolean, True, "forward"),
    Option("port", integer(0, 65535), 0, "port"),
    Option("iface", comma_list, (), "interface", repeat=True),
    Option("endpoints", comma_list, ("a", "b"), "endpoints"),
    Option("period", duration, 5.0, "time"),
    Option("secret-switch", boolean, False, "not shown", hidden=True),
)


def read(*argv: str, environ: dict[str, str] | None = None) -> Settings:
    """The settings from *argv* and *environ*, with a weak and a strong prefix."""
    return load(OPTIONS, argv, environ or {}, env_prefixes=("WEAK_", "STRONG_"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


def test_without_anything_every_value_is_its_default() -> None:
    settings = read()
    assert settings["etcd-prefix"] == "/coreos.com/network"
    assert settings["endpoints"] == ("a", "b")
    assert set(settings.origins.values()) == {"default"}


def test_each_layer_overrides_the_weaker_ones_and_is_named_as_the_origin(file: Path) -> None:
    file.write_text('etcd-prefix = "file"\nport = 1\nip-masq = true\nperiod = "1m"\n')
    environ = {
        "WEAK_CONFIG": str(file), "WEAK_PORT": "2", "STRONG_PORT": "3",
        "WEAK_IP_MASQ": "false", "WEAK_PERIOD": "2m",
    }  # fmt: skip
    settings = read("--port=4", environ=environ)
    assert {name: (settings[name], settings.origins[name]) for name in settings.values} == {
        "config": (str(file), "environment WEAK_CONFIG"),
        "etcd-prefix": ("file", str(file)),
        "etcd-password": ("", "default"),
        "pin": (0, "default"),
        "ip-masq": (False, "environment WEAK_IP_MASQ"),
        "forward": (True, "default"),
        "port": (4, "flag --port"),
        "iface": ((), "default"),
        "endpoints": (("a", "b"), "default"),
        "period": (120.0, "environment WEAK_PERIOD"),
        "secret-switch": (False, "default"),
    }
    assert read(environ=environ)["port"] == 3


@pytest.mark.parametrize(
    ("argv", "name", "value"),
    [
        (["-port", "5"], "port", 5),
        (["--port", "5"], "port", 5),
        (["-port=5"], "port", 5),
        (["--port=5"], "port", 5),
        (["--port=1", "--port=2"], "port", 2),
        (["--ip-masq"], "ip-masq", True),
        (["-ip-masq"], "ip-masq", True),
        (["--ip-masq=false"], "ip-masq", False),
        (["-ip-masq=T"], "ip-masq", True),
        (["--forward=0"], "forward", False),
        (["--etcd-prefix="], "etcd-prefix", ""),
        (["--etcd-prefix", "-x"], "etcd-prefix", "-x"),
        (["--etcd-prefix=a=b"], "etcd-prefix", "a=b"),
        (["--iface", "eth0", "--iface=eth1,eth2"], "iface", ("eth0", "eth1", "eth2")),
        (["--endpoints=x, y,,"], "endpoints", ("x", "y")),
        (["--endpoints=x", "--endpoints=y"], "endpoints", ("y",)),
        (["--period=1h30m"], "period", 5400.0),
    ],
)
def test_flags_are_taken_in_every_form_that_go_takes(
    argv: list[str], name: str, value: object
) -> None:
    assert read(*argv)[name] == value


def test_a_boolean_flag_takes_no_separate_value() -> None:
    settings = read("--ip-masq", "false")
    assert settings["ip-masq"] is True
    assert settings.arguments == ("false",)


def test_words_between_flags_and_behind_a_double_dash_are_arguments() -> None:
    flags, rest = parse_flags(OPTIONS, ["run", "--port=1", "-", "--", "--port", "x"])
    assert flags == {"port": ["1"]}
    assert rest == ["run", "-", "--port", "x"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--etcd-prefx=x", ["unknown flag --etcd-prefx", "did you mean --etcd-prefix?"]),
        ("-etcd-prefx", ["unknown flag -etcd-prefx", "did you mean -etcd-prefix?"]),
        ("--ip-mask", ["did you mean --ip-masq?"]),
        ("--prt", ["did you mean --port?"]),
        ("--=x", ["unknown flag --"]),
    ],
)
def test_an_unknown_flag_is_refused_with_the_nearest_one(flag: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(flag)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_hidden_or_far_off_flag_is_not_suggested() -> None:
    for flag in ("--secret-switc", "--zzzzzzzz"):
        with pytest.raises(ConfigError) as caught:
            read(flag)
        assert "did you mean" not in str(caught.value)
    assert nearest("zzz", ["abc"]) == ""


def test_a_flag_without_its_value_is_refused_with_its_help() -> None:
    with pytest.raises(ConfigError, match="flag --etcd-prefix needs a value: where the keys are"):
        read("--etcd-prefix")


@pytest.mark.parametrize(
    ("argv", "environ", "words"),
    [
        (["--port=70000"], {}, ["flag --port", "'70000'", "whole number from 0 to 65535"]),
        (["--port=x"], {}, ["flag --port", "'x'", "whole number"]),
        (["--port="], {}, ["flag --port", "''", "whole number"]),
        ([], {"WEAK_PORT": "-1"}, ["environment WEAK_PORT", "'-1'"]),
        (["--port=1"], {"STRONG_IP_MASQ": "yes"}, ["environment STRONG_IP_MASQ", "use true or"]),
        (["--ip-masq="], {}, ["flag --ip-masq", "use true or false"]),
        (["--period=soon"], {}, ["flag --period", "'soon'", "use a time such as"]),
    ],
)
def test_a_bad_value_is_refused_with_its_source_the_value_and_the_rule(
    argv: list[str], environ: dict[str, str], words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(*argv, environ=environ)
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_secret_is_hidden_in_the_table_and_in_errors() -> None:
    settings = read(environ={"WEAK_ETCD_PASSWORD": "s3cret"})
    assert settings["etcd-password"] == "s3cret"
    rows = {name: (value, origin) for name, value, origin in settings.table()}
    assert rows["etcd-password"] == ("(hidden)", "environment WEAK_ETCD_PASSWORD")
    assert "s3cret" not in str(rows)
    with pytest.raises(ConfigError) as caught:
        read("--pin=12345")
    assert "12345" not in str(caught.value)
    assert "(hidden)" in str(caught.value)


@pytest.mark.parametrize("given", ['["s3cret", 1]', '{ x = "s3cret" }', "1979-05-27"])
def test_a_secret_of_a_wrong_kind_in_the_file_is_not_repeated(file: Path, given: str) -> None:
    file.write_text(f"etcd-password = {given}\n")
    with pytest.raises(ConfigError) as caught:
        read(f"--config={file}")
    assert f"{file}: etcd-password is (hidden)" in str(caught.value)
    assert not {"s3cret", "1979"} & set(re.findall(r"\w+", str(caught.value)))


def test_an_empty_secret_is_shown_to_be_empty_and_hidden_options_are_left_out() -> None:
    rows = {name: value for name, value, _ in read().table()}
    assert rows["etcd-password"] == ""
    assert "secret-switch" not in rows
    assert (rows["endpoints"], rows["forward"], rows["period"]) == ("a,b", "true", "5s")


def test_hidden_options_are_read_from_the_environment_but_not_from_the_file(file: Path) -> None:
    """Another program's variable has to be understood in order to be refused."""
    assert read(environ={"WEAK_SECRET_SWITCH": "true"})["secret-switch"] is True
    file.write_text("secret-switch = true\n")
    with pytest.raises(ConfigError, match="unknown setting secret-switch"):
        read(f"--config={file}")


@pytest.mark.parametrize(
    ("line", "name", "value"),
    [
        ('etcd-prefix = "x"', "etcd-prefix", "x"),
        ('etcd_prefix = "x"', "etcd-prefix", "x"),
        ("port = 8080", "port", 8080),
        ('port = "8080"', "port", 8080),
        ("ip-masq = true", "ip-masq", True),
        ("forward = false", "forward", False),
        ('iface = ["eth0", "eth1"]', "iface", ("eth0", "eth1")),
        ('iface = "eth0,eth1"', "iface", ("eth0", "eth1")),
        ('endpoints = ["x", "y"]', "endpoints", ("x", "y")),
        ("period = 2.5", "period", 2.5),
    ],
)
def test_the_file_takes_each_setting_in_its_natural_form(
    file: Path, line: str, name: str, value: object
) -> None:
    file.write_text(line + "\n")
    settings = read("--config", str(file))
    assert (settings[name], settings.origins[name]) == (value, str(file))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"port = \n", ["not valid TOML"]),
        (b"\xff", ["not valid TOML"]),
        (b"prt = 1\n", ["unknown setting prt", "did you mean port?"]),
        (b"port = true\n", ["port is 'true'", "whole number"]),
        (b"port = 1.5\n", ["port is '1.5'", "whole number"]),
        (b"[port]\nx = 1\n", ["port is {'x': 1}", "use text, a number, true/false or a list"]),
        (b"iface = [1, 2]\n", ["iface is [1, 2]", "a list"]),
        (b"ip-masq = 2\n", ["ip-masq is '2'", "use true or false"]),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(
    file: Path, content: bytes, words: list[str]
) -> None:
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read(f"--config={file}")
    assert all(word in str(caught.value) for word in (str(file), *words)), caught.value


def test_a_missing_file_is_refused_only_if_it_was_asked_for(tmp_path: Path) -> None:
    assert read()["port"] == 0
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        read(f"--config={tmp_path / 'none.toml'}")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(environ={"WEAK_CONFIG": str(tmp_path)})


@pytest.mark.parametrize(
    ("given", "seconds"),
    [
        ("5", 5.0), ("0", 0.0), ("2.5", 2.5), ("5s", 5.0), ("1h30m", 5400.0), ("1.5h", 5400.0),
        ("250ms", 0.25), ("1m30s", 90.0), (" 3s ", 3.0), ("10us", 1e-5), ("10µs", 1e-5),
        ("7ns", 7e-9),
    ],
)  # fmt: skip
def test_durations_are_read_in_gos_notation(given: str, seconds: float) -> None:
    assert duration(given) == pytest.approx(seconds)


@pytest.mark.parametrize("given", ["", " ", "-5", "-5s", "5x", "s", "1.2.3s", "nan", "inf", "1h 2"])
def test_what_is_no_duration_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="use a time"):
        duration(given)


@pytest.mark.parametrize("word", ["1", "t", "T", "true", "TRUE", "True"])
def test_truth_is_what_go_takes_for_it(word: str) -> None:
    assert boolean(word) is True


@pytest.mark.parametrize("word", ["0", "f", "F", "false", "FALSE", "False"])
def test_falsehood_is_what_go_takes_for_it(word: str) -> None:
    assert boolean(word) is False


@pytest.mark.parametrize("word", ["yes", "on", "", "tRUE", " true"])
def test_other_words_are_neither(word: str) -> None:
    with pytest.raises(ValueError, match="use true or false"):
        boolean(word)


def test_a_choice_is_one_of_its_words() -> None:
    parse = choice("auto", "nft")
    assert parse("nft") == "nft"
    with pytest.raises(ValueError, match="use auto or nft"):
        parse("ebtables")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(True, "true"), (False, "false"), (("a", "b"), "a,b"), (1.5, "1.5s"), (7, "7"), ("x", "x")],
)
def test_values_are_shown_as_an_operator_would_write_them(value: Any, shown: str) -> None:
    assert show(value) == shown


def test_the_usage_names_flags_defaults_and_help_but_not_what_is_hidden() -> None:
    lines = usage(OPTIONS).splitlines()
    assert "  --etcd-prefix KEY" in lines
    assert "        where the keys are (default /coreos.com/network)" in lines
    assert "  --ip-masq" in lines
    assert "        masquerade" in lines
    assert "        forward (default true)" in lines
    assert not any("secret-switch" in line for line in lines)


def test_an_empty_name_of_the_file_stands_for_no_file(tmp_path: Path) -> None:
    option = Option("config", text, str(tmp_path / "absent.toml"), "file")
    settings = load([option], ["--config="], {}, env_prefixes=("X_",))
    assert settings["config"] == ""


@pytest.fixture
def conf_d(file: Path) -> Path:
    folder = file.parent / "conf.d"
    folder.mkdir()
    return folder


def test_conf_d_is_stronger_than_defaults_and_weaker_than_all_else(
    file: Path, conf_d: Path
) -> None:
    fragment = conf_d / "50-cluster.toml"
    fragment.write_text('etcd-prefix = "d"\nport = 1\nip-masq = true\nperiod = "1m"\n')
    file.write_text("port = 2\n")
    settings = read("--period=2m", environ={"WEAK_CONFIG": str(file), "WEAK_IP_MASQ": "false"})
    names = ("etcd-prefix", "port", "ip-masq", "period", "pin")
    assert {name: (settings[name], settings.origins[name]) for name in names} == {
        "etcd-prefix": ("d", str(fragment)),
        "port": (2, str(file)),
        "ip-masq": (False, "environment WEAK_IP_MASQ"),
        "period": (120.0, "flag --period"),
        "pin": (0, "default"),
    }
    assert ("etcd-prefix", "d", str(fragment)) in settings.table()


def test_of_conf_d_the_later_name_wins_whatever_the_order_of_the_folder(
    file: Path, conf_d: Path
) -> None:
    file.write_text("")
    for name, port in (("50-b.toml", 3), ("9.toml", 4), ("10-a.toml", 1)):
        (conf_d / name).write_text(f"port = {port}\n")
    assert read(f"--config={file}").origins["port"] == str(conf_d / "9.toml")


@pytest.mark.parametrize(
    "name", ["50-x.toml~", "50-x.toml.dpkg-old", "50-x.conf", ".50-x.toml", ".toml", "toml"]
)
def test_other_files_in_conf_d_are_not_read(file: Path, conf_d: Path, name: str) -> None:
    file.write_text("")
    (conf_d / name).write_text("not TOML at all")
    assert read(f"--config={file}").origins["port"] == "default"


def test_a_folder_in_conf_d_and_a_mask_by_dev_null_say_nothing(file: Path, conf_d: Path) -> None:
    file.write_text("")
    (conf_d / "10-folder.toml").mkdir()
    (conf_d / "20-masked.toml").symlink_to("/dev/null")
    assert read(f"--config={file}").origins["port"] == "default"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("port = 'x'\n", ["port is 'x'", "0 to 65535"]),
        ("prt = 1\n", ["unknown setting prt", "did you mean port"]),
        ("port =\n", ["not valid TOML"]),
    ],
)
def test_a_bad_file_in_conf_d_is_refused_by_its_name_even_if_all_in_it_is_overridden(
    file: Path, conf_d: Path, content: str, words: list[str]
) -> None:
    file.write_text("port = 1\n")
    (conf_d / "50-cluster.toml").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read(f"--config={file}", "--port=2")
    for word in [str(conf_d / "50-cluster.toml"), *words]:
        assert word in str(caught.value)


def test_a_link_into_nowhere_in_conf_d_is_refused(file: Path, conf_d: Path) -> None:
    file.write_text("")
    (conf_d / "50-gone.toml").symlink_to("/nowhere/at/all")
    with pytest.raises(ConfigError, match=r"50-gone\.toml: cannot be read: No such file"):
        read(f"--config={file}")


def test_conf_d_is_read_where_the_default_file_is_missing(file: Path, conf_d: Path) -> None:
    (conf_d / "50-cluster.toml").write_text("port = 7\n")
    options = (Option("config", text, str(file), "file"), *OPTIONS[1:])
    assert load(options, [], {}, env_prefixes=())["port"] == 7


def test_with_an_empty_name_of_the_file_conf_d_is_not_read_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "50-cluster.toml").write_text("port = 7\n")
    assert read("--config=")["port"] == 0


def test_a_conf_d_that_is_no_folder_counts_as_missing(file: Path) -> None:
    file.write_text("port = 7\n")
    (file.parent / "conf.d").write_text("port = 8\n")
    assert read(f"--config={file}")["port"] == 7
