"""What people see on a terminal and logs do not, and what a shell completes."""

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import dripgate
from dripgate.store import Store

MODULES = str(Path(dripgate.__file__).parents[1])
ENVIRONMENT = os.environ | {"PYTHONPATH": MODULES, "TERM": "xterm", "COLUMNS": "120"}


def on_terminal(*arguments):
    """Exit code, and what a command writes on a standard error that is a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "dripgate", *map(str, arguments)],
        stdout=subprocess.DEVNULL, stderr=theirs, env=ENVIRONMENT,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # Linux's way to say that nobody has the other side any more
            break
        if not part:
            break
        shown += part
    os.close(ours)
    return process.wait(), shown.decode()


@pytest.fixture
def commands(loop, tmp_path):
    """Long work of several kinds; each with the name and the length of its bar."""
    gate, store = loop / "gate.onnx", tmp_path / "new.db"
    kept = shutil.copy(loop / "kept.db", tmp_path / "kept.db")
    labels = tmp_path / "labels.csv"
    with Store(kept, read_only=True) as opened:
        labels.write_text("id,label\n" + "".join(f"{one.id},3\n" for one in opened))
    return [
        (["run", gate, loop / "stream.zip", "--store", store], "deciding"),
        (["export", kept, "--out", tmp_path / "out"], "exporting"),
        (["inspect", kept, "--check"], "checking"),
        (["label", kept, labels], "labelling"),
        (["fit", loop / "labelled.zip", "--model", loop / "classifier.onnx",
          "--out", tmp_path / "g.onnx"], "scoring"),
        (["train", loop / "labelled.zip", "--steps", "3", "--out", tmp_path / "m.safetensors"],
         "training"),
        (["purge", kept, "--everything"], "deleting"),
    ]  # fmt: skip


def test_a_terminal_sees_how_far_long_work_is(commands):
    for command, label in commands:
        code, shown = on_terminal(*command)
        assert code == 0, shown
        assert f"\r{label}" in shown, shown
        assert "<" in shown and "/s]" in shown, shown  # time left, and a rate


def test_quiet_leaves_no_progress_and_a_log_none_ever(commands, dripgate, loop, tmp_path):
    command, _ = commands[0]
    code, shown = on_terminal(*command, "--quiet")
    assert (code, shown) == (0, "")
    again = tmp_path / "again.db"
    code, _, err = dripgate(*command[:-1], again)
    assert (code, err) == (0, "")
    fit = ["fit", loop / "labelled.zip", "--model", loop / "classifier.onnx", "--out",
           tmp_path / "g.onnx"]  # fmt: skip
    _, _, steps = dripgate(*fit)
    _, _, quiet = dripgate(*fit, "-q")
    assert "choosing the target" in steps and "\r" not in steps
    assert "choosing the target" not in quiet
    assert "samples in 10 classes" in quiet  # what was found in the data is always said
    assert re.search(r"train alone; the \d+ test samples are not used", quiet)


def test_quiet_does_not_hide_what_is_wrong(dripgate, loop, tmp_path):
    code, _, err = dripgate(
        "run", loop / "gate.onnx", loop / "stream.zip", "--store", tmp_path / "k.db", "-q",
        "--rate", "16000",
    )  # fmt: skip
    assert code == 0 and "not used here: --rate" in err


@pytest.mark.needs("bash")
def test_bash_completes_commands_options_and_files(dripgate, tmp_path):
    code, script, _ = dripgate("completion", "bash")
    assert code == 0
    (tmp_path / "completion").write_text(script)
    program = tmp_path / "dripgate"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m dripgate "$@"\n')
    program.chmod(0o755)
    ask = """
source ./completion; complete -p dripgate
for line in "dripgate pur" "dripgate purge --old" "dripgate fit ph" "dripgate completion f"; do
  COMPREPLY=(); COMP_WORDS=($line); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
  _dripgate_completion dripgate; echo "${COMPREPLY[@]}"
done
"""
    (tmp_path / "photos").mkdir()
    done = subprocess.run(
        ["bash", "--norc", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=ENVIRONMENT | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    first, *answers = done.stdout.splitlines()
    assert first == "complete -o nosort -F _dripgate_completion dripgate", done.stderr
    assert answers[0] == "purge" and answers[1] == "--older-than" and answers[3] == "fish"


@pytest.mark.parametrize(
    ("words", "answer"),
    [("dripgate fit ph", "file,ph"), ("dripgate run gate.onnx st", "file,st"),
     ("dripgate fit x --model mo", "file,mo"), ("dripgate export k.db --format web",
                                                "plain,webdataset")],
)  # fmt: skip
def test_what_may_be_a_path_is_completed_as_one(words, answer):
    done = subprocess.run(
        [sys.executable, "-m", "dripgate"], capture_output=True, text=True, check=False,
        env=ENVIRONMENT | {"_DRIPGATE_COMPLETE": "bash_complete", "COMP_WORDS": words,
                           "COMP_CWORD": str(len(words.split()) - 1)},
    )  # fmt: skip
    assert done.stdout.strip() == answer, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_get_a_script(dripgate, shell):
    code, out, _ = dripgate("completion", shell)
    assert code == 0 and "_DRIPGATE_COMPLETE" in out
