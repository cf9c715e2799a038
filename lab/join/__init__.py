"""``barenode init``, ``join``, ``reset`` and ``token``: hosts of one's own become a cluster."""
