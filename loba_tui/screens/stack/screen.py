"""The stack editor: what a recipe chooses, as forms, with every change drawn at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.message import Message
from textual.timer import Timer
from textual.widget import Widget

from loba_tui.client.plans.client import Answer, PlanClient
from loba_tui.client.recipes import files as recipe_files
from loba_tui.client.recipes.files import RecipeFile
from loba_tui.core.errors import LobaError
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.screens.base import LobaScreen, asks
from loba_tui.screens.recipe.saving import choose_recipe, diff_rows, save
from loba_tui.screens.runs.starting import start_and_watch
from loba_tui.screens.stack.apply import apply_to_run
from loba_tui.screens.stack.fields import SLOTS, Field, Slot
from loba_tui.screens.stack.model import StackModel
from loba_tui.screens.stack.opening import first_file, opened
from loba_tui.screens.stack.plan_pane import PlanPane
from loba_tui.screens.stack.rows import (
    FORM_COLUMNS,
    SLOT_COLUMNS,
    detail_rows,
    field_row,
    field_rows,
    slot_row,
)
from loba_tui.widgets.dialogs import (
    Choice,
    ChoiceDialog,
    ConfirmDialog,
    Dialog,
    LineDialog,
    TextDialog,
)
from loba_tui.widgets.line import Lines
from loba_tui.widgets.table import MarkTable

_BESIDE_COLUMNS = 112
_IDLE_SECONDS = 300.0
"""After so long on other screens the planner, which holds some hundred MB, is ended."""


class StackScreen(LobaScreen):
    """Optimizer, schedulers, loss, adapter, method and training of one recipe."""

    BINDING_GROUP_TITLE = "Stack"
    HELP_TEXT = "A change is in the text at once and in the file after w; z takes it back."
    AUTO_FOCUS = "#slots"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("plus,equals_sign", "nudge(1)", "next value", id="stack.more"),
        Binding("minus", "nudge(-1)", "value before", id="stack.less"),
        Binding("0,backspace", "default", "default", id="stack.default"),
        Binding("z", "undo", "undo", id="stack.undo"),
        Binding("w,ctrl+s", "write", "write", id="stack.write"),
        Binding("f", "open", "open a recipe", id="stack.open"),
        Binding("L", "apply", "apply to a running run", id="stack.apply"),
        Binding("D", "diff", "what has changed", show=False, id="stack.diff"),
        Binding("n", "start", "start it", show=False, id="stack.start"),
        Binding("l,right", "focus_part('form')", "to the form", show=False, id="stack.form"),
        Binding("h,left", "focus_part('slots')", "to the parts", show=False, id="stack.slots"),
    ]

    @dataclass
    class Answered(Message):
        """The planner says what a recipe comes to."""

        answer: Answer

    def __init__(self) -> None:
        super().__init__()
        self._file: RecipeFile | None = None
        self._model: StackModel | None = None
        self._problem = ""
        self._slot: Slot = SLOTS[0]
        self._client: PlanClient | None = None
        self._idle: Timer | None = None

    def compose_body(self) -> Iterable[Widget]:
        with Horizontal(id="stack"):
            yield MarkTable(SLOT_COLUMNS, id="slots", can_mark=False, can_sort=False, is_list=True)
            with Vertical(id="edit"):
                yield MarkTable(FORM_COLUMNS, id="form", can_mark=False, can_sort=False)
                yield Lines(id="detail")
            yield PlanPane(id="plan")

    def on_mount(self) -> None:
        self._client = PlanClient(
            lambda answer: self.post_message(self.Answered(answer)),
            program=self.context.program,
            environ=self.context.environ,
        )
        self._show_wanted()

    def on_resize(self, event: events.Resize) -> None:
        """Put what it comes to below the form where there is no room beside it."""
        self.set_class(event.size.width < _BESIDE_COLUMNS, "-stacked")

    def on_unmount(self) -> None:
        if self._client is not None:
            self._client.close()

    def shown_again(self) -> None:
        if self._idle is not None:
            self._idle.stop()
            self._idle = None
        wanted = self.loba.recipe_to_edit
        if wanted is not None and wanted != self._file:
            self._show_wanted()
        elif self._client is not None and self._client.pid is None:
            self._ask()

    def on_screen_suspend(self, event: events.ScreenSuspend) -> None:
        if self._client is not None and not self.app.screen.is_modal:
            self._idle = self.set_timer(_IDLE_SECONDS, self._client.close)

    # What is shown

    def _show_wanted(self) -> None:
        wanted = self.loba.recipe_to_edit
        self.work(
            lambda: opened(wanted or first_file(self.context), self.context.plugins),
            self._show_recipe,
            group="open",
            exclusive=True,
        )

    def _show_recipe(self, opened: tuple[RecipeFile, StackModel | None, str]) -> None:
        self._file, self._model, self._problem = opened
        self.loba.recipe_to_edit = self._file
        self.query_one(PlanPane).begin()
        self.query_one("#form").display = self._model is not None
        self._show_state()
        self._ask()

    def _show_state(self) -> None:
        slots = self.query_one("#slots", MarkTable)
        if self._file is None:
            return
        changed = " *" if self._model is not None and self._model.is_changed else ""
        self.about(f"{self._file.label}{changed}", "warn" if changed else "")
        if self._model is None:
            slots.set_rows([])
            self.query_one("#detail", Lines).show([])
            hint = "Mend it on the Recipe screen, or press f for another one."
            self.query_one(PlanPane).complain(f"{self._problem}\n{hint}")
            return
        slots.set_rows([slot_row(slot, self._model) for slot in SLOTS])
        self._show_form()

    def _show_form(self) -> None:
        if self._model is None:
            return
        form = self.query_one("#form", MarkTable)
        form.set_rows([field_row(each) for each in self._model.fields(self._slot)])
        self._show_detail()
        self.query_one(PlanPane).want(self._slot.section)

    def _show_detail(self) -> None:
        field, lines = self._field(), self.query_one("#detail", Lines)
        lines.show(detail_rows(field, lines.size.width) if field is not None else [])

    def _field(self) -> Field | None:
        key = self.query_one("#form", MarkTable).cursor_key
        if self._model is None or key is None:
            return None
        if self.query_one("#slots", MarkTable).cursor_key != self._slot.id:
            return None  # keys came faster than the form of the part that was gone to
        return next((each for each in self._model.fields(self._slot) if each.key == key), None)

    def one_line(self) -> str:
        return f"stack of {self._file.label}" if self._file else "no recipe is open"

    def on_mark_table_moved(self, event: MarkTable.Moved) -> None:
        if event.table.id == "slots":
            self._slot = next((s for s in SLOTS if s.id == event.key), self._slot)
            self._show_form()
            self.query_one("#form", MarkTable).action_move_to(0)
        else:
            self._show_detail()

    def on_mark_table_chosen(self, event: MarkTable.Chosen) -> None:
        if event.table.id == "slots":
            self.action_focus_part("form")
        else:
            self.action_edit()

    def action_focus_part(self, part: str) -> None:
        if self._model is not None:
            self.query_one(f"#{part}").focus()

    # The planner

    def _ask(self) -> None:
        if self._model is not None and self._client is not None:
            pane = self.query_one(PlanPane)
            pane.ask(self._client.ask(dump_recipe(self._model.recipe)))

    def on_stack_screen_answered(self, message: Answered) -> None:
        if self.is_attached:
            self.query_one(PlanPane).take(message.answer)

    # Changes

    @asks
    async def action_edit(self) -> None:
        field, model = self._field(), self._model
        if field is None or model is None:
            return
        dialog: Dialog[str]
        if field.choices:
            kind = self._slot.kind if field.is_name else ""
            choices = [
                Choice(name, f"{name:22} {model.summary(kind, name)}" if kind else name)
                for name in field.choices
            ]
            dialog = ChoiceDialog(field.key, choices, at=field.written)
        else:
            rows, check = field_rows(field), partial(model.check, field)
            dialog = LineDialog(field.key, rows, value=field.written, check=check)
        typed = await self.ask(dialog)
        if typed is not None:
            self._change(partial(model.set, field, typed))

    def _change(self, change: Callable[[], list[str] | None]) -> None:
        """Change the recipe, and tell what else that did, or why it cannot be."""
        try:
            said = change()
        except LobaError as error:
            self.tell_error(error)
            return
        if said:
            self.tell("; ".join(said), "warn")
        self._changed()

    def _changed(self) -> None:
        self._show_state()
        self._ask()

    def action_nudge(self, by: int) -> None:
        field = self._field()
        if field is None or self._model is None:
            return
        typed = field.nudged(by)
        if typed is None:
            self.tell(f"{field.label} has no next value; enter lets you type one.")
        else:
            self._change(partial(self._model.set, field, typed))

    def action_default(self) -> None:
        field = self._field()
        if field is not None and self._model is not None:
            self._change(partial(self._model.unset, field))

    def action_undo(self) -> None:
        what = self._model.undo() if self._model is not None else None
        if what is None:
            self.tell("There is nothing to undo.")
            return
        self.tell(f"took back: {what}", "good")
        self._changed()

    @asks
    async def action_diff(self) -> None:
        if self._model is not None:
            rows = diff_rows(self._model.diff) or [["Nothing has changed."]]
            await self.ask(TextDialog("Not written yet", rows))

    @asks
    async def action_write(self) -> None:
        model, file = self._model, self._file
        if model is None or file is None:
            return
        if not model.is_changed:
            self.tell("Nothing has changed.")
            return
        written = await save(self, file, model.text, was=model.saved)
        if written is not None:
            model.saved = model.text
            self._file = self.loba.recipe_to_edit = written
            self._show_state()
            self.tell(f"wrote {written.path}", "good")

    # Other recipes, and runs

    @asks
    async def action_open(self) -> None:
        files = await self.in_thread(recipe_files.listing, Path.cwd(), self.context.ledger)
        file = await choose_recipe(self, "Open which recipe?", files)
        if file is None:
            return
        if self._model is not None and self._model.is_changed:
            rows = [["These changes are not written:"], [""]]
            rows += [[line] for line in self._model.diff]
            if not await self.ask(ConfirmDialog("Leave the changes?", rows, "leave")):
                return
        self.loba.recipe_to_edit = file
        self._show_wanted()

    @asks
    async def action_start(self) -> None:
        if self._file is None or self._model is None:
            return
        if self._model.is_changed:
            self.tell("Write the changes first, with w.", "warn")
        else:
            await start_and_watch(self, self._file.path)

    @asks
    async def action_apply(self) -> None:
        """Bring a running run to this recipe, as far as it can be changed while it goes on."""
        if self._model is not None:
            await apply_to_run(self, self._model)
