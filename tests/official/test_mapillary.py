"""Mapillary Vistas 1.2 and 2.0: labels whose ids are places in a list of names."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence

import pytest
from official_files import ANYTHING, IGNORED, grey16, mapped, palette, photo, rgb, tiled
from official_sets import SINGLE, Archive, Official, Truth, check, check_refused, compare, lay_out, prepare

from iccld_cli.cli.prepare import ADAPTERS


def listed(text: str) -> list[str]:
    """Names from lines of a prefix and what follows it."""
    return [prefix + name for prefix, *names in map(str.split, text.strip().splitlines()) for name in names]


# openvinotoolkit/datumaro, the two label maps of its Mapillary Vistas format (66 and 124 names in the order of
# config_v1.2.json and config_v2.0.json); id = position in the list (the official demo.py).
V12 = listed("""
animal-- bird ground-animal
construction-- barrier--curb barrier--fence barrier--guard-rail barrier--other-barrier barrier--wall flat--bike-lane
construction-- flat--crosswalk-plain flat--curb-cut flat--parking flat--pedestrian-area flat--rail-track flat--road
construction-- flat--service-lane flat--sidewalk structure--bridge structure--building structure--tunnel
human-- person rider--bicyclist rider--motorcyclist rider--other-rider
marking-- crosswalk-zebra general
nature-- mountain sand sky snow terrain vegetation water
object-- banner bench bike-rack billboard catch-basin cctv-camera fire-hydrant junction-box mailbox manhole phone-booth
object-- pothole street-light support--pole support--traffic-sign-frame support--utility-pole traffic-light
object-- traffic-sign--back traffic-sign--front trash-can
object--vehicle-- bicycle boat bus car caravan motorcycle on-rails other-vehicle trailer truck wheeled-slow
void-- car-mount ego-vehicle unlabeled
""")
V20 = listed("""
animal-- bird ground-animal
construction--barrier-- ambiguous concrete-block curb fence guard-rail other-barrier road-median road-side separator
construction--barrier-- temporary wall
construction--flat-- bike-lane crosswalk-plain curb-cut driveway parking parking-aisle pedestrian-area rail-track road
construction--flat-- road-shoulder service-lane sidewalk traffic-island
construction--structure-- bridge building garage tunnel
human-- person--individual person--person-group rider--bicyclist rider--motorcyclist rider--other-rider
marking--continuous-- dashed solid zigzag
marking--discrete-- ambiguous arrow--left arrow--other arrow--right arrow--split-left-or-straight
marking--discrete-- arrow--split-right-or-straight arrow--straight crosswalk-zebra give-way-row give-way-single
marking--discrete-- hatched--chevron hatched--diagonal other-marking stop-line symbol--bicycle symbol--other text
marking-only-- continuous--dashed discrete--crosswalk-zebra discrete--other-marking discrete--text
nature-- mountain sand sky snow terrain vegetation water
object-- banner bench bike-rack catch-basin cctv-camera fire-hydrant junction-box mailbox manhole parking-meter
object-- phone-booth pothole sign--advertisement sign--ambiguous sign--back sign--information sign--other sign--store
object-- street-light support--pole support--pole-group support--traffic-sign-frame support--utility-pole traffic-cone
object--traffic-light-- cyclists general-horizontal general-single general-upright other pedestrians
object--traffic-sign-- ambiguous back direction-back direction-front front information-parking temporary-back
object--traffic-sign-- temporary-front
object-- trash-can
object--vehicle-- bicycle boat bus car caravan motorcycle on-rails other-vehicle trailer truck vehicle-group
object--vehicle-- wheeled-slow
object-- water-valve
void-- car-mount dynamic ego-vehicle ground static unlabeled
""")

# What version 1.2 calls them for people: mseg-dataset/mseg-api mseg/dataset_lists/mapillary-public66/
# mapillary-public66_names.txt, line by line.
READABLE = (
    """
