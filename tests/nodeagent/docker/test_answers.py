"""Docker's answers become values; other forms are refused with a sentence."""

import pytest

from nodeagent.docker import answers


@pytest.mark.parametrize(
    ("least", "most", "spoken"),
    [
        ("1.12", "1.38", "1.38"),  # Docker 18.09
        ("1.12", "1.41", "1.41"),  # Docker 20.10
        ("1.24", "1.51", "1.41"),  # Docker 28
        ("1.44", "1.52", "1.44"),  # Docker 29
        ("", "1.41", "1.41"),
    ],
)
def test_a_version_is_spoken_that_the_daemon_has(least: str, most: str, spoken: str) -> None:
    assert answers.api_version(least, most, "1.41") == spoken


def test_a_version_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="API version"):
        answers.api_version("", "newest", "1.41")


def test_versions_are_compared_as_numbers() -> None:
    assert answers.at_least("1.100", "1.41")
    assert not answers.at_least("1.9", "1.41")


def test_info_of_an_old_daemon_has_defaults() -> None:
    info = answers.engine_info({"ServerVersion": "18.09.1", "CgroupDriver": "systemd"}, "1.39")
    assert (info.version, info.cgroup_driver, info.cgroup_version) == ("18.09.1", "systemd", "1")
    assert info.root == "/var/lib/docker"


def test_an_image_without_names_has_none() -> None:
    found = answers.image(
        {"Id": "sha256:1", "RepoTags": ["<none>:<none>"], "RepoDigests": None, "Created": 0}
    )
    assert (found.tags, found.digests, found.created) == ((), (), "1970-01-01T00:00:00Z")


def test_an_inspected_image_tells_its_configuration() -> None:
    config = {"User": "1000", "StopSignal": "SIGQUIT", "Volumes": {"/data": {}}}
    found = answers.image({"Id": "sha256:1", "Config": config, "Created": "2024-01-01T00:00:00Z"})
    assert (found.user, found.stop_signal, found.volumes) == ("1000", "SIGQUIT", ("/data",))


@pytest.mark.parametrize("broken", [{}, {"Id": 1, "State": "x", "Names": [3]}])
def test_a_line_of_another_form_is_a_value_error(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="unknown form"):
        answers.entry(broken)


def test_an_event_names_the_container_and_its_labels() -> None:
    found = answers.event({"Action": "die", "Actor": {"ID": "ab", "Attributes": {"x": "y"}}})
    assert (found.action, found.id, found.labels) == ("die", "ab", {"x": "y"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:10Z", "10.000000000"),
        ("1970-01-01T01:00:10.25+01:00", "10.250000000"),
        ("1970-01-01t00:00:10.123456789z", "10.123456789"),
    ],
)
def test_times_become_seconds_with_all_their_digits(text: str, seconds: str) -> None:
    assert answers.since(text) == seconds


@pytest.mark.parametrize("text", ["now", "2024-01-01", "2024-13-01T00:00:00Z", "10"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"RFC 3339|month"):
        answers.since(text)
