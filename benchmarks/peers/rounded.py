"""The layers of the demo model as our GPTQ rounds them: once for each format that any allocation asks for.

Every layer is rounded against its inputs in the original model, as PROFILE says, so that a layer in a format has one
rounding whoever asked for it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from scantling.common.files import whole_file
from scantling.common.progress import silent
from scantling.models.layers import matrix_of
from scantling.models.loading import LoadedModel
from scantling.quantization.formats import FloatFormat, IntegerFormat, parse_format
from scantling.quantization.grid import Rounded, RoundedMatrix, cast
from scantling.sensitivity.profile import Profile
from scantling.sensitivity.round_model import round_as_profiled

PARTS = ("codes", "scales", "zeros")


def kept(folder: Path, layer: str, target: IntegerFormat) -> RoundedMatrix | None:
    """Read a rounded layer.

    Args:
        folder: has what was rounded.
        layer: its name.
        target: its format.

    Returns:
        The layer; None where it was not rounded yet.
    """
    path = folder / f"{layer}.{target.name}.safetensors"
    return RoundedMatrix(target, **load_file(path)) if path.is_file() else None


def keep(folder: Path, layer: str, rounded: RoundedMatrix) -> None:
    """Write a rounded layer.

    Args:
        folder: for what was rounded.
        layer: its name.
        rounded: its codes and scales.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with whole_file(folder / f"{layer}.{rounded.format.name}.safetensors") as partial:
        save_file({part: getattr(rounded, part) for part in PARTS}, partial)


def rounded_layers(
    loaded: LoadedModel, profile: Profile, assignments: Sequence[Mapping[str, str]], folder: Path
) -> list[dict[str, Rounded]]:
    """Round what assignments ask for and is not there.

    Args:
        loaded: the model.
        profile: says how layers are rounded.
        assignments: the format of every layer.
        folder: for what was rounded.

    Returns:
        For every assignment the record of every layer.
    """
    wanted = {name: sorted({formats[name] for formats in assignments}) for name in profile.layer_index}
    found: dict[tuple[str, str], Rounded] = {}
    missing = {}
    for name, formats in wanted.items():
        for target in map(parse_format, formats):
            if not isinstance(target, IntegerFormat):
                assert isinstance(target, FloatFormat), target
                found[name, target.name] = cast(matrix_of(loaded.model.get_submodule(name)), target)
            elif (record := kept(folder, name, target)) is not None:
                found[name, target.name] = record
            else:
                missing.setdefault(name, []).append(target)
    if missing:
        asked = {name: missing.get(name, [parse_format("float16")]) for name in wanted}
        for name, records in round_as_profiled(loaded, profile, asked, silent).items():
            for target, record in records.items():
                if isinstance(record, RoundedMatrix):
                    keep(folder, name, record)
                found[name, target.name] = record
    return [{name: found[name, target] for name, target in formats.items()} for formats in assignments]
