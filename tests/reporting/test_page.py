"""The page of a plan: whole, harmless, true to its files; and its pictures and tables."""

import csv
import json
import re
from html.parser import HTMLParser
from typing import get_args
from xml.etree import ElementTree

import pytest

from helpers.command_line import run
from helpers.reported import comparison_of, safety_of
from helpers.tiny_profiles import FORMATS, layer, make_profile, profile_of
from scantling.common.errors import ScantlingError
from scantling.common.progress import silent
from scantling.evaluation.comparison import write_comparison
from scantling.evaluation.safety.record import SafetyFile, write_safety
from scantling.hardware.resources import STORED_BYTES
from scantling.planning.plan import read_plan
from scantling.planning.plan_frontiers import frontiers_of
from scantling.reporting.page.heat_map import heat_map
from scantling.reporting.page.page import environment, page
from scantling.reporting.page.parts import Card, Cards, Figure, Missing, Paragraph, Part, Section, Table, columns
from scantling.reporting.page.svg import Chart, Scale, spanning, text
from scantling.sensitivity.profile import read_profile, uniform_formats, write_profile
from scantling.solver.milp.base import SolverSettings
from scantling.solver.milp.cpsat import CpSatSolver

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = "</title><script>alert('x')</script>\"'&"
VOID = {"meta", "link", "br", "img"}


def solved(folder, profile, *words):
    write_profile(profile, folder / "profile.safetensors")
    path = folder / "plan.json"
    assert run("solve", folder / "profile.safetensors", *words, "-o", path).exit_code == 0
    return path


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reported")
    plan_path = solved(folder, make_profile(num_blocks=4, num_samples=6), "--average-bits", "3.7")
    plan, profile = read_plan(plan_path), read_profile(folder / "profile.safetensors")
    write_comparison(comparison_of(plan, profile), folder / "comparison.json")
    write_safety(safety_of(plan), folder / "safety.json")
    return folder


