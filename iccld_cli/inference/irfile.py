"""Whether an `.xml` file is an OpenVINO graph that may be given to the runtime, from its bytes alone.

OpenVINO takes a file for what its content is, whatever its name says: an ONNX file named `.xml` would be read as one,
with the tensors that it keeps in other files. A model file is data from anywhere, so it must be an XML document of the
IR (https://docs.openvino.ai, OpenVINO IR format) in UTF-8, without entities, and without loops, which may have no end.
"""

from __future__ import annotations

from xml.parsers import expat

MAX_DEPTH = 64
"""Of elements within elements; `iccld export` writes some ten."""

_BODIES = frozenset({"body", "then_body", "else_body"})
"""Elements that hold a graph within a layer."""


def check_graph(data: bytes) -> None:
    """Refuse what is no graph of layers alone.

    Args:
        data: The file's bytes.

    Raises:
        ValueError: It is no such XML document; the message reads on after "cannot be run".
    """
    depth = 0

    def start(name: str, _: object) -> None:
        nonlocal depth
        if depth == 0 and name != "net":
            raise ValueError("it is no OpenVINO graph")
        if name in _BODIES:
            raise ValueError("it has graphs within graphs, such as loops")
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type of its own")

    try:
        data.decode("utf-8")  # expat would follow a byte order mark
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"it is no XML: {error}") from None
