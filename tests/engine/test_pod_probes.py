"""Probes of real containers: by command, HTTP and TCP, and what their verdicts lead to."""

import time

import pytest

from tests.engine.pods import DEADLINE, PodWorld, Raw, condition, shell, sleeper, state, status_of
from tests.support.netns import eventually

SHARED = {"name": "shared", "emptyDir": {}}
AT_SHARED = [{"name": "shared", "mountPath": "/shared"}]
PATIENT = {"timeoutSeconds": 20}
"""A busy machine needs more than a second for a command in a container now and then."""
BEGUN = "until test -e /begun; do sleep 0.05; done"
"""A check waits for its own instance, whose files these are: it could come first."""
STAY = "touch /begun; trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"
SERVER = "mkdir -p /shared/www; trap 'exit 0' TERM; httpd -f -p 8080 -h /shared/www & wait"


def command(script: str, **fields: int) -> Raw:
    """A probe that runs a shell's *script* every second; it may take its time for that."""
    return {"exec": {"command": ["sh", "-c", script]}, "periodSeconds": 1, **PATIENT, **fields}


def with_files(*containers: Raw, **fields: object) -> Raw:
    """The spec of a pod whose containers share /shared, also over their restarts."""
    mounted = [{**one, "volumeMounts": AT_SHARED} for one in containers]
    return {"containers": mounted, "volumes": [SHARED], **fields}


def read(pods: PodWorld, name: str, file: str) -> list[str]:
    """The lines of a file in the container main, none when there is no such file."""
    return pods.exec(name, "main", "cat", file, check=False).splitlines()


def not_ready(pods: PodWorld, name: str) -> Raw:
    return pods.wait(name, lambda p: condition(p, "Ready") == "False", "is not Ready")


# --- readiness ---


def test_readiness_by_command_follows_the_container_both_ways(pods: PodWorld) -> None:
    """The container is never restarted for it; an event says what the command said."""
    probe = command("test -e /shared/ok || { echo nothing there; false; }", failureThreshold=1)
    pods.create("turns", with_files(sleeper(readinessProbe=probe)))
    pods.running("turns")
    event = pods.event("turns", "Unhealthy", "Readiness probe failed")
    assert "nothing there" in event["message"]
    assert condition(pods.get("turns"), "Ready") == "False"
    pods.exec("turns", "main", "touch", "/shared/ok")
    pod = pods.ready("turns")
    assert condition(pod, "ContainersReady") == "True"
    pods.exec("turns", "main", "rm", "/shared/ok")
    pod = not_ready(pods, "turns")
    assert status_of(pod)["restartCount"] == 0
    assert "running" in state(pod)


def test_readiness_counts_to_its_thresholds(pods: PodWorld) -> None:
    """So many successes in a row until Ready, so many failures in a row until not."""
    script = "test -e /shared/bad && { echo - >> /shared/n; exit 1; }; echo + >> /shared/n"
    probe = command(script, successThreshold=2, failureThreshold=3)
    pods.create("counts", with_files(sleeper(readinessProbe=probe)))
    pods.ready("counts")
    assert read(pods, "counts", "/shared/n").count("+") >= 2
    pods.exec("counts", "main", "touch", "/shared/bad")
    not_ready(pods, "counts")
    assert read(pods, "counts", "/shared/n").count("-") >= 3


def test_one_container_that_is_not_ready_makes_the_pod_not_ready(pods: PodWorld) -> None:
    """The other stays ready in its own status."""
    pods.create("pair", [sleeper("good"), sleeper("bad", readinessProbe=command("false"))])
    pod = pods.running("pair")
    pod = pods.wait("pair", lambda p: status_of(p, "good")["ready"], "good is ready")
    assert status_of(pod, "bad")["ready"] is False
    assert condition(pod, "Ready") == "False"
    why = next(c for c in pod["status"]["conditions"] if c["type"] == "Ready")
    assert why["reason"] == "ContainersNotReady"
    assert "bad" in why["message"]
    assert "good" not in why["message"]


def test_readiness_waits_for_its_initial_delay(pods: PodWorld) -> None:
    """Two seconds are not over at once."""
    began = time.monotonic()
    pods.create("late", [sleeper(readinessProbe=command("true", initialDelaySeconds=2))])
    pods.ready("late")
    assert time.monotonic() - began >= 2


def test_a_command_that_takes_too_long_has_failed(pods: PodWorld) -> None:
    """timeoutSeconds holds for commands as well."""
    pods.create("long", [sleeper(readinessProbe=command("sleep 600", timeoutSeconds=1))])
    assert "did not end within 1 s" in pods.event("long", "Unhealthy")["message"]
    assert condition(pods.get("long"), "Ready") == "False"


