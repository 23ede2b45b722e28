"""How toxic texts are: a scorer of the user's own, or a local text classifier.

The paper asked a service on the network (Perspective). Here the scorer is a function of the user's,
`Sequence[str] -> Sequence[float]` with a score in 0..1 for each text, named "module:function"; or a
folder with a Hugging Face text-classification model, "classifier:FOLDER", where needed with the
label that means toxic: "classifier:FOLDER#LABEL". Nothing is fetched.

    # my_scorer.py, beside where the command is started or on PYTHONPATH
    def score(texts):
        return [1.0 if "idiot" in text.lower() else 0.0 for text in texts]

    --gin.EVAL_TOXICITY_SCORER="'my_scorer:score'"
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import numbers
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flan_train.errors import UserError

SETTING = "EVAL_TOXICITY_SCORER"
# The metrics that a scorer is needed for.
METRICS = ("any_toxic", "mean_toxicity", "toxic_share")
CLASSIFIER = "classifier:"
# Names that classifiers have for the label that is meant, in lower case.
TOXIC_LABELS = ("toxic", "toxicity")

Scorer = Callable[[Sequence[str]], list[float]]

_FORMS = f'"module:function", or "{CLASSIFIER}FOLDER" or "{CLASSIFIER}FOLDER#LABEL"'
_BATCH = 32
_LONGEST = 512  # tokens of a text, where the classifier names no limit of its own
_SHOWN = 60


def scorer_for(metrics: Iterable[str], name: str | None) -> Scorer | None:
    """Returns the scorer that metrics need, None when none of them needs one.

    Args:
      metrics: names of the metrics of all tasks that are evaluated.
      name: what EVAL_TOXICITY_SCORER is set to, None or "" where it is not.

    Raises:
      UserError: one is needed and none is set; or as `load`.
    """
    needing = [metric for metric in METRICS if metric in set(metrics)]
    if not needing:
        return None
    if not name:
        raise UserError(
            f"{SETTING} is not set, and {' and '.join(needing)} need it",
            where=SETTING,
            expected=f"what tells how toxic a text is: {_FORMS}",
            fix=f"set --gin.{SETTING}=\"'module:function'\", or leave these suites out",
        )
    return load(name)


def load(name: str) -> Scorer:
    """Returns a scorer whose results are checked: as many as texts, each a number in 0..1.

    A text without anything but white space has the score 0 and is not shown to it: an output may be
    empty, and nothing is not toxic.

    Args:
      name: "module:function", or "classifier:FOLDER" or "classifier:FOLDER#LABEL".

    Raises:
      UserError: no such name; the module cannot be imported or has no such function; the folder or
        label is not there, or transformers is not installed. The scorer that is returned raises it
        for results that are none.
    """
    if not isinstance(name, str) or ":" not in name.strip(":"):
        raise UserError(f"{name!r} names no scorer of toxicity", where=SETTING, expected=_FORMS)
    if name.startswith(CLASSIFIER):
        folder, _, label = name.removeprefix(CLASSIFIER).partition("#")
        return Checked(name, Classifier(folder, label or None))
    return Checked(name, _function(name))


class Checked:
    """A scorer whose results are checked."""

    def __init__(self, name: str, score: Callable[[Sequence[str]], Any]) -> None:
        """Remembers the scorer.

        Args:
          name: for messages.
          score: gives a score for each text.
        """
        self._name = name
        self._score = score

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Returns a score in 0..1 for each text.

        What it raises itself is passed on as it is: it tells where the scorer is wrong.

        Raises:
          UserError: it gave no list, another number of scores, or one that is no number in 0..1.
        """
        asked = [text for text in texts if text.strip()]
        given = iter(self._checked(asked) if asked else ())
        return [next(given) if text.strip() else 0.0 for text in texts]

    def _checked(self, texts: list[str]) -> list[float]:
        found = self._score(texts)
        if not isinstance(found, Iterable) or isinstance(found, str):
            raise self._wrong(f"{type(found).__name__} in place of a list")
        scores = list(found)
        if len(scores) != len(texts):
            raise self._wrong(f"{len(scores)} scores for {len(texts)} texts")
        return [self._number(score, text) for score, text in zip(scores, texts, strict=True)]

    def _number(self, score: Any, text: str) -> float:
        # Numbers of NumPy are no floats; what has no value as one is no score.
        if not isinstance(score, numbers.Real) or isinstance(score, bool):
            raise self._wrong(f"{score!r} of type {type(score).__name__} for {_shown(text)}")
        number = float(score)
        if not (math.isfinite(number) and 0 <= number <= 1):
            raise self._wrong(f"the score {number} for {_shown(text)}")
        return number

    def _wrong(self, found: str) -> UserError:
        return UserError(
            f"the scorer gave {found}",
            where=self._name,
            expected="for each text one number, at least 0 and at most 1 (1: certainly toxic)",
            fix="mend the scorer",
        )


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _function(name: str) -> Callable[[Sequence[str]], Any]:
    module_name, _, function_name = name.partition(":")
    # As `python -m` would find it: the console script has its own folder at the front of the path.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise UserError(
            f"the module {module_name!r} cannot be imported: {type(error).__name__}: {error}",
            where=f"{SETTING} = {name!r}",
            expected=_FORMS,
            fix="correct the name, or put the folder of the module on PYTHONPATH",
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        there = "has no" if found is None else "has something that cannot be called as"
        raise UserError(
            f"the module {module_name!r} {there} {function_name!r}",
            where=f"{SETTING} = {name!r}",
            expected="a function from a list of texts to a list of scores in 0..1",
            fix="correct the name",
        )
    return found


