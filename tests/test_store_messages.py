"""What the commands about stores refuse, how they say it, and whom they are quiet to."""

import json
import subprocess
import sys

import numpy as np
import pytest
from store_files import run

from dynlm._commands import _common
from dynlm._commands._export import Export
from dynlm._commands._import import Import
from dynlm._commands._revised import choices
from dynlm._io import BadArgument


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Each test has a folder of its own, with a few files of text."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text("The moor was dark.\n" * 20)
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "qa.jsonl").write_text(json.dumps({"prompt": "Why?", "response": "So."}) + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("export --model demo --out s", "No text is given. Use `--text FILES`"),
        ("export --model demo --out s --text a --prompts b", "Both `--text` and `--prompts`"),
        ("export --model demo --out s --text a --top-p .9", "`--top-p` is only for `--prompts`"),
        ("export --model demo --out s --text a --seed 0", "`--seed` is only for `--prompts`"),
        ("export --model demo --out s --prompts a --keep x", "`--keep` is only for `--text`"),
        ("export --model demo --out s --text a --stride 0", "`--stride` is 0. Use 1 or more."),
        ("export --model demo --out s --text a --shard-mb 0", "`--shard-mb` is 0"),
        ("export --model demo --out s --text a --shares .5 .1 .1", "`--shares`"),
        ("export --model demo --out s --text a --layers all 3", "`--layers` names all and more"),
        ("export --model demo --out s --text a --layers 0,all", "`--layers` names all and more"),
        ("export --model demo --out s --text a --layers ,", "`--layers` names nothing"),
        ("export --model demo --out s --text a --revisions a,,b", "names between the commas"),
        ("export --model demo --out s --text a --revision a --revisions b", "Name all in"),
        ("export --model demo --out s --text a --process 1", "`--coordinator`, `--processes`"),
        ("export --model demo --out s --prompts a --temperature -1", "`--temperature` is -1.0"),
        ("export --model demo --out s --prompts a --top-k 0", "use 1 or more, or leave it out."),
        (
            "export --model demo --out s --text a --coordinator x:1 --processes 2 --process 2",
            "`--process` is 2 and `--processes` is 2. Processes are counted from 0: use 0 to 1.",
        ),
        ("export --model demo --out s --text empty.txt", "`--text` holds no text"),
        ("export --model demo --out s --prompts empty.txt", "`--prompts` holds no text"),
        ("export --model demo --out s --text a --revisions x", "`--revisions` 'x' of the model"),
        ("export --model demo --out s --prompts a --max-new-tokens 999", "999 and the context"),
        ("export --model demo --out s --text book.txt --layers 99", "names layer 99"),
        ("export --model demo --out s --text book.txt --layers mid", "`--layers` names mid. Use"),
        ("export --model demo --out s --text book.txt --top 99999", "`--top` is 99999"),
        ("export --model demo --out s --text absent.txt", "absent.txt is not there"),
        ("export --model ./absent --out s --text book.txt", "There is no folder './absent'"),
        ("export --model demo --out s --text qa.jsonl", "no `--field` says which one is the text"),
        ("export --model demo --out . --text book.txt", "belongs to no store"),
        ("inspect absent", "absent holds no store"),
        ("import --out s", "No files are given"),
        ("import absent.csv --out s", "absent.csv is not there. Pass a file"),
        ("import book.txt --out s", "book.txt is of no kind"),
        ("fit absent --out s", "absent is not there. Pass a file, or the folder of a store"),
        ("fit book.txt --out s --power 1 --no-score", "`--power` is one of the scores"),
        ("import . --out s", ". is a folder. Pass the files in it."),
    ],
)
def test_a_wrong_argument_gets_a_sentence(here, capsys, arguments, sentence):
    assert run(*arguments.split(), *(["--quiet"] if arguments[:3] == "exp" else [])) == 2
    err = capsys.readouterr().err
    assert sentence in err and "Traceback" not in err and not (here / "s").exists()
    assert err.splitlines()[-1].startswith("dynlm: ") and err.rstrip().endswith(".")


def test_messages_have_the_names_that_were_typed(here):
    text = Export("demo", here, text=(here,), revisions="a")
    drawn, table = Export("demo", here, prompts=(here,)), Import((here,), here)
    for config, said, meant in (
        (text, "`stride` is 2.", "`--stride` is 2."),
        (text, "`batch_tokens` or `shard_bytes`", "`--batch-tokens` or `--shard-mb`"),
        (text, "`revision` x, `names` lacks", "`--revisions` x, `--revisions` lacks"),
        (drawn, "`revision` x, `documents` is", "`--revision` x, `--prompts` is"),
        (drawn, "`budget` is 0", "`--max-new-tokens` is 0"),
        (drawn, "above 1, or None. More", "above 1, or leave it out. More"),
        (drawn, "1 or more, or None for all.", "1 or more, or None for all."),
        (
            drawn,
            "`columns` `layers[0].rope` `open_store`",
            "`columns` `layers[0].rope` `open_store`",
        ),
        (table, "`columns`, `files`, `budget`", "`--columns`, `files`, `budget`"),
        (table, "`shard_bytes` is 1048576 there, 524288 here", "`--shard-mb` is 1 there, 0.5 here"),
    ):
        assert _common.as_typed(said, config) == meant


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [["inspect", "s"], ["inspect", "--help"], ["--version"]])
def test_a_reader_that_is_gone_ends_a_command_quietly(here, arguments):
    np.save(here / "a.npy", np.zeros((3, 4, 1)))
    assert run("import", "a.npy", "--out", "s", "--quiet") == 0
    command = [sys.executable, "-m", "dynlm.cli", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    assert said == b"" and process.returncode == 141


def test_help_names_all_commands_with_examples(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name in ("demo", "export", "inspect", "import"):
        assert f"  dynlm {name}" in out and f"• {name}" in out
    for name in ("export", "inspect", "import"):
        assert run(name, "--help") == 0
        assert f"  dynlm {name} " in capsys.readouterr().out


@pytest.mark.slow
def test_inspecting_loads_no_language_models(here):
    np.save(here / "a.npy", np.zeros((3, 4, 1)))
    assert run("import", "a.npy", "--out", "s", "--quiet") == 0
    text = (
        "import sys; from dynlm.cli import main; main(['inspect', 's', '--verify']); "
        "import jax._src.xla_bridge as bridge; assert not bridge._backends; "
        "assert not {'flax', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Every byte is as it was written" in done.stdout


def test_a_folder_is_named_by_its_last_part_where_no_other_is(here):
    for name in ("a/x", "b/x", "b/y"):
        (here / name).mkdir(parents=True)
        (here / name / "config.json").touch()
    named = [(one.name, one.model, one.revision) for one in choices("m", "a/x@,b/y@,r,o/m@,@")]
    assert named == [("x", "a/x", None), ("y", "b/y", None), ("r", "m", "r"), ("o/m@", "o/m", None),
                     ("@", "m", None)]  # fmt: skip
    assert [one.name for one in choices("m", "a/x@,b/x@,b/y@")] == ["a/x@", "b/x@", "y"]
    assert [one.name for one in choices("m", "a/x@,x")] == ["a/x@", "x"]
    with pytest.raises(BadArgument, match="Write a/x@ for that model"):
        choices("m", "r,a/x")