def test_a_pod_that_is_being_deleted_is_still_checked_for_readiness(pods: PodWorld) -> None:
    """It goes on serving for as long as it is ready; who routes to it wants to know."""
    script = "trap 'touch /shared/term' TERM; while :; do sleep 1000 & wait; done"
    probe = command("test ! -e /shared/bad", failureThreshold=1)
    pods.create("going", with_files(shell(script, readinessProbe=probe)))
    pods.ready("going")
    pods.obeys("going")
    pods.delete("going", grace=3600)
    eventually(lambda: pods.exec("going", "main", "ls", "/shared/term", check=False),
               "SIGTERM came", deadline=DEADLINE)  # fmt: skip
    assert condition(pods.get("going"), "Ready") == "True"
    pods.exec("going", "main", "touch", "/shared/bad")
    pod = not_ready(pods, "going")
    assert "running" in state(pod)


# --- HTTP and TCP ---


@pytest.mark.parametrize("port", [8080, "web"])
def test_readiness_by_http_is_the_status_of_the_answer(pods: PodWorld, port: object) -> None:
    """404 is a failure, 200 is none; the port has a number or a name."""
    probe = {"httpGet": {"path": "/healthy", "port": port}, "periodSeconds": 1,
             "failureThreshold": 1, **PATIENT}  # fmt: skip
    ports = [{"name": "web", "containerPort": 8080}]
    pods.create("http", with_files(shell(SERVER, readinessProbe=probe, ports=ports)))
    assert pods.event("http", "Unhealthy", "statuscode: 404")
    pods.exec("http", "main", "sh", "-c", "echo fine > /shared/www/healthy")
    pods.ready("http")
    pods.exec("http", "main", "rm", "/shared/www/healthy")
    pod = not_ready(pods, "http")
    assert status_of(pod)["restartCount"] == 0


def test_an_http_probe_sends_the_headers_that_it_is_given(pods: PodWorld) -> None:
    """Its own name too; the server answers by a script that writes down what it got."""
    script = (
        "mkdir -p /shared/www/cgi-bin; "
        "printf '#!/bin/sh\\nenv > /shared/half; mv /shared/half /shared/got\\n"
        'printf "\\\\r\\\\n"\\n\' '
        "> /shared/www/cgi-bin/ask; "
        f"chmod +x /shared/www/cgi-bin/ask; {SERVER}"
    )
    headers = [{"name": "X-Wanted", "value": "this"}, {"name": "Host", "value": "pod.example"}]
    get = {"path": "/cgi-bin/ask?a=b", "port": 8080, "httpHeaders": headers}
    probe = {"httpGet": get, "periodSeconds": 1, **PATIENT}
    pods.create("heads", with_files(shell(script, readinessProbe=probe)))
    pods.ready("heads")
    got = read(pods, "heads", "/shared/got")
    assert "HTTP_X_WANTED=this" in got
    assert "HTTP_HOST=pod.example" in got
    assert "QUERY_STRING=a=b" in got
    assert any(line.startswith("HTTP_USER_AGENT=kube-probe/") for line in got)


def test_readiness_by_tcp_is_whether_somebody_listens(pods: PodWorld) -> None:
    """Refused while nobody does; the event says so."""
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 1, **PATIENT}
    script = f"until test -e /shared/go; do sleep 0.05; done; {SERVER}"
    pods.create("tcp", with_files(shell(script, readinessProbe=probe)))
    assert "refused" in pods.event("tcp", "Unhealthy", "Readiness")["message"].lower()
    pods.exec("tcp", "main", "touch", "/shared/go")
    pods.ready("tcp")


@pytest.mark.parametrize("kind", ["exec", "httpGet", "tcpSocket"])
def test_liveness_that_fails_restarts_the_container(pods: PodWorld, kind: str) -> None:
    """By each way to check: well at first, then not, then well again in the next instance."""
    checks: dict[str, Raw] = {
        "exec": {"command": ["sh", "-c", "test -e /shared/www/$(cat /shared/starts | wc -l)"]},
        "httpGet": {"path": "/alive", "port": 8080},
        "tcpSocket": {"port": 8080},
    }
    probe = {kind: checks[kind], "periodSeconds": 1, "failureThreshold": 2, **PATIENT}
    script = (
        "echo x >> /shared/starts; mkdir -p /shared/www; "
        "touch /shared/www/alive /shared/www/$(cat /shared/starts | wc -l); "
        "trap 'exit 0' TERM; httpd -f -p 8080 -h /shared/www & echo $! > /shared/pid; "
        "while :; do sleep 1000 & wait $!; done"
    )
    spec = with_files(shell(script, livenessProbe=probe))
    pods.create("lives", spec)
    pods.ready("lives")
    eventually(lambda: read(pods, "lives", "/shared/pid"), "the server runs", deadline=DEADLINE)
    break_it = {
        "exec": "rm /shared/www/1",
        "httpGet": "rm /shared/www/alive",
        "tcpSocket": "kill $(cat /shared/pid)",
    }
    pods.exec("lives", "main", "sh", "-c", break_it[kind])
    pods.restarted("lives", 1)
    assert pods.event("lives", "Unhealthy", "Liveness probe failed")["type"] == "Warning"
    assert pods.event("lives", "Killing", "liveness")
    pod = pods.ready("lives")
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 0, "it was asked by SIGTERM"


