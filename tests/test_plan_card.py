"""docs/plans.md: every shipped recipe has a plan, and the document is what the generator makes."""

from __future__ import annotations

import pathlib

from flan_train import plan_card, plan_chips

RECIPES = pathlib.Path(plan_card.__file__).parent / "t5x_configs" / "recipes"


def test_every_recipe_is_planned_for_a_topology_that_there_can_be() -> None:
    shipped = {path.stem for path in RECIPES.glob("*.gin")} - {"flan_t5_common"}
    assert {recipe for recipe, *_ in plan_card.PLANS} == shipped
    for _, name, slices, _ in plan_card.PLANS:
        plan_chips.parse(name, slices)


def test_a_document_of_one_plan() -> None:
    told: list[str] = []
    made = plan_card.plans([("quickstart", "cpu:2", 1, ("BATCH_SIZE = 2",))], told.append)
    assert told == ["quickstart, BATCH_SIZE = 2 on cpu:2"]
    page = plan_card.text(made)
    assert "| quickstart, BATCH_SIZE = 2 | cpu:2 | data 2 |" in page
    assert "## quickstart, BATCH_SIZE = 2 on cpu:2" in page
    assert "    memory of a device" in page
    assert page.endswith("\n")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_the_document_has_every_plan(repository: pathlib.Path) -> None:
    page = (repository / "docs" / "plans.md").read_text("utf-8")
    titles = [line for line in page.splitlines() if line.startswith("## ")]
    wanted = []
    for recipe, name, slices, bindings in plan_card.PLANS:
        beside = f", {slices} slices" if slices > 1 else ""
        wanted.append(f"## {', '.join((recipe, *bindings))} on {name}{beside}")
    assert titles == wanted
