"""The dashboard's screens, and how one is added.

1. Make a folder `screens/NAME/` whose `screen.py` has a class that inherits `base.LobaScreen`, or
   `table_screen.TableScreen` where it is about one table. It has `compose_body()` (what stands
   between the top row and the key row), `one_line()` (all that a terminal below 60x15 shows), and
   `BINDINGS` whose every binding has a description and an id such as `cache.pin` (that is how users
   rebind it; help, palette and key row are made from them).
2. Add a line to `registry.SCREENS`, in the order of the keys; that is all: bar, key and palette
   know it then. What two screens show beyond text goes into `widgets/`.
3. Read files and do everything that may take longer than a frame by `self.work(...)`: it runs in a
   thread, brings the result back to the screen, and shows a LobaError as a message.
4. Text goes to the screen through `widgets.line.Lines`, `widgets.table.MarkTable` or the dialogs,
   which clean it and know no markup; what is drawn otherwise passes `widgets.line.plain`.
5. An action that asks is a coroutine under `@base.asks`: it plans with `await self.in_thread(...)`,
   asks with `await self.ask(...)`, and does, from top to bottom. What destroys or stops asks with
   `widgets.dialogs.ConfirmDialog`: the plan, then `y`.
"""
