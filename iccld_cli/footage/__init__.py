"""Own footage in, own model out: what `iccld adapt` does, see `footage.run`."""
