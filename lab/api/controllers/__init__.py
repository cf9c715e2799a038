"""The controllers of the lab's control plane.

    every watched kind -> trigger -> list what is there -> plan (pure) -> actions -> registry

Each controller looks at the whole truth again after every change, so a missed event, a failed
write or a restart needs no memory. Plans see a ``World`` and return actions, both values;
``loop`` lists for them and carries the actions out.
"""
