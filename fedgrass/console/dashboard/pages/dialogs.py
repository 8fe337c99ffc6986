"""Dialogs: a confirmation before each action, and the form of a new run."""

from collections.abc import Callable
from typing import Any

from nicegui import ui
from nicegui.events import GenericEventArguments

from fedgrass.console.dashboard.pages.elements import (
    ModalDialog,
    SettingsFields,
    assign,
    box,
    brought,
    button,
    text,
)
from fedgrass.console.dashboard.pages.page_sources import ShownStack
from fedgrass.console.dashboard.pages.settings_form import Field, Kind, settings_fields
from fedgrass.console.dashboard.pages.visit import Visit
from fedgrass.federation.settings import RunSettings

_RUN, _SOURCE = "run_name", "continue_from"  # fields of the form in addition to the settings
_MOST_FIELDS = 100
_LONGEST_VALUE = 10_000  # characters


def confirm(  # noqa: PLR0913 - the parts of a question
    visit: Visit,
    shown: ShownStack,
    title: str,
    question: str,
    act: Callable[[], str],
    *,
    danger: bool = False,
) -> None:
    """Ask before an action on a stack.

    Args:
        visit: where the outcome is shown.
        shown: the stack.
        title: of the dialog, and label of the button that acts.
        question: what will happen.
        act: carries the action out; blocks.
        danger: whether it cannot be undone.
    """
    with _layer() as layer, ModalDialog() as dialog:
        assign(dialog, label=title)
        dialog.on("dismiss", lambda _: layer.delete(), args=[])
        text("h2", title)
        text("p", question)
        text("p", f"Stack: {shown.name}", "quiet")

        async def go() -> None:
            layer.delete()
            await visit.perform(shown.source, act)

        with box("div", "actions"):
            button(title, go, "danger" if danger else "main")
            button("Keep as it is", layer.delete)


def ask_for_run(visit: Visit, shown: ShownStack) -> None:
    """Ask for the settings of a new run, start it, and keep the form open if it is refused."""
    fields = settings_fields()
    given: dict[str, Any] = {}
    tasks = sorted({line.task for line in shown.source.overview().runs if line.task} | _tasks(shown))
    with _layer() as layer, ModalDialog() as dialog:
        assign(dialog, label="Start a run")
        dialog.on("dismiss", lambda _: layer.delete(), args=[])
        text("h2", f"Start a run on {shown.name}")
        complaint = text("p", "", "banner")
        assign(complaint, role="alert")
        form = SettingsFields()
        assign(form, fields=[*_own_fields(shown), *(_described(field, tasks) for field in fields)])
        form.on("change", lambda event: _take(given, event))

        async def go() -> None:
            settings = {name: value for name, value in given.items() if name not in {_RUN, _SOURCE}}
            name, source = str(given.get(_RUN, "")).strip(), str(given.get(_SOURCE, ""))
            if await visit.perform(shown.source, lambda: shown.actions.start(name, settings, source)):
                layer.delete()
                visit.choose_run(visit.stacks.index(shown), name)
            elif visit.outcome is not None:
                complaint.classes(replace="banner tone-bad").set_text(visit.outcome.text)

        with box("div", "actions"):
            button("Start the run", go, "main")
            button("Close", layer.delete)


def _layer() -> ui.element:
    """Return a new element outside the views, which are rebuilt while a dialog is open."""
    return ui.element("div").move(ui.context.client.content)


def _tasks(shown: ShownStack) -> set[str]:
    return set(shown.source.overview().fleet.by_task)


def _own_fields(shown: ShownStack) -> list[dict[str, Any]]:
    finished = [f"{line.name}/{line.round}" for line in shown.source.overview().runs if line.round]
    return [
        _as_property(_RUN, "Name of the run", Kind.TEXT, required=True, about="letters, digits and '-'"),
        _as_property(
            _SOURCE,
            "Continue from",
            Kind.TEXT,
            choices=finished,
            about="RUN/ROUND whose model is the first one; empty: the model uploaded under the run's name",
        ),
    ]


def _described(field: Field, tasks: list[str]) -> dict[str, Any]:
    choices = tasks if field.name == "task" else list(field.choices)
    made = _as_property(
        field.name, field.name, field.kind, required=field.required, choices=choices, about=field.help
    )
    return {**made, "value": field.default, "first": field.first}


def _as_property(  # noqa: PLR0913 - the parts of a field
    name: str,
    label: str,
    kind: Kind,
    *,
    required: bool = False,
    choices: list[str] | None = None,
    about: str = "",
) -> dict[str, Any]:
    return {
        "name": name,
        "label": label,
        "kind": kind.value,
        "required": required,
        "choices": choices or [],
        "help": about,
        "value": "",
        "first": True,
    }


def _take(given: dict[str, Any], event: GenericEventArguments) -> None:
    """Keep the values of the form; the browser may send anything."""
    values = brought(event)
    if isinstance(values, dict) and len(values) <= _MOST_FIELDS:
        given.clear()
        known = {*RunSettings.__struct_fields__, _RUN, _SOURCE}
        given.update(
            (name, value if isinstance(value, bool) else str(value)[:_LONGEST_VALUE])
            for name, value in values.items()
            if name in known
        )
