"""A procedural town that is driven through with one camera and labelled exactly.

The same world can be seen in several looks: "game" is a clean sunny render, "camera" a dashboard camera in a greyer
town with weather, noise and blur, "night" the same after dark.  A `Mix` says how many of a set's frames show a street
in town, a motorway or a country road, and, in the camera look, day, dusk, night and rain.
"""

from iccld_cli.town.looks import LOOKS
from iccld_cli.town.mix import HOURS, Mix, mixes, parse_shares
from iccld_cli.town.plan import KINDS
from iccld_cli.town.render import render_drive, render_frame

__all__ = ["HOURS", "KINDS", "LOOKS", "Mix", "mixes", "parse_shares", "render_drive", "render_frame"]
