"""The library as its users call it: one program, one plan, and what follows from it."""

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest

import scantling as sc
from helpers.command_line import run
from helpers.tiny_profiles import choices, formats_of, holds, make_profile
from scantling.common.errors import OutOfRangeError
from scantling.hardware.decode_laws import operate
from scantling.hardware.specification import Hardware
from scantling.planning import solve as solving
from scantling.planning.plan import read_plan
from scantling.sensitivity.profile import write_profile
from scantling.sensitivity.profile_record import DomainRecord
from scantling.solver.milp.base import Status

UP = "model.layers.0.mlp.up_proj"


@pytest.fixture(scope="module")
def profile_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("library") / "p.safetensors"
    write_profile(make_profile(num_blocks=2, num_samples=8), path)
    return path


@pytest.fixture(scope="module")
def profile(profile_path):
    return sc.Profile.load(profile_path)


@pytest.fixture(scope="module")
def plan(profile):
    return sc.Program(profile).limit(memory="44 kB").tie(["*.q_proj", "*.up_proj"], per="block").solve(time_limit=20)


def without_seconds(plan):
    certificate = plan.certificate.model_copy(update={"solve_seconds": 0.0})
    limits = tuple(use.model_copy(update={"origin": ""}) for use in plan.limits)
    rules = tuple(replace(rule, origin="") for rule in plan.program.rules)
    program = replace(plan.program, rules=rules)
    update = {"certificate": certificate, "limits": limits, "program": program}
    return plan.model_copy(update=update).model_dump()


def test_a_plan_answers_for_itself(plan, profile):
    assert plan.status == "OPTIMAL"
    assert plan.loss_increase == plan.loss_increase_nats == profile.predict(plan.formats())[0]
    assert 0 <= plan.gap <= plan.certificate.objectives[0].resolution
    assert plan[UP].format == plan.formats()[UP]
    assert plan[UP].bits == plan["model.layers.0.self_attn.q_proj"].bits  # tied
    assert UP in plan
    assert "model.layers.9.mlp.up_proj" not in plan
    with pytest.raises(
        sc.InputError, match=r"no layer 'model.layers.9.mlp.up_proj'. The nearest: model.layers.1.mlp.up_proj"
    ):
        plan["model.layers.9.mlp.up_proj"]


def test_shadow_prices_are_by_unit_of_the_limit(profile):
    by_bits = sc.Program(profile).limit(average_bits=3.5).solve()
    use = by_bits.limits[0]
    assert use.price_per_step is not None
    assert by_bits.shadow_prices == {"average_bits": pytest.approx(use.price_per_step / use.step)}
    assert by_bits.shadow_prices["average_bits"] > 0
    looser = sc.Program(profile).limit(average_bits=4.5).solve()
    assert looser.loss_increase < by_bits.loss_increase


