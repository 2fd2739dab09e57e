"""Names of version 0.1: every old command, option and key is refused with its new name."""

import pytest

from helpers.command_line import run
from helpers.tiny_profiles import make_profile
from scantling import FileFormatError, InputError, Program
from scantling.commands.renamed import RENAMED_COMMANDS, RENAMED_OPTIONS


@pytest.mark.parametrize(("old", "new"), RENAMED_COMMANDS.items())
def test_an_old_command_names_the_new_one(old, new):
    with pytest.raises(InputError, match=f"scantling {old} is now {new}. Use that instead"):
        run(*old.split(), "--help")
    program, *words = new.split()
    if program == "scantling":
        assert run(*words, "--help").exit_code == 0


@pytest.mark.parametrize(("old", "new"), RENAMED_OPTIONS.items())
@pytest.mark.parametrize("spelled", ["{} 3", "{}=3"])
def test_an_old_option_names_the_new_one(old, new, spelled):
    with pytest.raises(InputError, match=f"{old} is now {new}"):
        run("solve", "p.safetensors", *spelled.format(old).split(), "-o", "plan.json")


@pytest.mark.parametrize(
    ("text", "place", "old", "new"),
    [
        ("limits: {average_bits: 4}\ndevice: a100-80gb\n", "2:1", "device", "hardware"),
        ("robust: {load_cases: worst}\n", "1:10", "load_cases", "domains"),
    ],
)
def test_an_old_key_of_a_constraint_file_names_the_new_one(tmp_path, text, place, old, new):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(FileFormatError, match=f"{place}: the key '{old}' is now '{new}'"):
        Program(make_profile()).read(path)
