"""Many devices: sums over processes, batch norm over all of them, networks in shards."""
