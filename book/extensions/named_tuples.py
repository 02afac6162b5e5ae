"""Fields of a named tuple are described once, by the docstring of it."""

from typing import NamedTuple

FIELD = type(NamedTuple("Example", [("field", int)]).field)


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True}


def skip(app, what, name, member, skip, options):
    """Whether to leave out a member; None for what Sphinx would do."""
    return isinstance(member, FIELD) or None