class Balanced(HTMLParser):
    """Collects what a page loads, and complains of tags that do not close."""

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.scripts, self.words = [], [], 0, []

    def handle_starttag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in {"src", "href", "srcset", "data"}]
        assert not [name for name, _ in attrs if name.startswith("on")]
        self.scripts += tag == "script"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.loads += [value for name, value in attrs if name in {"src", "href"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def parsed(path):
    page = Balanced()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


def value(element, attribute):
    found = element.get(attribute)
    assert found is not None
    return found


def words_of(element, tag):
    found = element.find(f"{SVG}{tag}")
    assert found is not None
    return "".join(found.itertext())


def pictures(path):
    found = re.findall(r"<svg .*?</svg>", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    return {value(root, "class").split()[1]: root for root in map(ElementTree.fromstring, found)}


@pytest.fixture(scope="session")
def whole_page(folder):
    path = folder / "whole.html"
    words = [
        "--comparison",
        folder / "comparison.json",
        "--safety",
        folder / "safety.json",
        "--figures",
        folder / "figs",
    ]
    run("report", folder / "plan.json", "-o", path, *words)
    return path


def test_a_page_without_measurements_says_what_makes_them(folder, tmp_path):
    page = tmp_path / "page.html"
    run("report", folder / "plan.json", "-o", page, "--points", "0")
    words = " ".join(parsed(page).words)
    for command in ("scantling compare PLAN -o", "scantling safety PLAN -o", "report PLAN --points"):
        assert command in words
    assert list(pictures(page)) == ["allocation"]
    watts = tmp_path / "watts.html"
    run("report", folder / "plan.json", "-o", watts, "--points", "3")
    assert "knows no watts" in watts.read_text()


def test_the_whole_page_loads_nothing_and_has_every_section(whole_page):
    page = parsed(whole_page)
    assert all(link.startswith("#") for link in page.loads)
    assert {link[1:] for link in page.loads} == set(re.findall(r'<section id="([\w-]+)"', whole_page.read_text()))
    assert "url(" not in whole_page.read_text()
    assert "@import" not in whole_page.read_text()
    assert page.scripts == 1
    names = ["allocation", "frontier-bytes", "predicted-measured", "load-deflection-1"]
    assert list(pictures(whole_page)) == names
    words = " ".join(page.words)
    for said in (
        "The plan is better than uniform int4-g32",
        "PASS: plan.json: factor of safety 4.50, lower bound 3.60",
        "passes",
    ):
        assert said in words
    assert "prefers-color-scheme:dark" in whole_page.read_text()


def test_a_safety_file_that_does_not_cover_the_plan_lends_it_no_factor(folder, tmp_path):
    safety = safety_of(read_plan(folder / "plan.json"))
    write_safety(safety.model_copy(update={"plans": safety.plans[:1]}), tmp_path / "safety.json")
    run("report", folder / "plan.json", "-o", tmp_path / "p", "--safety", tmp_path / "safety.json", "--points", "0")
    summary = re.search(r'<section id="summary".*?</section>', (tmp_path / "p").read_text(), re.DOTALL)
    assert summary is not None
    assert "does not cover this plan" in summary[0]
    assert "factor of safety" not in summary[0]


def test_the_same_files_give_the_same_page(folder, whole_page, tmp_path):
    words = ["--comparison", folder / "comparison.json", "--safety", folder / "safety.json"]
    run("report", folder / "plan.json", "-o", tmp_path / "again.html", *words)
    assert (tmp_path / "again.html").read_bytes() == whole_page.read_bytes()


def test_every_layer_is_in_the_heat_map_with_its_width(folder):
    plan = read_plan(folder / "plan.json")
    root = ElementTree.fromstring(heat_map(plan).standalone())
    cells = {}
    for group in root.iter(f"{SVG}g"):
        if group.get("tabindex") is not None:
            cells[words_of(group, "title").partition(":")[0]] = (words_of(group, "text"), group)
    inside = [one for one in plan.assignments if one.block is not None]
    assert {name: digit for name, (digit, _) in cells.items()} == {one.layer: str(one.bits) for one in inside}
    fills = {one.bits: cells[one.layer][1].find(f"{SVG}rect").get("fill") for one in inside}
    assert len(set(fills.values())) == len(fills) > 1
    for one in inside:
        assert f"{one.format}; {one.stored_bytes:,} bytes" in words_of(cells[one.layer][1], "title")


def test_experts_share_a_row(tmp_path):
    layers = [
        layer(f"m.{block}.experts.{expert}.up", f"experts.{expert}.up", block, (32, 64), FORMATS[:3])
        for block in range(3)
        for expert in range(16)
    ]
    plan = read_plan(solved(tmp_path, profile_of(layers), "--average-bits", "3.4", "--no-cross-fit"))
    root = ElementTree.fromstring(heat_map(plan).standalone())
    cells = [group for group in root.iter(f"{SVG}g") if group.get("tabindex") is not None]
    assert len(cells) == 3
    for block, cell in enumerate(cells):
        bits = [one.bits for one in plan.assignments if one.block == block]
        assert float(words_of(cell, "text")) == pytest.approx(sum(bits) / 16, abs=0.051)
        assert "16 layers such as" in words_of(cell, "title")


def test_hostile_names_are_shown_and_not_obeyed(tmp_path):
    layers = [layer(f"{HOSTILE}.{block}", HOSTILE, block, (64, 64), FORMATS[:3]) for block in range(3)]
    layers.append(layer(f"{HOSTILE}.head", "head", None, (64, 64), ["float16"]))
    profile = profile_of(layers)
    record = profile.record.model_copy(update={"model_source": HOSTILE, "text_source": HOSTILE})
    plan_path = solved(tmp_path, type(profile)(record, profile.measured_samples, *(2 * [profile.rounding_token_ids])),
                       "--average-bits", "3.5", "--no-cross-fit")  # fmt: skip
    plan = read_plan(plan_path)
    found = comparison_of(plan, read_profile(tmp_path / "profile.safetensors"))
    spoiled = found.entries[1].model_copy(update={"name": HOSTILE, "says": HOSTILE, "bits_by_kind": {HOSTILE: 2.0}})
    first = found.entries[0].model_copy(update={"bits_by_kind": {HOSTILE: 2.0}})
    difference = found.differences[0].model_copy(update={"other": HOSTILE})
    write_comparison(
        found.model_copy(
            update={
                "entries": (first, spoiled, found.entries[2]),
                "differences": (difference,),
                "changes_from": HOSTILE,
                "left_out": (HOSTILE,),
                "text_source": HOSTILE,
            }
        ),
        tmp_path / "comparison.json",
    )
    safety = safety_of(plan)
    curve = safety.curves[0].model_copy(update={"text_source": HOSTILE})
    sweep_point = safety.sweep[0].model_copy(update={"name": HOSTILE})
    write_safety(safety.model_copy(update={"curves": (curve,), "sweep": (sweep_point,)}), tmp_path / "safety.json")
    words = ["--comparison", tmp_path / "comparison.json", "--safety", tmp_path / "safety.json", "--points", "3"]
    run("report", plan_path, "-o", tmp_path / "page.html", *words, "--figures", tmp_path / "figs")
    assert "<script>alert" not in (tmp_path / "page.html").read_text()
    page = parsed(tmp_path / "page.html")
    assert page.scripts == 1
    assert " ".join(page.words).count(HOSTILE) > 10
    for picture in (tmp_path / "figs").glob("*.svg"):
        assert not list(ElementTree.fromstring(picture.read_text()).iter(f"{SVG}script"))


PICTURE = Chart("hostile", HOSTILE, 10, 10, text(0, 0, HOSTILE))
HOSTILE_PARTS = [
    Paragraph(HOSTILE),
    Paragraph(HOSTILE, HOSTILE),
    Missing(HOSTILE, HOSTILE),
    Figure(PICTURE, HOSTILE, HOSTILE),
    Cards((Card(HOSTILE, HOSTILE, HOSTILE),)),
    Table(HOSTILE, columns(HOSTILE, HOSTILE + "#"), ((HOSTILE, HOSTILE),), HOSTILE),
    Table(HOSTILE, columns(HOSTILE), ((HOSTILE,),)),
]


@pytest.mark.parametrize("part", HOSTILE_PARTS, ids=lambda part: type(part).__name__)
def test_no_template_lets_a_hostile_name_out(part):
    written = page(HOSTILE, HOSTILE, [Section(HOSTILE, HOSTILE, (part,))])
    found = Balanced()
    found.feed(written)
    found.close()
    assert found.open == []
    assert found.scripts == 1
    assert "<script>alert" not in written
    assert HOSTILE in found.words


def test_every_template_is_tried_and_escapes():
    made = environment()
    assert made.loader is not None
    templates = set(made.list_templates())
    tried = {part.template for part in HOSTILE_PARTS}
    assert templates - tried == {"page.html.j2", "page.css.j2", "cells.js.j2"}
    assert {part.template for part in get_args(Part)} == tried
    for name in templates:
        source = made.loader.get_source(made, name)[0]
        unescaped = re.findall(r"\{\{\s*(\w+)\s*\|\s*safe", source)
        assert set(unescaped) <= {"font", "light_charts", "dark_charts"}
        assert "autoescape" not in source
    assert made.from_string("{{ name }}").render(name="<b>") == "&lt;b&gt;"


def test_the_plan_lies_on_the_frontier_and_uniforms_above(folder):
    plan, profile = read_plan(folder / "plan.json"), read_profile(folder / "profile.safetensors")
    (found,) = frontiers_of(plan, profile, 60, (CpSatSolver(), SolverSettings()), silent)
    assert {point.status for point in found.points} == {"OPTIMAL"}
    for name in ("int2-g32", "int4-g32", "int8-row"):
        formats = uniform_formats(profile, name)
        size = plan.program.amount(STORED_BYTES, [u.formats.index(formats[u.name]) for u in plan.program.units])
        assert size == profile.stored_bytes(formats)
        reached = [point.predicted_loss_nats or 0.0 for point in found.points if point.bounds[0] >= size]
        assert all(loss <= profile.predict(formats)[0] + 1e-12 for loss in reached)
        assert reached
    reached = [point.predicted_loss_nats or 0.0 for point in found.points if point.bounds[0] >= plan.stored_bytes]
    assert max(reached) <= plan.loss_increase_nats + 1e-12
    assert frontiers_of(plan, profile, 0, (CpSatSolver(), SolverSettings()), silent) == ()


def test_where_the_program_knows_watts_they_are_shown(tmp_path):
    words = ["--average-bits", "3.7", "--hardware", "a100-80gb", "--rate", "26 tok/s"]
    plan = solved(tmp_path, make_profile(num_blocks=2), *words, "--no-cross-fit")
    run("report", plan, "-o", tmp_path / "page.html", "--points", "5")
    assert "frontier-watts" in pictures(tmp_path / "page.html")
    assert "knows no watts" not in (tmp_path / "page.html").read_text()


def test_marks_stand_where_their_values_are(whole_page):
    """In a picture whose axes have the same scale, what was measured as predicted stands on the diagonal."""
    root = pictures(whole_page)["predicted-measured"]
    (guide,) = [line for line in root.iter(f"{SVG}polyline") if line.get("class") == "guide"]
    (x0, y0), (x1, y1) = (map(float, pair.split(",")) for pair in value(guide, "points").split())
    marks = [(float(value(m, "cx")), float(value(m, "cy"))) for m in root.iter(f"{SVG}circle")]
    assert len(marks) == 1
    for x, y in marks:
        assert (x - x0) / (x1 - x0) == pytest.approx((y - y0) / (y1 - y0), abs=2e-3)


def test_a_threshold_that_the_sweep_does_not_reach_is_not_drawn(whole_page):
    words = "".join(pictures(whole_page)["load-deflection-1"].itertext())
    assert "yield at 0.02 (0.016 to 0.025)" in words
    assert "collapse at" not in words
    page = " ".join(parsed(whole_page).words)
    assert "collapse: 100% above (not reached by the sweep: more than 0.07 nats)" in page
    assert "≥ 16.00" in page
    assert "≥ 4.50" not in page


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize("values", [[1.0, 2.0], [3e-5, 0.2, 7.0], [5.0], [100.0, 101.0], [1e-9, 1e-8]])
def test_scales_hold_their_values_and_have_round_ticks(values, log):
    scale = spanning(values, 500.0, 20.0, log=log)
    pixels = [scale(value) for value in values]
    assert all(20 <= pixel <= 500 for pixel in pixels)
    assert pixels == sorted(pixels, reverse=True)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 12
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert all(len(f"{tick:.12g}".replace(".", "").strip("0").split("e")[0]) <= 4 for tick in ticks)


def test_a_scale_is_linear_in_what_it_shows():
    assert Scale(0, 10, 0, 200)(2.5) == 50
    assert Scale(1, 10_000, 0, 200, log=True)(100) == pytest.approx(100)
    assert text(0, 0, HOSTILE).count("<") == 2


def test_figures_and_tables_are_those_of_the_page(folder, whole_page):
    figs, plan = folder / "figs", read_plan(folder / "plan.json")
    for name, root in pictures(whole_page).items():
        alone = ElementTree.fromstring((figs / f"{name}.svg").read_text())
        assert len(list(alone.iter(f"{SVG}text"))) == len(list(root.iter(f"{SVG}text")))
        png = (figs / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
        assert (width, height) == pytest.approx(
            (2 * float(value(root, "width")), 2 * float(value(root, "height"))), abs=2
        )
        assert len(png) > 3000
    with (figs / "allocation.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert sum(int(row["stored_bytes"]) for row in rows) + plan.other_bytes == plan.stored_bytes
    assert {row["layer"]: row["format"] for row in rows} == plan.formats()
    for name in ("limits", "entries", "differences", "sweep", "factors", "frontier-stored-bytes"):
        assert json.loads((figs / f"{name}.json").read_text())
        assert (figs / f"{name}.csv").read_text().count("\n") > 1


def test_files_of_something_else_are_refused(folder, tmp_path):
    plan = read_plan(folder / "plan.json")
    found, safety = comparison_of(plan, read_profile(folder / "profile.safetensors")), safety_of(plan)
    other = ("int8-row",) * len(plan.assignments)
    cases = [
        (found.model_copy(update={"model_sha256": "1" * 64}), "of the model 'nowhere' with weights 111111111111…"),
        (found.model_copy(update={"profile_sha256": "1" * 64}), "rests on the profile 111111111111…"),
        (found.model_copy(update={"entries": (found.entries[0].model_copy(update={"formats": other}),)}),
         "is of another plan: .* layers have other formats"),
        (safety.model_copy(update={"model_sha256": "1" * 64}), "safety file .* is of the model"),
        (safety.model_copy(update={"profile_sha256": "1" * 64}), "safety file .* rests on the profile"),
    ]  # fmt: skip
    for record, match in cases:
        path = tmp_path / "record.json"
        is_safety = isinstance(record, SafetyFile)
        write_safety(record, path) if is_safety else write_comparison(record, path)
        with pytest.raises(ScantlingError, match=match):
            run("report", folder / "plan.json", "--safety" if is_safety else "--comparison", path, "-o", tmp_path / "p")
        path.write_text(path.read_text()[:300])
        with pytest.raises(ScantlingError, match="Make it again with"):
            run("report", folder / "plan.json", "--safety" if is_safety else "--comparison", path, "-o", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_a_plan_of_another_profile_or_a_broken_one_is_refused(folder, tmp_path):
    write_profile(make_profile(num_blocks=1), tmp_path / "other.safetensors")
    words = ["--profile", tmp_path / "other.safetensors", "-o", tmp_path / "p"]
    with pytest.raises(ScantlingError, match="was solved from another profile"):
        run("report", folder / "plan.json", *words)
    (tmp_path / "plan.json").write_text((folder / "plan.json").read_text()[:4000])
    with pytest.raises(ScantlingError, match="is not a plan of version"):
        run("report", tmp_path / "plan.json", "-o", tmp_path / "p")
    with pytest.raises(ScantlingError, match="cannot make the folder"):
        run("report", folder / "plan.json", "-o", tmp_path / "p", "--figures", folder / "plan.json" / "x")
    assert not (tmp_path / "p").exists()


def test_a_large_plan_stays_below_three_megabytes(tmp_path):
    kinds = {f"k{index}.proj": (32, 32) for index in range(9)}
    plan = solved(tmp_path, make_profile(num_blocks=80, kinds=kinds), "--average-bits", "3.5", "--no-cross-fit")
    run("report", plan, "-o", tmp_path / "page.html", "--points", "0")
    assert (tmp_path / "page.html").stat().st_size < 3_000_000
