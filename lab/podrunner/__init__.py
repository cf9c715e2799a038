"""A minimal stand-in for nodeagent, until that exists: runs the pods bound to its node.

    pods (API) + containers (Docker) -> plan -> steps -> one task per pod -> status

A container that sleeps holds a pod's network namespace; the pod's own containers join it. What
is there is read back from Docker each time, so a restart of this program restarts nothing.
There are no probes, volumes, references to ConfigMaps or Secrets, and no pulls: an image must
be on the node. Nothing imports this package; nodeagent replaces it.
"""