def test_limits_by_keyword_are_limits_by_name(profile):
    by_keyword = sc.Program(profile).limit(memory="60 kB", average_bits=5, loss_increase=0.5)
    by_name = (
        sc
        .Program(profile)
        .limit("memory", at_most="60 kB")
        .limit("average_bits", at_most=5)
        .limit("loss_increase", at_most=0.5)
    )
    assert by_keyword.instance() == by_name.instance()
    card = sc.Program(profile).hardware(a_card())
    assert card.limit(speed="5 tok/s").instance() == card.limit("speed", at_least="5 tok/s").instance()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda p: p.limit(), "limit what"),
        (lambda p: p.limit(at_most=3), "limit what"),
        (lambda p: p.limit("memory", average_bits=3), "not both"),
        (lambda p: p.limit(memry="60 kB"), "memry"),
        (lambda p: p.limit(memory="60 W"), "is not a unit of bytes"),
        (lambda p: p.limit(memory="44 kB").solve(solver="gurobi"), "'gurobi' is not a solver. Known: cpsat, highs"),
        (lambda p: p.limit(memory="44 kB").solve(time_limit=-1), "time limit must be .* got -1"),
        (lambda p: p.limit(memory="44 kB").solve(time_limit=float("nan")), "time limit must be .* got nan"),
        (lambda p: p.limit(memory="44 kB").solve(threads=0), "threads must be between 1 and 10,000, got 0"),
        (lambda p: p.limit(memory="44 kB").solve(seed=-1), "seed must be between 0 and .* got -1"),
        (lambda p: p.limit(memory="44 kB").solve(gap=-0.1), "gap must be between 0 and 1, got -0.1"),
        (lambda p: p.limit(memory="44 kB").solve(gap=float("nan")), "gap must be between 0 and 1, got nan"),
        (lambda p: p.limit(memory="44 kB").solve(predicted_only=True), "--predicted-only are for --safety-factor"),
        (lambda p: p.limit(memory="44 kB").solve(safety_file="s.json"), "--predicted-only are for --safety-factor"),
        (lambda p: p.safety(1.5).solve(predicted_only=True), "takes what the model bears from a safety file"),
        (lambda p: p.solve(), "no budget was given"),
    ],
)
def test_calls_that_make_no_sense_are_refused(profile, call, match):
    with pytest.raises(sc.ScantlingError, match=match):
        call(sc.Program(profile))


def test_a_limit_above_every_plan_is_out_of_range(profile):
    with pytest.raises(OutOfRangeError, match="above the largest plan"):
        sc.Program(profile).limit(memory="1 GB").solve()


def test_no_plan_carries_its_conflict_and_what_mends_it(profile):
    program = sc.Program(profile).limit(memory="38 kB").min_bits("*.mlp.*", 8, name="fine")
    with pytest.raises(sc.InfeasibleError) as caught:
        program.solve()
    error = caught.value
    assert error.explanation is not None
    assert [line.split()[0] for line in error.conflict] == ["memory", "fine"]
    (relaxed,) = [rule for rule in error.explanation.conflict if rule.needed is not None]
    assert error.mends == (
        f"memory: {relaxed.needed} (the least change, proven); {relaxed.span}",
        "without one of the rules that conflict",
    )
    assert relaxed.needed_steps is not None
    needed_bytes = int(relaxed.needed_steps)
    mended = program.constraints[1:]
    enough = replace(program, constraints=mended).limit(memory=f"{needed_bytes} B")
    assert enough.solve().status == "OPTIMAL"
    with pytest.raises(sc.InfeasibleError):
        replace(program, constraints=mended).limit(memory=f"{needed_bytes - 1} B").solve()


def test_no_plan_in_time_is_a_timeout(monkeypatch, profile):
    original = solving.solve_instance

    def out_of_time(*arguments):
        return replace(original(*arguments), status=Status.UNKNOWN, choice=None)

    monkeypatch.setattr(solving, "solve_instance", out_of_time)
    with pytest.raises(sc.SolverTimeout, match="time limit ended the search"):
        sc.Program(profile).limit(memory="44 kB").solve()


def test_a_plan_is_saved_loaded_and_verified(plan, tmp_path, profile_path):
    plan.save(tmp_path / "plan.json")
    loaded = sc.Plan.load(tmp_path / "plan.json")
    assert loaded == plan
    assert loaded.verify().faults == []
    assert loaded.profile.record == plan.profile.record
    moved = tmp_path / "moved"
    moved.mkdir()
    gone = plan.model_copy(update={"profile_path": "elsewhere/p.safetensors"})
    gone.save(moved / "plan.json")
    assert sc.Plan.load(moved / "plan.json").verify().faults != []
    with pytest.raises(sc.InputError, match=r"profile elsewhere/p\.safetensors is not there"):
        sc.Plan.load(moved / "plan.json").diagnose()
    (moved / "p.safetensors").write_bytes(profile_path.read_bytes())
    assert sc.Plan.load(moved / "plan.json").verify().faults == []  # beside the plan
    assert sc.Plan.load(moved / "plan.json").diagnose() == plan.diagnose()
    with pytest.raises(sc.ScantlingError, match="there is no plan"):
        sc.Plan.load(tmp_path / "none.json")


