"""The parts of `predict`, `evaluate` and `prepare` on the machines of a Ray cluster: `--engine ray`.

`engine.run_parts` hands parts out; `predicting`, `scoring` and `preparing` say what a part of each command is. A part
is the one that `--part I/N` makes, and what is joined in the end is joined as `--merge` does it.
"""
