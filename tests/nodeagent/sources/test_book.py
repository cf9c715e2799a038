"""Which static pods there are, as looks follow each other."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.sources.book import GONE, LOOK_AGAIN, MOST_BUSY, SETTLE, Book
from nodeagent.sources.folder import Entry, Look
from nodeagent.sources.manifests import Manifest
from tests.nodeagent.sources.made import manifest, static, text


@dataclass
class World:
    """Files, a clock, and a book that looks at them."""

    book: Book = field(default_factory=Book)
    files: dict[str, str] = field(default_factory=dict)
    busy: dict[str, bool | None] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    now: float = 100.0
    _numbers: dict[str, int] = field(default_factory=dict)

    def signature(self, content: str) -> tuple[int, ...]:
        return (self._numbers.setdefault(content, len(self._numbers) + 1),)

    def look(self, wait: float = 0.0) -> float | None:
        self.now += wait
        entries: dict[str, Entry] = {}
        read: dict[str, Manifest] = {}
        for name, content in self.files.items():
            signature = self.signature(content)
            if name in self.troubles:
                entries[name] = Entry((), trouble=self.troubles[name])
            elif self.book.known.get(name) == signature:
                entries[name] = Entry(signature)
            else:
                entries[name] = Entry(signature, content.encode(), self.busy.get(name, False))
                read[name] = manifest(content, name)
        return self.book.take(Look(entries), read, self.now)

    @property
    def images(self) -> dict[str, str]:
        return {
            one.pod.metadata.name: one.pod.spec.containers[0].image
            for one in self.book.pods.values()
        }


def test_pods_come_change_and_go_with_their_files() -> None:
    world = World(files={"a": text("x"), "b": text("y")})
    assert world.look() is None
    assert world.images == {"x-n": "nginx", "y-n": "nginx"}
    world.files = {"a": text("x", "other")}
    assert world.look(1) == GONE / 2
    assert world.look(GONE / 2) == GONE / 2
    assert world.images == {"x-n": "other", "y-n": "nginx"}
    assert world.look(GONE / 2) is None
    assert world.images == {"x-n": "other"}


def test_a_file_that_is_being_written_waits_until_its_writer_closes_it() -> None:
    world = World(files={"a": text("x")})
    world.look()
    world.files["a"], world.busy["a"] = text("x", "half"), True
    assert world.look(1) == LOOK_AGAIN
    assert world.images == {"x-n": "nginx"}
    world.files["a"], world.busy["a"] = text("x", "whole"), False
    assert world.look(1) is None
    assert world.images == {"x-n": "whole"}


def test_a_file_that_somebody_keeps_open_counts_after_a_long_rest() -> None:
    world = World(files={"a": text("x")}, busy={"a": True})
    world.look()
    assert world.look(MOST_BUSY - 1) == LOOK_AGAIN
    world.files["a"] = text("x", "grown")
    assert world.look(2) == LOOK_AGAIN
    assert world.look(MOST_BUSY) is None
    assert world.images == {"x-n": "grown"}


def test_where_the_kernel_does_not_tell_writers_a_file_counts_after_a_rest() -> None:
    world = World(files={"a": text("x")}, busy={"a": None})
    assert world.look() == SETTLE
    assert (world.book.unsure, world.images) == (True, {})
    assert world.look(SETTLE) is None
    assert (world.book.unsure, world.images) == (False, {"x-n": "nginx"})


def test_a_file_with_errors_is_looked_at_again_before_they_are_told() -> None:
    world = World(files={"a": text("x")[:40]})
    assert world.look() == SETTLE
    assert world.book.errors == ()
    world.files["a"] = text("x")
    assert world.look(SETTLE / 2) is None
    assert world.images == {"x-n": "nginx"}


def test_a_pod_goes_on_while_its_manifest_is_broken_and_that_is_said() -> None:
    world = World(files={"a": text("x"), "b": text("y")})
    world.look()
    before = world.book.pods
    world.files["a"] = "a: ["
    world.look()
    world.look(SETTLE)
    assert world.book.pods == before
    (error,) = world.book.errors
    assert (error.file, error.line) == ("a", 1)
    assert "goes on as it was before" in error.text
    assert world.look(60) is None, "a file that was told is not read again"
    world.files["a"] = text("x", "mended")
    world.look()
    assert (world.images["x-n"], world.book.errors) == ("mended", ())


def test_only_the_pods_with_errors_stay_as_before() -> None:
    world = World(files={"a": "\n---\n".join(map(text, "xyz"))})
    world.look()
    bad = text("y").replace('"nginx"', "5")
    world.files["a"] = f"{text('x', 'new')}\n---\n{bad}"
    world.files["a"] = "# yaml\n" + world.files["a"]
    world.look()
    world.look(SETTLE)
    assert world.images == {"x-n": "new", "y-n": "nginx"}, "z was taken out of the file"


def test_an_unreadable_file_keeps_its_pods() -> None:
    world = World(files={"a": text("x")})
    world.look()
    world.troubles["a"] = "cannot be read: Input/output error"
    assert world.look() == SETTLE
    assert world.look(SETTLE) is None
    assert world.look(60) is None, "it is told once and not awaited again"
    assert world.images == {"x-n": "nginx"}
    assert "Input/output" in world.book.errors[0].text
    world.troubles.clear()
    world.look()
    assert world.book.errors == ()


def test_a_renamed_file_changes_nothing_even_if_both_or_none_are_seen() -> None:
    world = World(files={"a": text("x")})
    world.look()
    (before,) = world.book.pods.values()
    world.files = {}
    world.look()
    world.files = {"b": text("x")}
    world.look(GONE / 2)
    world.look(GONE)
    (after,) = world.book.pods.values()
    assert after.pod is before.pod
    assert (after.file, world.book.errors) == ("b", ())


def test_an_editor_that_removes_the_file_first_changes_nothing() -> None:
    world = World(files={"a": text("x")})
    world.look()
    before = world.book.pods
    content = world.files.pop("a")
    world.look()
    world.files["a"] = content
    world.look(GONE / 2)
    assert world.book.pods == before
    assert not world.book.unsure


def test_a_pod_that_moved_out_of_a_broken_file_is_that_of_the_good_one() -> None:
    world = World(files={"a": text("x")})
    world.look()
    world.files = {"a": "a: [", "b": text("x", "new")}
    world.look()
    world.look(SETTLE)
    assert world.images == {"x-n": "new"}
    assert [one.file for one in world.book.errors] == ["a"]


def test_a_folder_that_is_missing_changes_nothing() -> None:
    world = World(files={"a": text("x")})
    world.look()
    before = world.book.pods
    assert world.book.take(Look(missing="gone"), {}, world.now + 100) is None
    assert world.book.pods == before


def test_what_is_remembered_goes_on_if_its_file_is_broken_and_ends_if_it_is_gone() -> None:
    memory = {"a": (static("x", file="a"),), "b": (static("y", file="b"),)}
    world = World(book=Book(memory), files={"a": "a: ["})
    world.look()
    world.look(SETTLE)
    world.look()
    assert world.images == {"x-n": "nginx"}
    assert "goes on" in world.book.errors[0].text
    assert list(world.book.by_file) == ["a"]


steps = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["x1", "x2", "y1", "gone", "broken", "busy", "free", "unread", "fine"]),
        st.sampled_from([0.0, 0.125, GONE, SETTLE]),
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(steps)
def test_whatever_happened_the_book_is_as_a_new_one_once_all_is_good(
    history: list[tuple[str, str, float]],
) -> None:
    world = World()
    for file, what, wait in history:
        if what in {"busy", "free"}:
            world.busy[file] = what == "busy"
        elif what in {"unread", "fine"}:
            world.troubles.pop(file, None)
            if what == "unread":
                world.troubles[file] = "no"
        elif what == "gone":
            world.files.pop(file, None)
        else:
            world.files[file] = "a: [" if what == "broken" else text(what[0], what)
        world.look(wait)
    world.busy.clear()
    world.troubles.clear()
    world.files = {k: v for k, v in world.files.items() if v != "a: ["}
    world.look()
    world.look()
    assert world.look(GONE) is None
    fresh = World(files=world.files)
    assert fresh.look() is None
    assert world.images == fresh.images
    assert world.book.errors == fresh.book.errors