def test_a_plan_remembers_a_profile_that_was_never_saved(tmp_path):
    plan = sc.Program(make_profile(num_samples=8)).limit(memory="44 kB").solve()
    assert plan.diagnose().naive is not None
    plan.save(tmp_path / "plan.json")
    with pytest.raises(sc.InputError, match="was never saved"):
        sc.Plan.load(tmp_path / "plan.json").diagnose()
    with pytest.raises(sc.InputError, match="layers or bytes differ"):
        plan.diagnose(make_profile(num_blocks=1))


def test_the_diagnosis_of_the_command_is_that_of_the_library(profile_path, profile, tmp_path):
    words = ["solve", profile_path, "--average-bits", "3.5", "-o", tmp_path / "plan.json", "--json"]
    told = json.loads(run(*words).output)
    plan = sc.Program(profile).limit(average_bits=3.5).solve()
    diagnosis = plan.diagnose()
    assert told["diagnosis"] == json.loads(diagnosis.model_dump_json())
    assert diagnosis.cross_fit is not None
    assert diagnosis.cross_fit.num_folds == 4
    assert diagnosis.naive is not None
    assert diagnosis.naive.saved_nats == pytest.approx(diagnosis.naive.loss_increase_nats - plan.loss_increase)
    assert diagnosis.naive.stored_bytes <= plan.stored_bytes
    brief = plan.diagnose(cross_fit=False, engine_cost=False)
    assert (brief.cross_fit, brief.cross_fit_left_out, brief.engine_cost) == (None, None, None)


def test_a_plan_over_two_domains_is_cross_fitted():
    profile = make_profile(num_samples=16)
    domains = tuple(DomainRecord(name=name, text_source="words", text_sha256="0" * 64) for name in "ab")
    update = {"domains": domains, "domain_of_sequence": (0,) * 8 + (1,) * 8}
    profile = replace(profile, record=profile.record.model_copy(update=update))
    priced = sc.Program(profile).robust(domains="worst").limit(average_bits=3.5).solve().diagnose().cross_fit
    assert priced is not None
    assert priced.num_folds == 4
    assert priced.unseen_nats > 0


def test_an_engines_cost_is_part_of_the_diagnosis(tmp_path):
    formats = ("int4-g64-sym", "int8-g128-sym", "float16")
    block = {"self_attn.q_proj": (128, 128), "self_attn.v_proj": (64, 128), "mlp.down_proj": (64, 256)}
    write_profile(make_profile(1, formats, block, known=formats), tmp_path / "p.safetensors")
    words = ["--average-bits", "6.5", "--engine", "vllm", "-o", tmp_path / "plan.json", "--json"]
    told = json.loads(run("solve", tmp_path / "p.safetensors", *words).output)["diagnosis"]
    assert told["engine_cost"]["engine"] == "vllm"
    assert told["cross_fit"] is None
    assert "too few" in told["cross_fit_left_out"]


def a_card():
    return Hardware.model_validate({
        "name": "card",
        "bandwidth": "1 GB/s",
        "efficiency": [{"formats": "int2*", "share": 0.3}, {"formats": "*", "share": 0.8}],
        "overhead": "20 us",
        "base_power": "20 W",
        "traffic_power": "30 W",
    })


def test_least_power_at_full_speed_is_found_from_python_as_by_the_command(profile, profile_path, tmp_path):
    card = tmp_path / "card.yaml"
    card.write_text(json.dumps(a_card().model_dump(mode="json", exclude_none=True)))
    program = sc.Program(profile).hardware(str(card)).limit(loss_increase=0.05).minimize("power")
    plan = program.solve()
    words = ["--hardware", card, "--max-loss", "0.05", "--minimize", "power", "--no-cross-fit"]
    assert run("solve", profile_path, *words, "-o", tmp_path / "plan.json").exit_code == 0
    assert without_seconds(read_plan(tmp_path / "plan.json")) == without_seconds(plan)

    assert program.on_hardware is not None
    instance = plan.program
    allowed = [c for c in choices(instance) if all(holds(instance, rule, c) for rule in instance.rules)]
    drawn = [operate(program.rows.read_bytes(formats_of(instance, c)), program.on_hardware).watts for c in allowed]
    assert operate(program.rows.read_bytes(plan.formats()), program.on_hardware).watts == pytest.approx(min(drawn))


