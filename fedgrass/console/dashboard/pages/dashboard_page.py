"""The page: its heading and navigation, the view that was chosen, and the push of changes to the browser."""

from collections.abc import Sequence
from pathlib import Path

from nicegui import ui
from nicegui.events import GenericEventArguments

from fedgrass import __version__
from fedgrass.console.dashboard.pages.alarms_view import AlarmsView
from fedgrass.console.dashboard.pages.answers_view import AnswersView
from fedgrass.console.dashboard.pages.devices_view import DevicesView
from fedgrass.console.dashboard.pages.elements import ThemeSwitch, assign, box, chosen, say, text, word
from fedgrass.console.dashboard.pages.models_view import ModelsView
from fedgrass.console.dashboard.pages.page_sources import ShownStack
from fedgrass.console.dashboard.pages.visit import View, Visit, now_in_milliseconds, plain

TITLE = "fedgrass"
_VIEWS: dict[str, tuple[str, type[AnswersView | DevicesView | ModelsView | AlarmsView]]] = {
    "overview": ("Overview", AnswersView),
    "devices": ("Devices", DevicesView),
    "models": ("Models", ModelsView),
    "alarms": ("Alarms", AlarmsView),
}
_TICK = 0.5  # seconds between looks for changes
_CLOCK_TICKS = 10  # ticks after which ages and waiting times are updated without a change
# A dashboard that was started again does not know the cookie of this page, and refuses its websocket: as soon
# as the page can be read, it is loaded again.
_RETURN = """<script>
(() => {
  let seconds = 0;
  setInterval(async () => {
    seconds = window.socket === undefined || window.socket.connected ? 0 : seconds + 1;
    if (seconds < 3) return;
    try {
      const answer = await fetch("/", { cache: "no-store" });
      if (answer.ok) location.reload();
    } catch (error) {
      seconds = 0;
    }
  }, 1000);
})();
</script>"""
_STYLE = (Path(__file__).parent / "dashboard.css").read_text(encoding="utf-8")


def add_page(stacks: Sequence[ShownStack], *, read_only: bool) -> None:
    """Add the page for these stacks to NiceGUI's application."""

    @ui.page("/", title=TITLE, language="en-US", dark=None)
    def dashboard() -> None:
        DashboardPage(stacks, read_only=read_only)


class DashboardPage:
    """The page of one browser. It is updated on the event loop, from data in memory.

    Args:
        stacks: that are shown.
        read_only: whether no action is offered.
    """

    def __init__(self, stacks: Sequence[ShownStack], *, read_only: bool) -> None:
        ui.add_css(_STYLE)
        ui.add_body_html(_RETURN)
        self._visit = Visit(stacks, self._show, self._update)
        self._versions: list[int] = []
        self._ticks = 0
        self._tabs = {}
        with box("div", "page"):
            with box("header", "top"):
                text("h1", "fedgrass")
                if len(stacks) > 1:
                    self._add_stack_choice(stacks)
                else:
                    text("span", plain(stacks[0].name, 128), "quiet")
                self._connection = word("", "quiet")
                if read_only:
                    word("read-only", "quiet")
                box("div", "grow")
                ThemeSwitch()
                text("span", __version__, "quiet")
            with box("nav", aria_label="Views"):
                for name, (label, _) in _VIEWS.items():
                    self._tabs[name] = tab = text("button", label)
                    assign(tab, type="button")
                    tab.on("click", lambda _, name=name: self._show(name), args=[])
            self._visit.outcome = text("p", "", "banner")
            assign(self._visit.outcome, role="status")
            self._main = box("div")  # within the main element that NiceGUI makes
        self._view: View
        self._show("overview")
        ui.timer(_TICK, self._tick)
        ui.context.client.on_connect(self._update)
        ui.context.client.on_delete(self._visit.close)

    def _add_stack_choice(self, stacks: Sequence[ShownStack]) -> None:
        with box("select", aria_label="Stack") as choice:
            for place, shown in enumerate(stacks):
                assign(text("option", plain(shown.name, 128)), value=str(place))
        self._choice = choice
        choice.on("change", self._choose_stack, js_handler="(event) => emit(event.target.value)")

    def _choose_stack(self, event: GenericEventArguments) -> None:
        place = chosen(event)
        if place.isdecimal():
            self._visit.choose_stack(int(place))
            self._show(self._name)

    def _show(self, name: str) -> None:
        """Build a view; the former one is removed."""
        self._name = name
        for each, tab in self._tabs.items():
            assign(tab, **{"aria-current": "page" if each == name else "false"})
        if len(self._visit.stacks) > 1:
            assign(self._choice, value=str(self._visit.place))
        self._main.clear()
        with self._main:
            self._view = _VIEWS[name][1](self._visit)
        self._update()

    def _tick(self) -> None:
        self._ticks += 1
        versions = [shown.source.version for shown in self._visit.stacks]
        if versions != self._versions or self._ticks % _CLOCK_TICKS == 0:
            self._versions = versions
            self._update()

    def _update(self) -> None:
        overview = self._visit.stack.source.overview()
        say(self._connection, "live" if overview.connected else "cloud gone")
        self._connection.classes(replace=f"word tone-{'good' if overview.connected else 'bad'}")
        alarms = sum(line.state == "alarm" for line in overview.alarms) + overview.dead_letter_count
        say(self._tabs["alarms"], f"Alarms ({alarms:,})" if alarms else "Alarms")
        with self._main:  # an event may come from an element that its own view has removed
            self._view.update(now_in_milliseconds())
