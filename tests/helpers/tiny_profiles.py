"""Profiles of models that do not exist, made directly, and a judge of choices that knows their formulas."""

import itertools
from dataclasses import replace

import numpy as np

from scantling.quantization.formats import parse_format
from scantling.sensitivity.profile import Profile
from scantling.sensitivity.profile_record import LayerRecord, ProfileRecord
from scantling.solver.instance import Instance
from scantling.solver.rules import Allow, Distinct, Limit, LossLimit, Order, Tie

FORMATS = ("int2-g32", "int4-g32", "int8-row", "float16")
KINDS = {"self_attn.q_proj": (64, 64), "self_attn.v_proj": (32, 64), "mlp.up_proj": (128, 64)}
CONFIG = {"num_hidden_layers": 2, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}


def layer(name, kind, block, shape, formats, known=FORMATS, **more):
    return LayerRecord(
        name=name,
        kind=kind,
        block=block,
        out_features=shape[0],
        in_features=shape[1],
        formats=tuple(known.index(f) for f in formats),
        stored_bytes=tuple(parse_format(f).stored_bytes(*shape) for f in formats),
        **more,
    )


def make_profile(
    num_blocks=2, formats=FORMATS[:3], kinds=KINDS, known=FORMATS, ends=True, num_samples=4, config=CONFIG, seed=0
):
    layers = [
        layer(f"model.layers.{block}.{kind}", kind, block, shape, formats, known)
        for block in range(num_blocks)
        for kind, shape in kinds.items()
    ]
    if ends:
        layers.append(layer("model.embed_tokens", "embedding", None, (96, 64), ["float16"], known))
        layers.append(layer("lm_head", "head", None, (96, 64), ["float16"], known))
    return profile_of(layers, known, num_samples, config, seed)


def profile_of(layers, known=FORMATS, num_samples=4, config=CONFIG, seed=0):
    generator = np.random.default_rng(seed)
    samples = np.full((len(layers), len(known), num_samples), np.nan)
    for index, record in enumerate(layers):
        for target in record.formats:
            scale = 4.0 ** -parse_format(known[target]).bits
            samples[index, target] = 0 if len(record.formats) == 1 else generator.lognormal(0, 1, num_samples) * scale
    record = ProfileRecord(
        scantling_version="0",
        model_source="nowhere",
        model_sha256="0" * 64,
        text_source="words",
        text_sha256="0" * 64,
        sequence_length=8,
        seed=seed,
        estimator="fisher",
        rounding={"method": "rtn"},
        calibration_perplexity=10.0,
        formats=known,
        layers=tuple(layers),
        other_bytes=1000,
        config=config,
    )
    ids = np.zeros((1, 8), dtype=np.int64)
    return Profile(record, samples, ids, ids)


def without_config(profile):
    return replace(profile, record=profile.record.model_copy(update={"config": None}))


def choices(instance: Instance):
    return itertools.product(*(range(len(unit.formats)) for unit in instance.units))


def formats_of(instance: Instance, choice):
    return {unit.name: unit.formats[index] for unit, index in zip(instance.units, choice, strict=True)}


def holds(instance: Instance, rule, choice) -> bool:
    """A rule's formula, read again."""
    units = instance.units
    names = [unit.formats[index] for unit, index in zip(units, choice, strict=True)]
    match rule:
        case Limit():
            row = instance.rows[[row.name for row in instance.rows].index(rule.row)]
            over = range(len(units)) if rule.units is None else rule.units
            total = sum(row.amounts[u][choice[u]] for u in over) + (row.fixed if rule.units is None else 0)
            return (rule.at_most is None or total <= rule.at_most) and (rule.at_least is None or total >= rule.at_least)
        case LossLimit():
            return instance.loss_increase_nats(choice) <= rule.at_most_nats
        case Allow():
            return all(choice[unit] in allowed for unit, allowed in rule.allowed)
        case Tie():
            return all(len({names[u] for u in group}) == 1 for group in rule.groups)
        case Order():
            return all(units[u].bits[choice[u]] >= units[v].bits[choice[v]] for u, v in rule.pairs)
        case Distinct():
            return len({names[u] for u in rule.units}) <= rule.at_most_formats
    raise AssertionError(rule)


def limit_named(instance: Instance, name: str) -> Limit:
    """The limit of a name."""
    return next(rule for rule in instance.rules if isinstance(rule, Limit) and rule.name == name)


def feasible(instance: Instance):
    return {choice for choice in choices(instance) if all(holds(instance, rule, choice) for rule in instance.rules)}
