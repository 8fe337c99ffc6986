"""The elements of the page: plain HTML, and five small Vue components that NiceGUI serves.

Every text that comes from a device or a setting is a text or a property of such an element, which Vue never
reads as HTML. NiceGUI evaluates properties and chart options whose *name* begins with a colon: names here are
constants.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement
from nicegui.events import GenericEventArguments

from fedgrass.console.dashboard.pages.page_figures import Tone


class CellGrid(Element, component="cell_grid.js"):
    """Cells with ``id``, ``name``, ``word``, ``tone``, ``note`` and ``share`` (per cent, or None)."""


class DataTable(Element, component="data_table.js"):
    """A table; see ``table``."""


class SettingsFields(Element, component="settings_fields.js"):
    """The fields of a form."""


class ModalDialog(Element, component="modal_dialog.js"):
    """A dialog that is open while it exists."""


class ThemeSwitch(Element, component="theme_switch.js"):
    """Chooses light, dark or the system's colours."""


def text(tag: str, content: str = "", classes: str = "") -> TextElement:
    """Return a new element with a text."""
    made = TextElement(tag=tag, text=content)
    return made.classes(classes) if classes else made


def box(tag: str, classes: str = "", **attributes: object) -> Element:
    """Return a new element, to be filled as a context; ``_`` in names of attributes stands for ``-``."""
    made = ui.element(tag)
    assign(made, **{name.replace("_", "-"): value for name, value in attributes.items()})
    return made.classes(classes) if classes else made


def button(label: str, act: Callable[[], Any], kind: str = "") -> TextElement:
    """Return a new button. ``kind``: main, danger, link, or empty."""
    made = text("button", label, "link" if kind == "link" else f"act {kind}")
    assign(made, type="button")
    made.on("click", lambda _: act(), args=[])
    return made


def word(content: str, tone: Tone) -> TextElement:
    """Return a new word on its colour."""
    return text("span", content, f"word tone-{tone}")


def table(  # noqa: PLR0913 - the parts of a table
    caption: str,
    columns: Sequence[str],
    *,
    empty: str = "None.",
    numeric: Sequence[int] = (),
    choose: Callable[[str], Any] | None = None,
    rows: Sequence[Mapping[str, Any]] = (),
) -> DataTable:
    """Return a new table; its rows are replaced with ``assign(table, rows=...)``.

    Args:
        caption: names it for screen readers.
        columns: headings.
        empty: shown instead of a table without rows.
        numeric: places of the columns with numbers.
        choose: is called with the id of a row whose first cell was pressed; None: that cell is a text.
        rows: each with ``id`` and ``cells``.
    """
    made = DataTable()
    assign(
        made,
        caption=caption,
        columns=list(columns),
        empty=empty,
        numeric=list(numeric),
        rows=list(rows),
        choosable=choose is not None,
    )
    if choose is not None:
        take = choose
        made.on("choose", lambda event: take(chosen(event)))
    return made


def chosen(event: GenericEventArguments) -> str:
    """Return the id that an event of a table or a grid brings; the browser may send anything."""
    value = brought(event)
    return value if isinstance(value, str) else ""


def brought(event: GenericEventArguments) -> Any:
    """Return the first value that an event brings; the browser may send anything."""
    return event.args[0] if isinstance(event.args, list) and event.args else event.args


def assign(element: Element, **properties: object) -> None:
    """Set properties of an element; it is sent to the browser only if one of them changed."""
    changed = {name: value for name, value in properties.items() if element.props.get(name, _UNSET) != value}
    if changed:
        with element.props.suspend_updates():
            for name, value in changed.items():
                element.props[name] = value
        element.update()


def say(element: TextElement, content: str, classes: str | None = None) -> None:
    """Set the text of an element, and its classes if given, if they changed."""
    if element.text != content:
        element.set_text(content)
    if classes is not None and " ".join(element.classes) != classes:
        element.classes(replace=classes)


_UNSET = object()
