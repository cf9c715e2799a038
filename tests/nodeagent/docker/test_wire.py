"""The SDK's requests the short way: the same bytes, the same answers, the same errors."""

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, NotFound
from requests.exceptions import RequestException

from nodeagent.docker.engine import connect
from nodeagent.docker.wire import Wire
from tests.fakes.dockerd import Answer, Dockerd, Request

C = "ab" * 32


@pytest.fixture(params=["short", "long"])
def client(dockerd: Dockerd, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The SDK's client, with requests in between and without."""
    made = connect(dockerd.url, "1.41", 5.0)
    assert isinstance(made.request.__self__, Wire)
    if request.param == "long":
        del made.request
    yield made
    made.close()


def last(dockerd: Dockerd) -> Request:
    return dockerd.requests[-1]


def test_a_question_is_asked_as_by_requests(dockerd: Dockerd, client: Any) -> None:
    dockerd.answers["GET /containers/json"] = Answer(body=[{"Id": C}])
    labels = ["a=1", "b=ä &?"]
    assert client.containers(all=True, filters={"label": labels}) == [{"Id": C}]
    query = last(dockerd).query
    assert query.keys() == {"limit", "all", "size", "trunc_cmd", "filters"}
    assert json.loads(query["filters"]) == {"label": labels}
    assert (query["limit"], query["all"]) == ("-1", "1")
    assert last(dockerd).version == "1.41"


def test_a_body_and_its_type_arrive(dockerd: Dockerd, client: Any) -> None:
    dockerd.answers["POST /containers/create"] = Answer(201, {"Id": C, "Warnings": []})
    body = {"Image": "b", "Env": ["A=ä"]}
    assert client.create_container_from_config(body, "web")["Id"] == C
    assert json.loads(last(dockerd).body) == body
    assert last(dockerd).query == {"name": "web"}
    headers = {name.lower(): text for name, text in last(dockerd).headers.items()}
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"


def test_what_is_none_is_left_out_of_the_query(dockerd: Dockerd, client: Any) -> None:
    url = client._url("/x")
    dockerd.answers["GET /x"] = Answer(body=b"[1, 2]")
    answer = client.get(url, params={"a": None, "b": [1, 2], "c": True}, timeout=5.0)
    assert answer.json() == [1, 2]
    assert last(dockerd).query == {"b": "1", "c": "True"}
    assert client.get(url, timeout=5.0).text == "[1, 2]"
    assert last(dockerd).query == {}


def test_a_refusal_is_told_with_dockers_own_words(dockerd: Dockerd, client: Any) -> None:
    dockerd.answers[f"GET /containers/{C}/json"] = Answer(404, {"message": "No such container"})
    with pytest.raises(NotFound, match="No such container"):
        client.inspect_container(C)
    dockerd.answers[f"POST /containers/{C}/start"] = Answer(500, b"no JSON")
    with pytest.raises(APIError, match="no JSON"):
        client.start(C)


def test_an_answer_without_a_body_is_one(dockerd: Dockerd, client: Any) -> None:
    dockerd.answers[f"POST /containers/{C}/start"] = Answer(204)
    client.start(C)
    assert last(dockerd).method == "POST"


def test_an_answer_in_pieces_is_put_together(dockerd: Dockerd, client: Any) -> None:
    pieces = iter([b'{"Id": ', b'"x"}'])
    dockerd.answers[f"GET /containers/{C}/json"] = Answer(body=pieces)
    assert client.inspect_container(C) == {"Id": "x"}


def test_a_daemon_that_speaks_no_http_is_an_error_of_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with Babbler(path):
        client = connect(f"unix://{path}", "1.41", 5.0)
        with pytest.raises(RequestException, match="BadStatusLine"):
            client.inspect_container(C)
        client.close()


def test_streams_go_the_long_way(dockerd: Dockerd) -> None:
    client = connect(dockerd.url, "1.41", 5.0)
    dockerd.answers["GET /events"] = Answer(body=iter([b'{"a": 1}\n']))
    assert list(client.events(decode=True)) == [{"a": 1}]
    client.close()


class Babbler:
    """Something that listens at *path* and is no Docker."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self._thread = threading.Thread(target=self._babble)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._socket.close()

    def _babble(self) -> None:
        peer, _ = self._socket.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(b"220 mail.example.org ESMTP\r\n\r\n")
