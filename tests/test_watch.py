"""How far a notebook is."""

import io

from nbformat.v4 import new_code_cell, new_notebook

from mimlab.watch import Cells, Tail


def test_the_tail_reads_whole_lines_and_follows_a_cut_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    assert tail.news() == ""
    path.write_text('{"step": 10, "steps": 100, "loss": 2.0}\n{"step": 20, "st')
    assert tail.news() == "step 10/100, loss 2"
    with open(path, "a") as file:
        file.write('eps": 100, "loss": null}\n')
    assert tail.news().startswith("step 20/100, 0:00:0")
    with open(path, "a") as file:
        file.write('{"step": 30, "steps": 100, "seconds_left": 3601.2}\n')
    assert tail.news() == "step 30/100, 1:00:01 left"
    path.write_text('{"step": 5, "steps": 100}\n')  # shorter than before: the run was resumed
    assert tail.news().startswith("step 5/100")


def test_progress_on_a_terminal_is_one_bar():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    node = new_notebook(cells=[new_code_cell(source) for source in ("x = 1", "x", "# note", "")])
    with Cells("train", node, None, stream) as bar:
        for cell in node.cells[:3]:
            bar.cell_starts(cell, 0)
            bar.cell_ends(cell, 0, None)
    assert "train: 3 of 3 cells" in stream.getvalue() and "\n" not in stream.getvalue().strip()


def test_time_left_says_who_else_is_at_work(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = Tail(path)
    path.write_text('{"step": 30, "steps": 100, "seconds_left": 5760, "others_cores": 1.6}\n')
    assert tail.news() == "step 30/100, 1:36:00 left (others use 1.6 cores)"
    with open(path, "a") as file:
        file.write('{"step": 40, "steps": 100, "seconds_left": 60, "others_cores": 0.1}\n')
    assert tail.news() == "step 40/100, 0:01:00 left"
