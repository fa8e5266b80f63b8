"""The dashboard's screens, and how one is added.

1. Write `screens/NAME.py` with a class that inherits `screens.base.LobaScreen`. It has
   `compose_body()` (what stands between the top row and the key row), `one_line()` (all that a
   terminal below 60x15 shows), `BINDINGS` whose every binding has a description and an id such as
   `cache.pin` (that is how users rebind it; help, palette and key row are made from them), and,
   where it can be filtered, `filter_changed()` and the binding `base.FILTER`.
2. Add a line to `registry.SCREENS`, in the order of the keys; that is all: bar, key and palette
   know it then. What a screen shows beyond text goes into `widgets/`.
3. Read files and do everything that may take longer than a frame by `self.work(...)`: it runs in a
   thread, brings the result back to the screen, and shows a LobaError as a message.
4. Text goes to the screen through `widgets.line.Lines`, `widgets.table.MarkTable` or the dialogs,
   which clean it and know no markup; what is drawn otherwise passes `widgets.line.plain`.
5. What destroys or stops asks with `widgets.dialogs.ConfirmDialog`: the plan, then `y`.
6. Name the module in the import contracts of pyproject.toml: the terminal never loads torch.
"""
