"""A whole cluster on one machine: hosts as namespaces, real daemons, nothing left behind.

plan -> namespaces, cgroups -> launch (becomes pid 1 of a node) -> supervisor -> etcd, netd, dockerd

Invariant: every process of a lab lives below one cgroup named after the lab, every network
namespace and directory carries the lab's name, and nothing is changed in the host's own
namespaces. So a lab can be found and removed from its names alone, without any state file.
"""
