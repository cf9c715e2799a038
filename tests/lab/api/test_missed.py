"""What a watch is told has no hole: bookmarks, old data and another etcd leave nothing out."""

import asyncio
import json

from lab.api.kinds import POD
from lab.api.mirror import Item, Shelf
from tests.lab.api.serving import PODS, pod, serving
from tests.lab.api.test_server import revision

COUNT = 100


async def test_no_event_is_older_than_a_bookmark_before_it() -> None:
    """Who is cut between the two resumes after the bookmark and would never see the event."""
    async with serving(bookmarks=0.0003) as api:
        at = await revision(api, PODS)
        async with api.watch(PODS, resourceVersion=at, allowWatchBookmarks="true") as stream:

            async def write() -> None:
                for number in range(COUNT):
                    await api.made(PODS, pod(f"p{number}"))
                    await asyncio.sleep(0.0005)

            writing = asyncio.create_task(write())
            marked = seen = 0
            while seen < COUNT:
                event = await stream.next()
                version = int(event["object"]["metadata"]["resourceVersion"])
                if event["type"] == "BOOKMARK":
                    marked = version
                else:
                    seen += 1
                    assert version > marked
            await writing


async def test_who_is_behind_the_old_data_is_told_what_lies_between() -> None:
    """Old data are a state with its history, as those of a server that lags behind."""
    async with serving() as api:
        before = await revision(api, PODS)
        await api.made(PODS, pod("a"))
        await api.faults(serve_old=True)
        async with api.watch(PODS, resourceVersion=before) as stream:
            event = await stream.next()
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "a")


def test_another_object_of_the_same_revision_is_a_change() -> None:
    """Another etcd counts its revisions from the beginning."""
    name = ("default", "a")

    def item(node: str) -> Item:
        return Item.make(POD, json.dumps({"spec": {"nodeName": node}}).encode(), 7)

    shelf = Shelf(10)
    shelf.replace({name: item("node2")}, 7)
    assert shelf.difference({name: item("node2")}) == []
    (change,) = shelf.difference({name: item("node1")})
    assert (change.type, change.after) == ("MODIFIED", item("node2"))