# --- liveness and startup ---


def test_liveness_counts_failures_to_its_threshold(pods: PodWorld) -> None:
    """The first instance is checked exactly so many times, the next one is well."""
    script = (
        f"{BEGUN}; wc -l < /shared/starts >> /shared/checks; test $(wc -l < /shared/starts) -ge 2"
    )
    container = shell(f"echo x >> /shared/starts; {STAY}",
                      livenessProbe=command(script, failureThreshold=3))  # fmt: skip
    pods.create("thrice", with_files(container))
    pods.restarted("thrice", 1)
    eventually(lambda: "2" in read(pods, "thrice", "/shared/checks"), "the next one is checked",
               deadline=DEADLINE)  # fmt: skip
    assert read(pods, "thrice", "/shared/checks").count("1") == 3


def test_a_failed_probe_may_have_its_own_grace_period(pods: PodWorld) -> None:
    """The pod's is an hour, and the container ignores SIGTERM: the probe's ends it by SIGKILL."""
    script = (
        "echo x >> /shared/starts; touch /begun; trap ':' TERM; while :; do sleep 1000 & wait; done"
    )
    probe = command(f"{BEGUN}; test $(wc -l < /shared/starts) -ge 2", failureThreshold=1,
                    terminationGracePeriodSeconds=1)  # fmt: skip
    spec = with_files(shell(script, livenessProbe=probe), terminationGracePeriodSeconds=3600)
    pods.create("deaf", spec)
    pod = pods.restarted("deaf", 1)
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137


def test_liveness_does_not_restart_what_may_not_be_restarted(pods: PodWorld) -> None:
    """With restartPolicy Never the container is ended and the pod is Failed."""
    probe = command(f"{BEGUN}; false", failureThreshold=1)
    script = "trap 'exit 5' TERM; touch /begun; sleep 1000 & wait"
    spec = with_files(shell(script, livenessProbe=probe))
    pods.create("once", {**spec, "restartPolicy": "Never"})
    pod = pods.phase("once", "Failed")
    assert state(pod)["terminated"]["exitCode"] == 5
    assert status_of(pod)["restartCount"] == 0


def test_nothing_else_is_checked_before_the_startup_probe_succeeds(pods: PodWorld) -> None:
    """Not started and not ready until then; liveness and readiness begin after it."""
    container = sleeper(
        startupProbe=command("echo x >> /shared/startup; test -e /shared/up", failureThreshold=99),
        livenessProbe=command("echo x >> /shared/live"),
        readinessProbe=command("echo x >> /shared/ready"),
    )
    pods.create("starts", with_files(container))
    pods.running("starts")
    eventually(lambda: len(read(pods, "starts", "/shared/startup")) >= 2, "two startup checks",
               deadline=DEADLINE)  # fmt: skip
    one = status_of(pods.get("starts"))
    assert (one["started"], one["ready"]) == (False, False)
    assert not read(pods, "starts", "/shared/live")
    assert not read(pods, "starts", "/shared/ready")
    pods.exec("starts", "main", "touch", "/shared/up")
    pod = pods.ready("starts")
    assert status_of(pod)["started"] is True
    eventually(lambda: read(pods, "starts", "/shared/live"), "liveness is checked",
               deadline=DEADLINE)  # fmt: skip
    assert status_of(pods.get("starts"))["restartCount"] == 0


def test_a_startup_probe_that_fails_too_often_restarts_the_container(pods: PodWorld) -> None:
    """After its failureThreshold and not before."""
    script = (
        f"{BEGUN}; wc -l < /shared/starts >> /shared/checks; test $(wc -l < /shared/starts) -ge 2"
    )
    container = shell(f"echo x >> /shared/starts; {STAY}",
                      startupProbe=command(script, failureThreshold=2))  # fmt: skip
    pods.create("again", with_files(container))
    pods.restarted("again", 1)
    pods.ready("again")
    assert read(pods, "again", "/shared/checks").count("1") == 2
    assert pods.event("again", "Unhealthy", "Startup probe failed")
