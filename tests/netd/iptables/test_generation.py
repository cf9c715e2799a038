"""Numbers that the kernel tells without a process."""

from netd.iptables.generation import Generation


def test_a_generation_that_was_closed_can_be_closed_again_and_opened_anew() -> None:
    generation = Generation("nft")
    generation.read(("nat",))
    generation.close()
    generation.close()
    generation.read(("nat",))
    generation.close()
