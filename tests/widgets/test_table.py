"""The table with marks: cursor, marks, filter, order, and how little it repaints."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar

from dashboard import shown_keys
from textual.app import App, ComposeResult
from textual.geometry import Region
from textual.pilot import Pilot

from loba_tui.widgets.table import MarkTable
from loba_tui.widgets.table_rows import Cell, Column, Row

COLUMNS = (Column("name", "name", 0), Column("size", "size", 8, "right"))


def rows(count: int) -> list[Row]:
    return [Row(f"k{i}", (f"name {i}", Cell(str(i))), (f"name {i}", i)) for i in range(count)]


class TableApp(App[None]):
    CSS: ClassVar[str] = "MarkTable { height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield MarkTable(COLUMNS)


def with_table(
    story: Callable[[Pilot[None], MarkTable], Awaitable[None]], size: tuple[int, int] = (40, 12)
) -> None:
    async def main() -> None:
        async with TableApp().run_test(size=size) as pilot:
            await story(pilot, pilot.app.query_one(MarkTable))

    asyncio.run(main())


def lines(table: MarkTable) -> list[str]:
    return [table.render_line(y).text for y in range(table.size.height)]


def test_keys_move_the_cursor_and_scroll() -> None:
    async def story(pilot: Pilot[None], table: MarkTable) -> None:
        table.set_rows(rows(100))
        await pilot.press("j", "j", "k")
        assert table.cursor_key == "k1"
        await pilot.press("G")
        assert table.cursor_key == "k99"
        assert "name 99" in lines(table)[-1]
        await pilot.press("ctrl+u")
        assert table.cursor_key == "k94"
        await pilot.press("g")
        assert "name 0" in lines(table)[1]

    with_table(story)


def test_marks_are_what_an_action_is_about() -> None:
    async def story(pilot: Pilot[None], table: MarkTable) -> None:
        table.set_rows(rows(6))
        assert table.chosen == ["k0"]
        await pilot.press("space", "j", "j", "v")
        assert table.marked == ["k0", "k1", "k2", "k3"]
        assert lines(table)[1].startswith("●")
        await pilot.press("a")
        assert len(table.marked) == 6
        await pilot.press("a")
        assert table.marked == []
        await pilot.press("g", "space")
        table.set_rows(rows(6)[1:])
        assert table.marked == []

    with_table(story)


def test_cursor_and_marks_stay_with_their_rows() -> None:
    async def story(pilot: Pilot[None], table: MarkTable) -> None:
        table.set_rows(rows(10))
        await pilot.press("j", "j", "space", "k")
        table.set_rows([Row("new", ("newest", "0")), *rows(10)])
        assert table.cursor_key == "k2"
        assert table.marked == ["k2"]

    with_table(story)


def test_filter_and_order() -> None:
    async def story(pilot: Pilot[None], table: MarkTable) -> None:
        table.set_rows(rows(30))
        assert table.set_filter("name:1 size>10 !18") == ""
        assert shown_keys(table) == ["k11", "k12", "k13", "k14", "k15", "k16", "k17", "k19", "k21"]
        assert "did you mean size" in table.set_filter("sise>3")
        assert table.set_filter("") == ""
        await pilot.press("o", "o", "O")
        assert shown_keys(table)[:2] == ["k29", "k28"]
        assert "size▼" in lines(table)[0]

    with_table(story)


def test_only_changed_cells_are_repainted() -> None:
    async def story(pilot: Pilot[None], table: MarkTable) -> None:
        table.set_rows(rows(2000))
        await pilot.pause()
        painted: list[Region] = []
        table.refresh = lambda *regions, **_: painted.extend(regions) or table  # type: ignore
        table.set_rows(rows(2000))
        assert painted == []
        changed = rows(2000)
        changed[3] = Row("k3", ("name 3", Cell("33")), ("name 3", 33))
        changed[1500] = Row("k1500", ("name 1500", Cell("33")), ("name 1500", 33))
        table.set_rows(changed)
        assert painted == [Region(31, 4, 8, 1)]

    with_table(story)


def test_thousands_of_rows_are_quick() -> None:
    async def story(pilot: Pilot[None], table: MarkTable) -> None:
        begin = time.process_time()
        for _ in range(5):
            table.set_rows(rows(5000))
        # About 0.1 s in all; ten times that would be felt.
        assert time.process_time() - begin < 2.0

    with_table(story)


def test_hostile_cells_are_plain_text_of_the_right_width() -> None:
    async def story(pilot: Pilot[None], table: MarkTable) -> None:
        table.set_rows([Row("k", ("\x1b]0;x\x07\x1b[31m[/bold]\u202e漢字", "\x1b[2J5"))])
        line = table.render_line(1)
        assert "[/bold]漢字" in line.text
        assert "\x1b" not in line.text
        assert "\u202e" not in line.text
        assert line.cell_length == 40

    with_table(story)
