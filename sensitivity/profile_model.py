"""Profiling from start to end: settings checked, model and texts loaded, costs measured, the profile written.

Knows nothing about terminals.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..common.errors import InputError
from ..common.files import require_writable
from ..common.progress import Progress, silent
from ..models.loading import LoadedModel, load_model
from ..quantization.methods import rounding_named
from .calibration.resume_cache import discard_resume_cache
from .calibration.text import load_text
from .domains import Domain, named_sources
from .extending import Extension, parse_share
from .profile import Profile, write_or_rescue_profile
from .profiling import ProfileSettings, build_profile

TextSources = str | Path | Sequence[str] | Mapping[str, str | Path]
_MINIMUM_BYTES = 1 << 20


@dataclass(frozen=True)
class ProfileJob:
    """What to profile on and how; everything that can be checked before the model is loaded was checked.

    Attributes:
        sources: name and source of every domain.
        settings: what is measured and how.
        relative_error: pricing sequences are added until uniform plans are predicted this well; None for no more.
        output: the profile to write; None to write none.
        extend: whether the profile at ``output`` is extended.
    """

    sources: Sequence[tuple[str, str]]
    settings: ProfileSettings
    relative_error: float | None = None
    output: Path | None = None
    extend: bool = False

    def run(
        self, loaded: LoadedModel, progress: Progress = silent, report: Callable[[str], None] | None = None
    ) -> Profile:
        """Measure the profile, and write it where there is an output.

        Interrupted work is resumed from a cache beside the output; without one the cache is temporary.

        Args:
            loaded: the model.
            progress: shows how far the work is.
            report: is told how the prediction error falls as sequences are added; None to tell nobody.

        Returns:
            The profile; its origin is None where no file was written.

        Raises:
            ScantlingError: the model, text or formats do not allow it, or the profile cannot be written.
        """
        if self.output is None:
            with tempfile.TemporaryDirectory(prefix="scantling-") as folder:
                return self._measured(loaded, Path(folder) / "profile.safetensors", progress, report)
        made = self._measured(loaded, self.output.absolute(), progress, report)
        written = write_or_rescue_profile(made, self.output)
        discard_resume_cache(self.output.absolute())
        return written

    def _measured(
        self, loaded: LoadedModel, output: Path, progress: Progress, report: Callable[[str], None] | None
    ) -> Profile:
        domains = [Domain(name, load_text(source, loaded)) for name, source in self.sources]
        extension = Extension(loaded, output, progress)
        if self.extend:
            old = Profile.load(output if self.output is None else self.output)
            extension.require_same_settings(old, self.settings)
            made = extension.by_sequences(old, domains, self.settings.num_pricing_sequences)
            made = extension.by_formats(made, self.settings.formats or made.record.formats)
        else:
            made = build_profile(loaded, domains, self.settings, output, progress)
        if self.relative_error is not None:
            made = extension.until(made, domains, self.relative_error, report or (lambda _message: None))
        return made


def profile_job(
    *,
    text: TextSources,
    formats: str | Sequence[str] | None,
    include: str | Sequence[str],
    sequences: int,
    pricing_sequences: int,
    length: int,
    rounding: str | None,
    imatrix: str | Path | None,
    estimator: str,
    label_draws: int,
    until: str | float | None,
    seed: int,
    output: str | Path | None,
    extend: bool,
) -> ProfileJob:
    """Check the arguments of ``profile``, before a model is loaded."""
    names = tuple(name.strip() for name in formats.split(",")) if isinstance(formats, str) else formats
    settings = ProfileSettings(
        formats=None if names is None else tuple(names),
        include=(include,) if isinstance(include, str) else tuple(include),
        num_rounding_sequences=sequences,
        num_pricing_sequences=pricing_sequences,
        sequence_length=length,
        estimator=estimator,
        rounding=rounding_named(rounding, names, None if imatrix is None else Path(imatrix)),
        seed=seed,
        num_label_draws=label_draws,
    )
    relative_error = parse_share(until) if isinstance(until, str) else until
    if output is not None:
        require_writable(Path(output), _MINIMUM_BYTES)
    elif extend:
        raise InputError("extend=True needs output=…, the profile to extend.")
    return ProfileJob(_sources(text), settings, relative_error, None if output is None else Path(output), extend)


def _sources(text: TextSources) -> list[tuple[str, str]]:
    """Give the name and the source of every domain."""
    if isinstance(text, str | Path):
        return named_sources([str(text)])
    if not text:
        raise InputError('no text was given. Give one such as text="pydoc".')
    if not isinstance(text, Mapping):
        return named_sources(list(text))
    return [(name, str(source)) for name, source in text.items()]


def profile(
    model: str | Path | LoadedModel,
    *,
    text: TextSources = "pydoc",
    formats: str | Sequence[str] | None = None,
    include: str | Sequence[str] = (),
    sequences: int = 16,
    pricing_sequences: int = 24,
    length: int = 512,
    rounding: str | None = None,
    imatrix: str | Path | None = None,
    estimator: str = "fisher",
    label_draws: int = 2,
    until: str | float | None = None,
    seed: int = 0,
    trust_remote_code: bool = False,
    output: str | Path | None = None,
    extend: bool = False,
    progress: Progress | None = None,
) -> Profile:
    """Measure what every format of every layer of a model costs.

    Args:
        model: a folder, a ``.gguf`` file, a name on the hub such as ``org/model``, or a model that is loaded already.
        text: the calibration text: ``pydoc`` (the manual that comes with Python), ``wikipedia``, ``sampled`` (written
            by the model), ``hub:NAME``, a UTF-8 file, a ``.jsonl`` file of conversations or a folder. Several domains
            are a mapping of name to source, or a list of ``NAME=SOURCE``.
        formats: names of the formats to offer; None for integers of 2 to 8 bits in groups of 64, and 16 bits.
        include: ``embedding`` or ``head``, where the program may decide them too.
        sequences: calibration sequences that formats are fitted to.
        pricing_sequences: further sequences of every domain, on which the loss increase is measured.
        length: tokens in each sequence.
        rounding: ``gptq`` (the default), ``rtn``, ``awq`` or ``awq+gptq``; for GGUF types ``ggml+gptq`` (the default
            there) or ``ggml``.
        imatrix: an importance matrix of llama.cpp in place of the calibration's own, for ``ggml``.
        estimator: ``fisher``, or another one of the module ``sensitivity.estimators.registry``.
        label_draws: labels sampled on every pricing sequence, for ``fisher``.
        until: add pricing sequences until uniform plans are predicted with this relative standard error, such as 0.05
            or ``"5%"``.
        seed: of sampled labels and probes.
        trust_remote_code: whether Python code that comes with the model may run.
        output: the profile to write. Interrupted work is resumed from a cache beside it; without an output the cache
            is temporary.
        extend: add formats, sequences and domains to the profile at ``output``.
        progress: shows how far the work is; None for silence.

    Returns:
        The profile, loss increases in nats per token; its ``origin`` is None where no output was given.

    Raises:
        ScantlingError: the settings make no sense, the model, text or formats do not allow the measurement, or the
            profile cannot be written.
    """
    job = profile_job(
        text=text,
        formats=formats,
        include=include,
        sequences=sequences,
        pricing_sequences=pricing_sequences,
        length=length,
        rounding=rounding,
        imatrix=imatrix,
        estimator=estimator,
        label_draws=label_draws,
        until=until,
        seed=seed,
        output=output,
        extend=extend,
    )
    loaded = model if isinstance(model, LoadedModel) else load_model(str(model), trust_remote_code=trust_remote_code)
    return job.run(loaded, silent if progress is None else progress)
