"""Rewrites tests/golden/configs/*.txt: what each shipped recipe resolves to, a name per line.

Run after a recipe was changed on purpose, and review the difference:

  python tests/golden/make_configs.py
"""

from __future__ import annotations

import pathlib

from flan_train import config

HERE = pathlib.Path(__file__).resolve().parent
RECIPES = HERE.parent.parent / "t5x_configs" / "recipes"
ROOT = "flan_train.train.train"
# Included by the five Flan-T5 recipes; no experiment of its own.
PARTS = {"flan_t5_common"}


def recipes() -> list[str]:
    """Returns the names of the shipped recipes that are complete experiments."""
    return sorted(path.stem for path in RECIPES.glob("*.gin") if path.stem not in PARTS)


def resolved(recipe: str) -> str:
    """Returns the text a recipe resolves to; one that leaves MODEL_DIR open gets a name."""
    own = (RECIPES / f"{recipe}.gin").read_text("utf-8")
    bindings = [] if "\nMODEL_DIR" in own else ["MODEL_DIR = 'runs/golden'"]
    return config.resolve([f"t5x_configs/recipes/{recipe}.gin"], bindings).text(ROOT)


def main() -> None:
    """Writes one file per recipe."""
    folder = HERE / "configs"
    folder.mkdir(exist_ok=True)
    for recipe in recipes():
        (folder / f"{recipe}.txt").write_text(resolved(recipe), "utf-8")


if __name__ == "__main__":
    main()