def test_every_flag_has_its_method(profile, profile_path, tmp_path):
    earlier = sc.Program(profile).limit(average_bits=3.5).solve()
    earlier.save(tmp_path / "earlier.json")
    words = ["--memory", "60kB", "--checkpoint-size", "60kB", "--average-bits", "5", "--max-loss", "1"]
    words += ["--context", "64", "--batch", "1", "--kv-bits", "8", "--robust", "1", "--domains", "worst"]
    words += ["--pin-from", f"{tmp_path}/earlier.json:*.v_proj", "--minimize", "loss_increase", "--minimize", "memory"]
    words += ["--solver", "highs", "--seed", "1", "--save-program", tmp_path / "program.json", "--no-cross-fit"]
    assert run("solve", profile_path, *words, "-o", tmp_path / "plan.json").exit_code == 0
    plan = (
        sc
        .Program(profile)
        .workload(context=64, batch=1, kv_bits=8.0)
        .limit(memory="60kB", stored_bytes="60kB", average_bits="5", loss_increase="1")
        .pin_from(tmp_path / "earlier.json", "*.v_proj")
        .minimize("loss_increase", "memory")
        .robust(1, "worst")
        .solve(solver="highs", seed=1, save_program=tmp_path / "from_python.json")
    )
    assert without_seconds(read_plan(tmp_path / "plan.json"))["assignments"] == without_seconds(plan)["assignments"]
    assert [use.used for use in read_plan(tmp_path / "plan.json").limits] == [use.used for use in plan.limits]
    assert (tmp_path / "from_python.json").is_file()


def test_a_program_minimises_full_speed_power_only_from_an_instance_that_says_so(profile):
    program = sc.Program(profile).hardware(a_card()).minimize("power")
    assert program.instance(full_speed_watts=Fraction(30)).minimise == ("power at full speed over 30 W",)


def test_the_public_names_are_listed_and_importable():
    assert len(sc.__all__) <= 16
    assert dir(sc) == sorted(sc.__all__)
    for name in sc.__all__:
        assert getattr(sc, name) is not None
    assert issubclass(sc.FileFormatError, sc.InputError)
    assert issubclass(sc.InfeasibleError, sc.ScantlingError)
    with pytest.raises(AttributeError, match="no attribute 'solve'"):
        _ = sc.solve


def test_importing_costs_nothing_and_solving_loads_no_torch(profile_path):
    code = (
        "import sys, scantling as sc\n"
        "assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules), 'import'\n"
        f"plan = sc.Program(sc.Profile.load({str(profile_path)!r})).limit(memory='44 kB').solve()\n"
        "plan.diagnose(), plan.verify()\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'solve'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_keyword_of_solve_is_refused(profile):
    with pytest.raises(TypeError, match="unexpected keyword argument 'time_limt'"):
        sc.Program(profile).limit(average_bits=3.5).solve(time_limt=1)  # pyright: ignore[reportCallIssue]


@pytest.mark.parametrize("threads", [0, -3, 1_000_000])
def test_threads_that_no_solver_takes_are_refused(profile, threads):
    with pytest.raises(sc.InputError, match="threads must be between 1 and 10,000, got"):
        sc.Program(profile).limit(average_bits=3.5).solve(threads=threads)


def test_a_plan_does_not_replace_its_profile(profile_path):
    before = profile_path.read_bytes()
    with pytest.raises(sc.ScantlingError, match="is the file to be read"):
        run("solve", profile_path, "--average-bits", "3.5", "-o", profile_path)
    assert profile_path.read_bytes() == before
