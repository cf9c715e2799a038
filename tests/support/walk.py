"""A packet's walk through rules as iptables-save prints them: who might get it, and how likely.

It knows the matches and targets that netd writes and fails on any other, so that a test cannot
pass because a rule was not understood.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network

REJECT, DROP, MASQUERADE = 1 << 12, 1 << 15, 1 << 14


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection; *local* if a process of this host sends it."""

    source: str
    target: str
    protocol: str
    port: int
    local: bool = False


@dataclass(frozen=True, slots=True)
class Fate:
    """*endpoint* is where it goes, empty when nowhere else than it was going; *mark* at the end."""

    endpoint: str
    mark: int

    @property
    def refused(self) -> bool:
        """Whether the filter table answers with an error."""
        return not self.endpoint and bool(self.mark & REJECT)

    @property
    def dropped(self) -> bool:
        """Whether the filter table drops it."""
        return bool(self.mark & DROP)

    @property
    def masqueraded(self) -> bool:
        """Whether it leaves with this host's address."""
        return bool(self.mark & MASQUERADE)


@dataclass(frozen=True, slots=True)
class _Rule:
    matches: tuple[tuple[str, str, bool], ...]
    target: str
    value: str
    probability: float


@lru_cache(maxsize=200_000)
def _parse(text: str) -> _Rule:
    words = shlex.split(text)
    matches: list[tuple[str, str, bool]] = []
    target = value = ""
    probability = 1.0
    negated = False
    while words:
        word = words.pop(0)
        if word == "!":
            negated = True
            continue
        if word in {"-m", "--comment", "--name", "--mask", "--mode", "--seconds", "--reject-with"}:
            words.pop(0)
        elif word in {"--rsource", "--reap", "--random-fully"}:
            pass
        elif word == "-j":
            target = words.pop(0)
        elif word in {"--set-xmark", "--to-destination"}:
            value = words.pop(0)
        elif word == "--probability":
            probability = float(words.pop(0))
        elif word in {"--set", "--update"}:
            matches.append((word, "", negated))
        elif word in {
            "-s", "-d", "-p", "-o", "--dport", "--mark", "--src-type", "--dst-type", "--ctstate",
            "--bytecode",
        }:  # fmt: skip
            matches.append((word, words.pop(0), negated))
        else:
            raise AssertionError(f"unknown word {word!r} in rule {text!r}")
        negated = False
    return _Rule(tuple(matches), target, value, probability)


@dataclass
class Walker:
    """Walks *chains* (name to rules) of the nat table on a host with the *local* addresses.

    Clients with an affinity are taken as new.
    """

    chains: Mapping[str, Sequence[str]]
    local: frozenset[str] = field(default_factory=frozenset)

    def fates(self, packet: Packet) -> dict[Fate, float]:
        """Every possible fate with its probability."""
        done: dict[Fate, float] = {}

        def end(endpoint: str, mark: int, chance: float) -> None:
            fate = Fate(endpoint, mark)
            done[fate] = done.get(fate, 0.0) + chance

        for mark, chance in self._chain(
            "OUTPUT" if packet.local else "PREROUTING", packet, 0, 1.0, end
        ):
            end("", mark, chance)
        return done

    def _chain(
        self,
        name: str,
        packet: Packet,
        mark: int,
        chance: float,
        end: Callable[[str, int, float], None],
    ) -> list[tuple[int, float]]:
        """The (mark, chance) pairs that leave the chain at its end."""
        through = [(mark, chance)]
        back: list[tuple[int, float]] = []
        for text in self.chains[name]:
            rule = _parse(text)
            following: list[tuple[int, float]] = []
            for now, odds in through:
                if not all(self._holds(one, packet, now) for one in rule.matches):
                    following.append((now, odds))
                    continue
                if rule.probability < 1.0:
                    following.append((now, odds * (1 - rule.probability)))
                taken = odds * rule.probability
                if rule.target == "MARK":
                    bits, _, mask = rule.value.partition("/")
                    following.append(((now & ~int(mask, 16)) ^ int(bits, 16), taken))
                elif rule.target == "DNAT":
                    end(rule.value, now, taken)
                elif rule.target == "ACCEPT":
                    end("", now, taken)
                elif rule.target == "RETURN":
                    back.append((now, taken))
                else:
                    following += self._chain(rule.target, packet, now, taken, end)
            through = following
        return through + back

    def _holds(self, match: tuple[str, str, bool], packet: Packet, mark: int) -> bool:
        kind, value, negated = match
        return self._plain(kind, value, packet, mark) != negated

    def _plain(self, kind: str, value: str, packet: Packet, mark: int) -> bool:
        if kind in {"-s", "-d"}:
            address = packet.source if kind == "-s" else packet.target
            return IPv4Address(address) in _network(value)
        if kind == "-p":
            return packet.protocol == value
        if kind == "--dport":
            low, _, high = value.partition(":")
            return int(low) <= packet.port <= int(high or low)
        if kind == "--mark":
            bits, _, mask = value.partition("/")
            return mark & int(mask, 16) == int(bits, 16)
        if kind in {"--src-type", "--dst-type"}:
            assert value == "LOCAL"
            return (packet.source if kind == "--src-type" else packet.target) in self.local
        if kind in {"--set", "--update"}:
            return kind == "--set"
        raise AssertionError(f"{kind} {value} has no place on the way in")


@lru_cache(maxsize=100_000)
def _network(text: str) -> IPv4Network:
    return IPv4Network(text)