Bird, Ground Animal, Curb, Fence, Guard Rail, Barrier, Wall, Bike Lane, Crosswalk - Plain, Curb Cut, Parking,
Pedestrian Area, Rail Track, Road, Service Lane, Sidewalk, Bridge, Building, Tunnel, Person, Bicyclist, Motorcyclist,
Other Rider, Lane Marking - Crosswalk, Lane Marking - General, Mountain, Sand, Sky, Snow, Terrain, Vegetation, Water,
Banner, Bench, Bike Rack, Billboard, Catch Basin, CCTV Camera, Fire Hydrant, Junction Box, Mailbox, Manhole,
Phone Booth, Pothole, Street Light, Pole, Traffic Sign Frame, Utility Pole, Traffic Light, Traffic Sign (Back),
Traffic Sign (Front), Trash Can, Bicycle, Boat, Bus, Car, Caravan, Motorcycle, On Rails, Other Vehicle, Trailer, Truck,
Wheeled Slow, Car Mount, Ego Vehicle, Unlabeled
""".replace("\n", " ")
    .strip()
    .split(", ")
)

# Names that have one class in Cityscapes' sense, by name and in every published conversion that was found
# (w1oves/Rein tools/convert_datasets/mapillary2cityscape.py, and another that sends mountains to terrain).
CERTAIN = {
    "construction--barrier--fence": 4,
    "construction--barrier--wall": 3,
    "construction--flat--crosswalk-plain": 0,
    "construction--flat--road": 0,
    "construction--flat--sidewalk": 1,
    "construction--structure--building": 2,
    "human--person": 11,
    "human--person--individual": 11,
    "human--person--person-group": 11,
    "human--rider--bicyclist": 12,
    "human--rider--motorcyclist": 12,
    "human--rider--other-rider": 12,
    "marking--crosswalk-zebra": 0,
    "marking--general": 0,
    "nature--sky": 10,
    "nature--terrain": 9,
    "nature--vegetation": 8,
    "object--support--pole": 5,
    "object--support--utility-pole": 5,
    "object--traffic-light": 6,
    "object--traffic-sign--front": 7,
    "object--traffic-sign--direction-front": 7,
    "object--vehicle--bicycle": 18,
    "object--vehicle--bus": 15,
    "object--vehicle--car": 13,
    "object--vehicle--motorcycle": 17,
    "object--vehicle--on-rails": 16,
    "object--vehicle--truck": 14,
}
NO_CLASS = listed("""
animal-- bird ground-animal
construction--flat-- rail-track
nature-- water
object-- banner bench bike-rack billboard cctv-camera fire-hydrant junction-box mailbox phone-booth trash-can
object-- parking-meter traffic-cone water-valve
object--vehicle-- boat caravan other-vehicle trailer wheeled-slow
void-- car-mount ego-vehicle unlabeled dynamic ground static
""")

# w1oves/Rein, tools/convert_datasets/mapillary2cityscape.py (from openseg.pytorch), its rules on the readable names
# worked out by hand for version 1.2: what CERTAIN does not name yet.
FIELD = {
    "construction--barrier--curb": 1,
    "construction--flat--curb-cut": 1,
    "construction--flat--pedestrian-area": 1,
    "construction--flat--bike-lane": 0,
    "construction--flat--parking": 0,
    "construction--flat--service-lane": 0,
    "object--street-light": 5,
    "object--support--traffic-sign-frame": 7,
    "object--traffic-sign--back": 7,
}


def certain(names: Sequence[str]) -> dict[int, int]:
    """Position -> trainId; `ANYTHING` where conversions differ."""
    found = {}
    for number, name in enumerate(names):
        plain = name.startswith(("marking--continuous", "marking--discrete", "object--traffic-light--"))
        general = (6 if "light" in name else 0) if plain else ANYTHING
        found[number] = IGNORED if name in NO_CLASS else CERTAIN.get(name, general)
    return found


def config(names: Sequence[str]) -> bytes:
    """A configuration file with the fields of the real one; the readable names of 2.0 were in no source."""
    readable = READABLE if names is V12 else [name.rsplit("--", 1)[-1].replace("-", " ").title() for name in names]
    labels = [
        {"color": [0, 0, 0], "instances": True, "readable": text, "name": name, "evaluate": True}
        for text, name in zip(readable, names, strict=True)
    ]
    return json.dumps({"labels": labels, "version": "1", "mapping": "public"}).encode()


PACKAGES: Mapping[str, tuple[str, dict[str, str], dict[str, Sequence[str]]]] = {
    # archive, folder of the labels -> configuration file, configuration file -> names
    "2.0": (
        "mapillary-vistas-dataset_public_v2.0.zip",
        {"v1.2/": "config_v1.2.json", "v2.0/": "config_v2.0.json"},
        {"config_v1.2.json": V12, "config_v2.0.json": V20},
    ),
    "1.2": ("mapillary-vistas-dataset_public_v1.2.zip", {"v1.2/": "config_v1.2.json"}, {"config_v1.2.json": V12}),
    # The first release has a name of 150 letters, and its labels lie directly below training/ (Mask2Former
    # datasets/README.md).
    "first": ("An_o5cmHOsS1VbLdaKx_zfMdi0No5LUpL2htRxMwCjY.zip", {"": "config.json"}, {"config.json": V12}),
}


@functools.lru_cache
def vistas(package: str, version: str, field: bool = False) -> Official:
    """An archive as it is published, and what one of its versions has to become."""
    name, folders, configs = PACKAGES[package]
    files = {"LICENSE": b"licence", "README": b"Mapillary Vistas", "demo.py": b"import json"}
    files |= {path: config(names) for path, names in configs.items()}
    frames: dict[tuple[str, str], Truth | None] = {}
    places = [("training", "train", "--jRsD9anHdGxv4ZOCQktA"), ("validation", "val", "_1Gn_xkw7sa_i9GU4mkxxQ")]
    places += [("training", "train", "0035fkbjWljhaftpVM37-g"), ("testing", "test", "zzQ6nLGPIwoCxNhZ1nIqsA")]
    for seed, (folder, split, key) in enumerate(places):
        shape = (16, 32 + 8 * seed)  # every camera has another size
        files[f"{folder}/images/{key}.jpg"] = photo(seed, shape, "JPEG")
        frames[split, key] = None
        for where, path in folders.items() if split != "test" else ():
            ids = tiled(range(len(configs[path])), shape, seed)
            files[f"{folder}/{where}labels/{key}.png"] = palette(ids)
            files[f"{folder}/{where}instances/{key}.png"] = grey16(ids * 256)
            files[f"{folder}/{where}panoptic/{key}.png"] = rgb(ids[..., None].repeat(3, -1))
            if path in ("config.json", f"config_v{version}.json"):
                table = certain(configs[path])
                if field:
                    known = {n: FIELD.get(v, IGNORED) for n, v in enumerate(configs[path])}
                    table = {n: known[n] if v == ANYTHING else v for n, v in table.items()}
                frames[split, key] = Truth(ids, mapped(ids, table))
    settings = ("--set", f"mapillary.version={version}") if len(folders) > 1 else ()
    return Official("mapillary", [Archive(name, files)], frames, totals=(18000, 2000, 5000, 25000), settings=settings)


def test_the_tables_are_whole():
    assert (len(V12), len(READABLE), len(V20)) == (66, 66, 124)
    assert {*CERTAIN, *NO_CLASS} <= {*V12, *V20}
    assert set(FIELD) <= set(V12)


CASES = [(*case, layout) for case in (("2.0", "2.0"), ("2.0", "1.2"), ("first", "1.2")) for layout in SINGLE]
CASES.append(("1.2", "1.2", "packed"))  # its folders are those of 2.0


@pytest.mark.parametrize(("package", "version", "layout"), CASES)
def test_the_official_set(tmp_path, package, version, layout):
    check(f"mapillary {package} {version}", vistas(package, version), layout, tmp_path)


def test_the_classes_of_the_field(tmp_path):
    """One setting has to give the classes of the published conversion, so that scores can be compared."""
    official = vistas("1.2", "1.2", field=True)
    root = lay_out(official.archives, tmp_path / "raw", "merged")
    choices = {k: c.values or () for k, c in ADAPTERS["mapillary"].choices.items() if k != "version"}
    failures = {}
    for option, value in [(option, value) for option, values in choices.items() for value in values]:
        out = tmp_path / f"{option}-{value}"
        try:
            compare(prepare("mapillary", root, out, "--set", f"mapillary.{option}={value}"), official.frames)
        except AssertionError as error:
            failures[f"{option}={value}"] = str(error).splitlines()[0]
        else:
            return
    pytest.fail(f"no setting gives the classes of the field: {failures or 'there is none'}")


def test_an_id_beyond_the_list_is_refused(tmp_path):
    official = vistas("1.2", "1.2")
    root = lay_out(official.archives, tmp_path / "raw", "merged")
    next(root.rglob("v1.2/labels/--jRsD9anHdGxv4ZOCQktA.png")).write_bytes(palette(tiled(range(67))))
    check_refused(prepare("mapillary", root, tmp_path / "out"), "--jRsD9anHdGxv4ZOCQktA", r"\b66\b")
