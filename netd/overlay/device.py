"""The VXLAN device over its underlay: brought into shape, and what stands in the way.

Model: ``bring`` compares the mirror's device with the wish for it and has the difference applied.

Invariants:

* ``ready`` means that the kernel was seen to have the device as wished (with host-gw: that the
  underlay is there), and the MTU is told only then;
* a change is a *repair* when the wish was fulfilled before, as seen in the kernel;
* a failure is kept in ``broken`` with the kernel's reason, so that what can be programmed
  nevertheless is programmed before it is raised.
"""

import logging
from collections.abc import Callable

from netd.overlay.floods import Floods, lines
from netd.overlay.links import LinkWriter, OverlayError
from netd.overlay.mirror import Mirror
from netd.overlay.model import LocalNode
from netd.overlay.plan import (
    LinkWish,
    ground_problems,
    mtu_problems,
    overlay_mtu,
    plan_link,
    wish_link,
)

log = logging.getLogger(__name__)


class Device:
    """The device of one host.

    *flushed* is called before a change with which the kernel forgets entries of the device;
    *on_mtu* with the overlay's MTU in bytes whenever it changes. *clock* is monotonic, in seconds.
    """

    def __init__(
        self,
        mirror: Mirror,
        links: LinkWriter,
        *,
        flushed: Callable[[], None],
        on_mtu: Callable[[int], None],
        clock: Callable[[], float],
    ) -> None:
        self._mirror = mirror
        self._links = links
        self._flushed = flushed
        self._on_mtu = on_mtu
        self._floods = Floods(lines(log, logging.INFO, "{kind}", "{kind} {n} times {span}"), clock)
        self._retired: set[str] = set()
        self._fulfilled: LinkWish | None = None
        self.mtu = 0
        self.ready = False
        self.broken: OverlayError | None = None
        self.blocking: tuple[str, ...] = ()
        self.advice: tuple[str, ...] = ()

    def retire(self, name: str) -> None:
        """Have the device *name* deleted at the next occasion."""
        self._retired.add(name)

    def expect(self, name: str) -> None:
        """Another wish is coming, for the device *name* (empty for none)."""
        self._retired.discard(name)
        self.ready = False

    def stop(self) -> None:
        """Tell what was held back of the log."""
        self._floods.stop()

    async def bring(self, local: LocalNode) -> tuple[str, ...]:
        """Bring the device into shape for *local*; returns the kinds that were repaired.

        What fails is left in ``broken`` and ``blocking``.
        """
        facts = self._mirror.facts(local.interface)
        self.blocking = ground_problems(local, facts, self._mirror)
        self.advice = mtu_problems(local, facts) if facts is not None else ()
        self.broken = None
        repaired: tuple[str, ...] = ()
        try:
            await self._remove_retired()
            if facts is None:
                self._fulfilled, self.ready = None, False
                return ()
            mtu = overlay_mtu(local, facts)
            wish = wish_link(local, facts)
            if wish is None:
                self._fulfilled, self.ready = None, True
                self._tell_mtu(mtu)
            else:
                repaired = await self._shape(wish)
        except OverlayError as error:
            self.ready = False
            self.broken = error
            self.blocking += (str(error),)
        return repaired

    async def _remove_retired(self) -> None:
        for name in sorted(self._retired):
            link = self._mirror.by_name(name)
            if link is not None and link.kind == "vxlan":
                self._flushed()
                await self._links.delete(link.ifindex)
            self._retired.discard(name)

    async def _shape(self, wish: LinkWish) -> tuple[str, ...]:
        mirror = self._mirror
        link = mirror.by_name(wish.name)
        held = mirror.addresses.get(link.ifindex, ()) if link else ()
        plan = plan_link(wish, link, held)
        if not plan:
            self._fulfilled, self.ready = wish, True
            self._tell_mtu(wish.mtu)
            return ()
        unasked = wish == self._fulfilled
        if plan.flushes:
            self._flushed()
        await self._links.apply(plan, wish, link.ifindex if link else 0)
        self._floods.note(f"device {wish.name}: {'created' if plan.create else 'changed'}")
        return plan.repairs if unasked else ()

    def _tell_mtu(self, mtu: int) -> None:
        if mtu != self.mtu:
            self.mtu = mtu
            self._on_mtu(mtu)
