"""A host as Vagrant makes it, NAT first and a private network second: which address it takes."""

import json
import subprocess
import sys

import pytest

from tests.vagrant.support import ROOT

# The interfaces and addresses of a machine of VirtualBox, the default route by the NAT; the first
# address is what `barenode join` takes by itself, the second what init does.
PROGRAM = """
import json, subprocess
from lab.errors import UsageError
from lab.join import addresses
from lab.join.discovery import Server
from lab.join.joining import source_of

def ip(words):
    done = subprocess.run(["ip", *words.split()], check=True, capture_output=True, text=True)
    return json.loads(done.stdout or "[]")

for device, address in (("eth0", "10.0.2.15/24"), ("eth1", "192.168.56.11/24")):
    ip(f"link add {device} type veth peer name {device}-peer")
    ip(f"address add {address} dev {device}")
    ip(f"link set {device} up")
    ip(f"link set {device}-peer up")
ip("route add default via 10.0.2.2 dev eth0")
facts = addresses.read(ip("-json -4 address show"), ip("-json -4 route show table all"))
print(json.dumps([source_of(Server("192.168.56.10")), addresses.choose("", facts)]))
"""


@pytest.mark.kernel
def test_the_shared_address_of_the_nat_is_never_chosen() -> None:
    inside = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", PROGRAM]
    done = subprocess.run(inside, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["192.168.56.11", "192.168.56.11"]
