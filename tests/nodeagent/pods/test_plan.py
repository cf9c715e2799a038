"""What a pod needs next, decided from values."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.container import Container
from nodeagent.pods.model import Meta, Pod, PodSpec
from nodeagent.pods.observed import SANDBOX, PodSeen, Seen
from nodeagent.pods.plan import Kill, Known, Mode, Plan, Start, Verdict, plan

NOW = 100.0


def container(name: str, image: str = "app:1") -> Container:
    return Container(name=name, image=image)


def pod(*names: str, inits: tuple[str, ...] = (), policy: str = "Always") -> Pod:
    spec = PodSpec(
        containers=tuple(container(name) for name in names or ("app",)),
        init_containers=tuple(container(name) for name in inits),
        restart_policy=policy,
    )
    return Pod(Meta(name="web", namespace="default", uid="u1"), spec)


def one(name: str = "app", state: str = "running", attempt: int = 0, **more: object) -> Seen:
    made = Seen(
        id=f"{name}-{attempt}", uid="u1", pod="web", namespace="default", name=name,
        attempt=attempt, state=state, hash="" if name == SANDBOX else container(name).hash,  # type: ignore[arg-type]
        sandbox_id="" if name == SANDBOX else "POD-0",
    )  # fmt: skip
    return replace(made, **more)  # type: ignore[arg-type]


SAND = one(SANDBOX, address="10.1.2.3")


def seen(*found: Seen) -> PodSeen:
    return PodSeen.of("u1", found)


def kills(made: Plan) -> list[str]:
    return [kill.seen.id for kill in made.kills]


def test_a_new_pod_gets_its_sandbox_first() -> None:
    assert plan(pod(), seen(), Known(), NOW) == Plan(starts=(Start(SANDBOX, 0),))


def test_all_containers_start_at_once_in_a_running_sandbox() -> None:
    made = plan(pod("a", "b"), seen(SAND), Known(), NOW)
    assert made.starts == (Start("a", 0), Start("b", 0))


def test_a_pod_as_it_should_be_needs_nothing() -> None:
    assert plan(pod("a", "b"), seen(SAND, one("a"), one("b")), Known(), NOW) == Plan()


def test_init_containers_run_one_after_the_other_and_before_all_others() -> None:
    wanted = pod("app", inits=("i1", "i2"))
    assert plan(wanted, seen(SAND), Known(), NOW).starts == (Start("i1", 0),)
    assert plan(wanted, seen(SAND, one("i1")), Known(), NOW) == Plan()
    first = one("i1", "exited")
    assert plan(wanted, seen(SAND, first), Known(), NOW).starts == (Start("i2", 0),)
    done = seen(SAND, first, one("i2", "exited"))
    assert plan(wanted, done, Known(), NOW).starts == (Start("app", 0),)


def test_init_containers_that_were_removed_do_not_run_again_beside_a_started_pod() -> None:
    wanted = pod("app", inits=("i1",))
    assert plan(wanted, seen(SAND, one("app")), Known(ran={"i1": 0}), NOW) == Plan()


def test_a_new_sandbox_has_the_init_containers_run_again() -> None:
    wanted = pod("app", inits=("i1",))
    sandbox = one(SANDBOX, attempt=1)
    found = seen(sandbox, one("i1", "exited"), one("app", "exited", exit_code=137))
    assert plan(wanted, found, Known(), NOW).starts == (Start("i1", 1),)


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("Always", 0, True), ("Always", 1, True),
        ("OnFailure", 0, False), ("OnFailure", 1, True),
        ("Never", 0, False), ("Never", 1, False),
    ],
)  # fmt: skip
def test_the_restart_policy_decides_who_runs_again(policy: str, code: int, again: bool) -> None:
    found = seen(SAND, one("a", "exited", exit_code=code), one("b"))
    made = plan(pod("a", "b", policy=policy), found, Known(), NOW)
    assert made.starts == ((Start("a", 1),) if again else ())
    assert not made.finished


@pytest.mark.parametrize("policy", ["OnFailure", "Never"])
def test_a_pod_that_has_ended_gives_up_its_sandbox_and_keeps_its_containers(policy: str) -> None:
    made = plan(pod(policy=policy), seen(SAND, one(state="exited")), Known(), NOW)
    assert made == Plan(removes=("POD-0",), finished=True)
    after = plan(pod(policy=policy), seen(one(state="exited")), Known(), NOW)
    assert after == Plan(finished=True)


def test_an_init_container_that_fails_ends_a_pod_that_never_restarts() -> None:
    wanted = pod("app", inits=("i1",), policy="Never")
    made = plan(wanted, seen(SAND, one("i1", "exited", exit_code=3)), Known(), NOW)
    assert made.finished
    assert made.removes == ("POD-0",)


def test_a_container_waits_for_the_end_of_its_back_off() -> None:
    found = seen(SAND, one(state="exited", exit_code=1))
    waiting = plan(pod(), found, Known(waits={"app": NOW + 7}), NOW)
    assert waiting == Plan(wake=NOW + 7)
    assert plan(pod(), found, Known(waits={"app": NOW}), NOW).starts == (Start("app", 1),)


def test_a_container_that_was_removed_by_hand_comes_back_with_the_next_number() -> None:
    made = plan(pod(), seen(SAND), Known(ran={"app": 3}), NOW)
    assert made.starts == (Start("app", 4),)


def test_one_that_ran_and_is_gone_does_not_run_again_where_nothing_may() -> None:
    made = plan(pod(policy="Never"), seen(SAND), Known(ran={"app": 0}), NOW)
    assert made == Plan(removes=("POD-0",), finished=True)


def test_an_instance_that_was_created_and_never_started_is_replaced_under_its_number() -> None:
    made = plan(pod(), seen(SAND, one(state="created", attempt=2)), Known(), NOW)
    assert made.starts == (Start("app", 2, ("app-2",)),)


def test_an_instance_that_could_not_be_started_counts_as_an_attempt() -> None:
    broken = one(state="created", error="exec: not found", exit_code=127)
    assert plan(pod(), seen(SAND, broken), Known(), NOW).starts == (Start("app", 1),)
    assert plan(pod(policy="Never"), seen(SAND, broken), Known(), NOW).finished


def test_without_its_sandbox_a_pod_is_cleared_and_then_started_again() -> None:
    dead = one(SANDBOX, "exited")
    first = plan(pod("a", "b"), seen(dead, one("a"), one("b", "exited")), Known(), NOW)
    assert kills(first) == ["a-0"]
    assert first.starts == ()
    second = plan(pod("a", "b"), seen(dead, one("a", "exited"), one("b", "exited")), Known(), NOW)
    assert second.starts == (Start(SANDBOX, 1, ("POD-0",)),)


def test_a_sandbox_that_cannot_be_started_waits_for_its_back_off() -> None:
    made = plan(pod(), seen(one(SANDBOX, "created", error="port is taken")),
                Known(waits={SANDBOX: NOW + 2}), NOW)  # fmt: skip
    assert made == Plan(wake=NOW + 2)


def test_containers_of_a_former_sandbox_end_before_anything_else_happens() -> None:
    sandbox = one(SANDBOX, attempt=1)
    made = plan(pod("a", "b"), seen(sandbox, one("a"), one("b", "exited")), Known(), NOW)
    assert kills(made) == ["a-0"]
    assert made.starts == ()


def test_another_image_ends_the_running_instance_and_no_other_change_does() -> None:
    made = plan(pod("a", "b"), seen(SAND, one("a", hash="00000000"), one("b")), Known(), NOW)
    assert kills(made) == ["a-0"]
    assert made.kills[0].grace is None


def test_a_failed_probe_ends_the_instance_with_the_probes_own_grace() -> None:
    known = Known(condemned={"app-0": Verdict("Unhealthy", "liveness probe failed", 5)})
    made = plan(pod(), seen(SAND, one()), known, NOW)
    assert made.kills == (Kill(one(), "Unhealthy", "liveness probe failed", 5),)


def test_what_an_operation_is_busy_with_is_left_alone() -> None:
    known = Known(busy=frozenset({"a"}), condemned={"a-0": Verdict("Unhealthy", "")})
    made = plan(pod("a", "b"), seen(SAND, one("a")), known, NOW)
    assert made == Plan(starts=(Start("b", 0),))


def test_old_dead_instances_go_and_one_stays_for_its_logs() -> None:
    found = seen(SAND, *(one(state="exited", attempt=n, exit_code=1) for n in range(3)),
                 one(attempt=3))  # fmt: skip
    assert plan(pod(), found, Known(), NOW) == Plan(removes=("app-1", "app-0"))
    assert set(plan(pod(), found, Known(keep_dead=0), NOW).removes) == {"app-0", "app-1", "app-2"}


def test_the_newest_instance_is_told_by_its_number_and_not_by_its_age() -> None:
    early = one(attempt=1, created_at="2026-01-01T00:00:00Z")
    late = one(state="exited", attempt=0, created_at="2026-01-01T01:00:00Z")
    assert plan(pod(), seen(SAND, late, early), Known(), NOW) == Plan()


def test_removal_ends_containers_then_removes_everything_and_then_is_done() -> None:
    first = plan(pod("a", "b"), seen(SAND, one("a"), one("b", "exited")), Known(), NOW, "remove")
    assert (kills(first), first.removes, first.gone) == (["a-0"], (), False)
    dead = seen(SAND, one("a", "exited"), one("b", "exited"))
    second = plan(pod("a", "b"), dead, Known(), NOW, "remove")
    assert set(second.removes) == {"a-0", "b-0", "POD-0"}
    assert plan(pod("a", "b"), seen(), Known(), NOW, "remove").gone


def test_nothing_is_removed_while_a_start_is_under_way() -> None:
    made = plan(pod(), seen(SAND), Known(busy=frozenset({"app"})), NOW, "remove")
    assert made == Plan()


def test_a_pod_that_was_given_up_keeps_its_dead_containers() -> None:
    made = plan(pod(), seen(SAND, one(state="exited")), Known(), NOW, "stop")
    assert made == Plan(removes=("POD-0",), finished=True)


STATES = st.sampled_from(["running", "exited", "created"])
GROUP = st.lists(st.tuples(STATES, st.integers(0, 3), st.sampled_from([0, 1, 137])), max_size=3)


@st.composite
def situations(draw: st.DrawFn) -> tuple[Pod, PodSeen]:
    """A pod with whatever is left of any history of it."""
    wanted = pod("a", "b", inits=draw(st.sampled_from([(), ("i1",), ("i1", "i2")])),
                 policy=draw(st.sampled_from(["Always", "OnFailure", "Never"])))  # fmt: skip
    found = []
    for name in (SANDBOX, "a", "b", "i1", "i2"):
        for state, attempt, code in draw(GROUP):
            found.append(
                one(name, state, attempt, exit_code=code if state == "exited" else 0,
                    sandbox_id=draw(st.sampled_from(["POD-0", "POD-1", "POD-2"])))
            )  # fmt: skip
    unique = {entry.id: entry for entry in found}
    order = draw(st.permutations(list(unique.values())))
    return wanted, PodSeen.of("u1", order)


def act(state: PodSeen, made: Plan, keep: int) -> PodSeen:
    """The state after the first *keep* actions of a plan: the agent is killed after them."""
    found = {entry.id: entry for entry in state.everything}
    actions: list[object] = [*made.kills, *made.starts, *made.removes]
    for action in actions[:keep]:
        if isinstance(action, Kill):
            ended = replace(action.seen, state="exited", exit_code=137)
            found[ended.id] = ended
        elif isinstance(action, Start):
            for old in action.replaces:
                found.pop(old, None)
            sandbox = "" if action.name == SANDBOX else (state.sandbox or SAND).id
            fresh = one(action.name, "running", action.attempt, sandbox_id=sandbox)
            assert fresh.id not in found, "an attempt number is used twice"
            found[fresh.id] = fresh
        else:
            found.pop(str(action), None)
    return PodSeen.of("u1", found.values())


def rest(state: PodSeen) -> PodSeen:
    """The state once the init containers that run have done their work."""
    return PodSeen.of("u1", (
        replace(one_, state="exited") if one_.running and one_.name in {"i1", "i2"} else one_
        for one_ in state.everything
    ))  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(situations(), st.lists(st.integers(0, 4), max_size=12), st.sampled_from(["run", "remove"]))
def test_from_any_state_and_however_often_cut_short_the_plans_lead_to_the_end(
    situation: tuple[Pod, PodSeen], cuts: list[int], mode: Mode
) -> None:
    wanted, state = situation
    for cut in cuts:
        state = act(state, plan(wanted, state, Known(), NOW, mode), cut)
    for _ in range(30):
        state = rest(state)
        made = plan(wanted, state, Known(), NOW, mode)
        if not (made.kills or made.starts or made.removes):
            break
        state = act(state, made, 99)
    else:
        raise AssertionError("the plans never come to an end")
    running = sorted(entry.name for entry in state.everything if entry.running)
    if mode == "remove":
        assert not state.everything
        assert made.gone
    elif made.finished:
        assert running == []
        assert wanted.spec.restart_policy != "Always"
    else:
        assert SANDBOX in running
        assert len(running) == len(set(running)), "two instances of one container run"
        if wanted.spec.restart_policy == "Always":
            assert running == sorted([SANDBOX, "a", "b"])


@settings(max_examples=200, deadline=None)
@given(situations())
def test_a_plan_never_starts_what_runs_and_never_outside_a_running_sandbox(
    situation: tuple[Pod, PodSeen],
) -> None:
    wanted, state = situation
    made = plan(wanted, state, Known(), NOW)
    running = {entry.name for entry in state.everything if entry.running}
    for start in made.starts:
        assert start.name not in running
        if start.name != SANDBOX:
            assert state.sandbox is not None
            assert state.sandbox.running
