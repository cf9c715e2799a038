"""All commands and pages of this release, and the script of completion."""

import argparse
from collections.abc import Iterator

from lab.manual import commandnotes, completion, daemonnotes, pages
from lab.manual.model import Command
from lab.manual.pages import Edition
from lab.manual.roff import Page
from lab.manual.tables import daemon, parser_command
from lab.store import Paths
from netd import __main__ as netd
from netd import config as netdconfig
from nodeagent import __main__ as nodeagent
from nodeagent import config as nodeagentconfig


def daemons() -> tuple[Command, Command]:
    """The command lines of netd and nodeagent."""
    return (
        daemon(
            "netd",
            daemonnotes.NETD_SUMMARY,
            netd.COMMANDS,
            netdconfig.OPTIONS,
            daemonnotes.NETD_OPERANDS,
        ),
        daemon(
            "nodeagent",
            daemonnotes.NODEAGENT_SUMMARY,
            nodeagent.COMMANDS,
            nodeagentconfig.OPTIONS,
            {},
        ),
    )


def operators(parser: argparse.ArgumentParser) -> Command:
    """The command line of ``barenode``, which *parser* reads."""
    return parser_command(parser, ("barenode",), commandnotes.SUMMARY)


def all_pages(parser: argparse.ArgumentParser, edition: Edition) -> Iterator[Page]:
    """Every page; *parser* is that of ``barenode``."""
    net, agent = daemons()
    yield pages.daemon_page(net, daemonnotes.NETD, edition)
    yield pages.daemon_page(agent, daemonnotes.NODEAGENT, edition)
    yield pages.settings_page("netd", netdconfig.OPTIONS, daemonnotes.NETD_TOML, edition)
    yield pages.settings_page(
        "nodeagent", nodeagentconfig.OPTIONS, daemonnotes.NODEAGENT_TOML, edition
    )
    whole = operators(parser)
    yield pages.top_page(whole, commandnotes.BARENODE, edition)
    for command in whole.commands:
        yield pages.command_page(command, commandnotes.notes_of(command.words[-1]), edition)


def bash_script(parser: argparse.ArgumentParser) -> str:
    """Completion of all three commands for bash; *parser* is that of ``barenode``."""
    return completion.script((operators(parser), *daemons()), Paths.standard({}))