class Classifier:
    """A text classifier of a local folder, as `save_pretrained` of transformers writes one.

    The score of a text is what the pipeline of transformers gives for the toxic label: the logit of
    a regression, a sigmoid of the logit where the classifier has one label or its labels do not
    exclude each other (`problem_type` in config.json), else a softmax over the labels. The model
    is loaded at the first text and runs on the processor, in batches; longer texts are cut.
    """

    def __init__(self, folder: str, label: str | None = None, batch_size: int = _BATCH) -> None:
        """Looks at the folder; loads nothing.

        Args:
          folder: holds config.json, the weights and the tokeniser.
          label: the label that means toxic; None for the one that is called so, or the only one.
          batch_size: texts at once.

        Raises:
          UserError: transformers or torch is not installed; the folder is not there or holds no
            classifier; there is no such label.
        """
        self._folder = pathlib.Path(folder).expanduser()
        self._batch_size = batch_size
        config = self._folder / "config.json"
        if not config.is_file():
            raise UserError(
                "the folder of the toxicity classifier "
                + ("has no config.json" if self._folder.is_dir() else "does not exist"),
                where=f"{SETTING}: {self._folder}",
                expected="a folder that save_pretrained of a text-classification model has written,"
                " with its tokeniser",
                fix="save the model and its tokeniser there, or name their folder",
            )
        for module in ("transformers", "torch"):
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"a toxicity classifier needs {module}, which is not installed",
                    where=f"{SETTING}: {self._folder}",
                    fix="pip install 'flan-train[hf]' torch; or name a function of your own",
                )
        settings = _read_config(config)
        self._index = _label(settings, label, config)
        self._problem = settings.get("problem_type") or ""
        self._loaded: tuple[Any, Any] | None = None

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """Returns the probability of the toxic label for each text.

        Raises:
          UserError: the model or its tokeniser cannot be loaded.
        """
        import torch

        tokeniser, model = self._loaded = self._loaded or self._load()
        limit = min(int(tokeniser.model_max_length), _most_positions(model.config))
        scores: list[float] = []
        with torch.inference_mode():
            for start in range(0, len(texts), self._batch_size):
                batch = list(texts[start : start + self._batch_size])
                encoded = tokeniser(
                    batch, padding=True, truncation=True, max_length=limit, return_tensors="pt"
                )
                logits = model(**encoded).logits.float()
                scores += self._chances(logits)[:, self._index].tolist()
        return scores

    def _chances(self, logits: Any) -> Any:
        if self._problem == "regression":
            return logits
        if logits.shape[-1] == 1 or self._problem == "multi_label_classification":
            return logits.sigmoid()
        return logits.softmax(dim=-1)

    def _load(self) -> tuple[Any, Any]:
        import transformers

        try:
            tokeniser = transformers.AutoTokenizer.from_pretrained(
                self._folder, local_files_only=True
            )
            model = transformers.AutoModelForSequenceClassification.from_pretrained(
                self._folder, local_files_only=True
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise UserError(
                f"the toxicity classifier cannot be loaded: {error}",
                where=str(self._folder),
                expected="the weights and the tokeniser of a text-classification model",
                fix="save both there again with save_pretrained",
            ) from error
        return tokeniser, model.eval()


def _most_positions(config: Any) -> int:
    most = getattr(config, "max_position_embeddings", None)
    # RoBERTa numbers positions from its padding id on: two of them are never used.
    offset = 2 if getattr(config, "model_type", "") in ("roberta", "xlm-roberta") else 0
    return int(most) - offset if isinstance(most, int) and most > offset else _LONGEST


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"config.json of the toxicity classifier cannot be read: {error}",
            where=str(path),
            expected="the JSON object that save_pretrained writes",
        ) from None
    return settings if isinstance(settings, dict) else {}


def _label(settings: dict[str, Any], wanted: str | None, path: pathlib.Path) -> int:
    """Returns the number of the toxic label."""
    # Two labels without names are what transformers assumes where a model says nothing.
    names = settings.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
    labels = [names[key] for key in sorted(names, key=int)]
    if wanted is not None:
        hits = [index for index, name in enumerate(labels) if name == wanted]
    elif len(labels) == 1:
        hits = [0]
    else:
        hits = [index for index, name in enumerate(labels) if name.casefold() in TOXIC_LABELS]
    if len(hits) == 1:
        return hits[0]
    what = f"no label called {wanted!r}" if wanted is not None else "no single label for toxic text"
    raise UserError(
        f"the toxicity classifier has {what}",
        where=f"id2label in {path}",
        expected=f"one of its labels: {', '.join(map(str, labels))}",
        fix=f"name the label that means toxic: {SETTING} = '{CLASSIFIER}{path.parent}#LABEL'",
    )
