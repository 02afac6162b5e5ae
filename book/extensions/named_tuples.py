"""For the pages of the library: the fields of a named tuple are described once, by its docstring."""

from typing import NamedTuple

FIELD = type(NamedTuple("Example", [("field", int)]).field)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", lambda app, what, name, member, skip, options: isinstance(member, FIELD) or None)
    return {"parallel_read_safe": True}
