"""What happens inside a worker: look at a file, call f, look again, make a batch durable, stage a shard.

Owns the call of f and everything that keeps it from harming the others: the beacon, the time limit, what f prints, what
its exceptions become. It must not decide (no commits, no columns, no manifest), publish, or know who carries it.
"""
