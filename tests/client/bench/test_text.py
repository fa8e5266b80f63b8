"""A benchmark's figures as lines."""

from typing import Any

from loba_tui.client.bench.text import row_line, share_lines, table_lines

TIMING = {"median": 0.5, "least": 0.45, "most": 0.55, "cpu_median": 0.4}
MEASURED = {
    "name": "as the recipe says",
    "changes": {},
    "outcome": "measured",
    "message": "",
    "seconds_per_step": TIMING,
    "samples_per_second": 8.0,
    "rows_per_second": 1234.0,
    "share_of_peak": 0.314,
    "operations_per_step": 22458,
    "syncs_per_step": 4,
    "compile_seconds": None,
    "start_rows": 1008,
    "start_seconds": 12.0,
    "memory": {"measured": 3 * 2**30, "estimated": 2**31, "needed": 2**32},
}
FASTER = {
    **MEASURED,
    "name": "train.compile: blocks",
    "changes": {"train.compile": "blocks"},
    "seconds_per_step": {**TIMING, "median": 0.25},
    "samples_per_second": 16.0,
    "operations_per_step": None,
    "memory": {"measured": None, "estimated": 2**31, "needed": 2**32},
    "compile_seconds": 41.0,
    "start_rows": 0,
}
FAILED = {
    **MEASURED,
    "name": "train.batch_size: 64",
    "changes": {"train.batch_size": 64},
    "outcome": "out_of_memory",
    "message": "CUDA out of memory\x1b[31m",
    "seconds_per_step": None,
}


def document(*rows: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "machine": {
            "device": "NVIDIA X",
            "device_type": "cuda",
            "memory": 2**34,
            "threads": 1,
            "loba": "0.1.0",
            "torch": "2.13.0",
            "driver": "570.1",
            "cuda": "12.8",
        },
        "recipe": {
            "method": "text_slider",
            "adapter": "lora",
            "rank": 4,
            "optimizer": "adamw",
            "batch_size": 2,
            "gradient_accumulation": 2,
        },
        "model": {
            "id": "stabilityai/stable-diffusion-xl-base-1.0",
            "family": "sdxl",
            "weights": "random",
            "parameters": 2_567_463_684,
            "dtype": "bfloat16",
            "resolution": 512,
        },
        "peak": {"flops_per_second": 4e14, "side": 8192, "dtype": "bfloat16"},
        "configurations": list(rows),
        "bare_loop": {
            "seconds_per_step": TIMING,
            "overhead": 1.0234,
            "clock": "wall",
            "side_by_side": True,
        },
        "seconds": 300.0,
        "notes": ["A note."],
        **changes,
    }


def test_the_table_has_a_line_for_each_measured_row() -> None:
    lines = list(table_lines(document(MEASURED, FASTER, FAILED)))
    (head,) = [line for line in lines if "samples/s" in line]
    assert " ".join(head.split()) == (
        "s/step samples/s rows/s of peak memory (plan) syncs ops start"
    )
    own, fast = [line.split() for line in lines if line.startswith(("A  ", "B  ")) and "±" in line]
    assert own[1:5] == ["0.5", "±10%", "8", "1,234"]
    assert own[5:] == ["31%", "3.0", "GiB", "(2.0", "GiB)", "4", "22,458", "12", "s"]
    assert fast[-6:] == ["-", "(2.0", "GiB)", "4", "-", "-"]
    assert "C  train.batch_size: 64 (out of memory: CUDA out of memory)" in lines
    assert len({len(line) for line in lines if "±" in line or line is head}) == 1


def test_the_last_lines_say_what_follows() -> None:
    text = "\n".join(table_lines(document(MEASURED, FASTER, FAILED)))
    assert "Most samples a second: train.compile: blocks, 2.00× as many." in text
    assert "train.compile: blocks: compiling took 41 s." in text
    assert "the trainer 1.023× that, in seconds, timed in turns." in text
    assert text.endswith("note: A note.")


def test_nothing_faster_is_said_too() -> None:
    slower = {**FASTER, "samples_per_second": 2.0}
    text = "\n".join(table_lines(document(MEASURED, slower, bare_loop=None)))
    assert "No alternative trains more samples a second than the recipe as it stands." in text
    assert "bare loop" not in text


def test_a_benchmark_that_measured_nothing_is_shown_all_the_same() -> None:
    lines = list(table_lines(document(FAILED, model={}, peak=None, bare_loop=None)))
    assert any("out of memory" in line for line in lines)


def test_the_shared_text_has_device_and_versions() -> None:
    first, second, *_, last = share_lines(document(MEASURED))
    assert first == last == "```"
    assert second == (
        "NVIDIA X, 16.0 GiB, LOBA-Trainer 0.1.0, torch 2.13.0, driver 570.1, CUDA 12.8"
    )


def test_a_row_is_one_clean_line() -> None:
    assert row_line(MEASURED) == "as the recipe says: 0.5 s a step, 8 samples/s"
    assert row_line(FAILED) == "train.batch_size: 64: out of memory: CUDA out of memory"
