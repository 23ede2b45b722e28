"""EleutherAI's lm-evaluation-harness on our models, in process: the model "flan_train".

Importing this module registers it, so that both of these work:

  import flan_train.harness
  lm_eval.simple_evaluate(model="flan_train", model_args={"checkpoint": "runs/mine/checkpoints/9"},
                          tasks=[...])

  python -m flan_train.harness run --model flan_train --batch_size 32 --tasks ... \\
      --model_args checkpoint=runs/mine/checkpoints/selected

What the harness means by its requests for an encoder-decoder is what its own `hf` model with
`backend=seq2seq` makes of them: the context goes to the encoder with EOS at its end, the spaces at
its end go to the continuation, and a continuation is scored without EOS (`score_eos=True` adds it,
as the suites scored by rank do here). One thing differs: `max_gen_toks` counts the tokens of the
output alone.
"""

from __future__ import annotations

import collections
import functools
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from flan_train import checkpoint_names, checkpoints, harness_requests
from flan_train.decode import Generator, Sampling
from flan_train.errors import UserError, check_flag, check_number
from flan_train.likelihood import OptionScorer
from flan_train.models import t5
from flan_train.sharding import Partitioner, ShardingConfig, make_mesh
from flan_train.vocabulary import Vocabulary, check_model_vocabulary, load_vocabulary

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "lm_eval":
        raise
    raise UserError(
        "lm-evaluation-harness is not installed",
        where="import flan_train.harness",
        expected="the package lm-eval",
        fix="pip install 'flan-train[eval]'",
    ) from None
from tqdm import tqdm

NAME = "flan_train"
# The harness's own default where a model sets no limit; T5's relative positions set none.
MAX_LENGTH = 2048
MAX_GEN_TOKS = 256

_log = logging.getLogger(__name__)


@register_model(NAME)
class FlanTrainLM(TemplateLM):
    """One of our models as the harness asks it: generation and log-likelihoods of text.

    Args:
      params: the model's parameters, laid out as `partitioner` says.
      config: what the parameters belong to.
      vocabulary: from text to ids and back.
      partitioner: the mesh to run on (None: the default device).
      batch_size: prompts that are decoded or scored at once; "auto" is 32.
      max_length: tokens of a prompt; a longer one loses its beginning, as everywhere in the
        harness, and a warning says how many did.
      max_gen_toks: output tokens where a task says nothing.
      score_eos: whether the end of a continuation is scored with it.
      seed: what samples are drawn from, with the prompt and the number of times it was asked.

    Raises:
      UserError: a setting out of range.
    """

    backend = "seq2seq"

    def __init__(
        self,
        params: t5.Params,
        config: t5.T5Config,
        vocabulary: Vocabulary,
        *,
        partitioner: Partitioner | None = None,
        batch_size: int | str = harness_requests.BATCH_SIZE,
        max_length: int = MAX_LENGTH,
        max_gen_toks: int = MAX_GEN_TOKS,
        score_eos: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        size = harness_requests.batch_size(batch_size)
        for name, value in (("max_length", max_length), ("max_gen_toks", max_gen_toks)):
            check_number(name, value, whole=True, minimum=1)
        check_number("seed", seed, whole=True)
        check_flag("score_eos", score_eos)
        self.vocabulary = vocabulary
        self.batch_size = size
        self.max_length = max_length
        self.max_gen_toks = max_gen_toks
        self.seed = seed
        self._config = config
        self._parameters = sum(int(leaf.size) for leaf in jax.tree.leaves(params))
        eos = vocabulary.eos_id
        self._generator = Generator(
            params, config, partitioner=partitioner, batch_size=size, eos_id=eos
        )
        self._scorer = functools.partial(
            OptionScorer, params, config, partitioner=partitioner, batch_size=size
        )
        self._continuations = self._scorer(eos_id=eos if score_eos else None)
        self._texts = self._scorer(eos_id=None)

    # ---------------------------------------------------------------- how the harness makes one

    @classmethod
    def from_checkpoint(
        cls,
        checkpoint: str,
        *,
        vocabulary: str | None = None,
        data_dir: str | None = None,
        preset: str = "data_parallel",
        num_partitions: int = 1,
        **settings: Any,
    ) -> FlanTrainLM:
        """Returns the model of a checkpoint; what `--model_args` of the harness may set.

        Args:
          checkpoint: a run's `checkpoints/<step>` (the step may be "selected" or "latest"), or a
            folder that `convert` wrote.
          vocabulary: a name or a path (None: the one the run was trained with, else "t5").
          data_dir: the data folder (None: FLAN_DATA_DIR, else the run's).
          preset: how the parameters are laid out over the devices (SHARDING_PRESET).
          num_partitions: as NUM_PARTITIONS.
          **settings: see FlanTrainLM.

        Raises:
          UserError: no such checkpoint, a vocabulary that is not its own, an unknown setting.
        """
        known = ("batch_size", "max_length", "max_gen_toks", "score_eos", "seed")
        unknown = sorted(set(settings) - set(known))
        if unknown:
            named = ("checkpoint", "vocabulary", "data_dir", "preset", "num_partitions", *known)
            raise UserError(
                f"'{unknown[0]}' is no setting of the model '{NAME}'",
                where="--model_args",
                expected="some of " + ", ".join(named),
            )
        path = checkpoint_names.find(checkpoint)
        meta = checkpoints.read_meta(path)
        config = t5.T5Config(**meta["model"])
        recorded = meta.get("data") or {}
        words = load_vocabulary(
            vocabulary or recorded.get("vocabulary") or "t5", data_dir or recorded.get("data_dir")
        )
        check_model_vocabulary(words, config.vocab_size)
        partitioner = Partitioner(make_mesh(ShardingConfig(preset, num_partitions)), preset)
        abstract = t5.abstract_params(config)
        shardings = partitioner.param_shardings(t5.param_axes(config), abstract)
        laid_out = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            abstract,
            shardings,
        )
        params, _ = checkpoints.load_params(path, laid_out)
        return cls(params, config, words, partitioner=partitioner, **settings)

    @classmethod
    def create_from_arg_obj(
        cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None
    ) -> FlanTrainLM:
        """Returns the model of `model_args`; the harness's `device` is left to JAX."""
        given = {
            name: value
            for name, value in {**(additional_config or {}), **arg_dict}.items()
            if value is not None and name not in ("device", "max_batch_size")
        }
        if not isinstance(given.get("checkpoint"), str):
            raise UserError(
                "no checkpoint for the harness to evaluate",
                where="--model_args",
                expected="checkpoint=RUN_DIR/checkpoints/STEP, or a folder that `convert` wrote",
            )
        return cls.from_checkpoint(**given)

    @classmethod
    def create_from_arg_string(
        cls, arg_string: str, additional_config: dict[str, Any] | None = None
    ) -> FlanTrainLM:
        """Returns the model of `model_args` in one string, "checkpoint=DIR,seed=3"."""
        from lm_eval.utils import simple_parse_args_string

        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    # -------------------------------------------------------------------------- tokens and text

    @property
    def eot_token_id(self) -> int:
        """The id of EOS: also what stands for an empty context."""
        return self.vocabulary.eos_id

    @property
    def tokenizer_name(self) -> str:
        """What tells the tokens of this model from those of another one."""
        return f"{self.vocabulary.name}@{self.vocabulary.sha256[:16]}"

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **others: Any
    ) -> list[int]:
        """Returns the ids of a text, with EOS unless `add_special_tokens` is False."""
        ids = self.vocabulary.encode(string)
        return ids if add_special_tokens is False else [*ids, self.eot_token_id]

    def get_model_info(self) -> dict[str, Any]:
        """Returns what the harness files about the model beside its results."""
        return {"model_num_parameters": self._parameters, "model_dtype": self._config.dtype}

    def _prompts(self, contexts: Iterable[Sequence[int]]) -> list[np.ndarray]:
        """Returns the prompts as arrays, the last `max_length` tokens of each."""
        arrays = [np.array(context, np.int32) for context in contexts]
        cut = sum(len(array) > self.max_length for array in arrays)
        if cut:
            _log.warning(
                "%d of %d prompts are longer than max_length = %d and lose their beginning",
                *(cut, len(arrays), self.max_length),
            )
        return [array[-self.max_length :] for array in arrays]

    # -------------------------------------------------------------------------- log-likelihoods

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **others: Any,
    ) -> list[tuple[float, bool]]:
        found = self._scored(
            self._continuations,
            [(context, wanted) for _, context, wanted in requests],
            disable_tqdm,
        )
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Returns the log-likelihood of whole texts, EOS included.

        As the harness does with an encoder-decoder: the text is the decoder's, in windows of
        `max_length` tokens; the encoder reads EOS alone for the first window, the token before a
        further one, and more before the last where that is shorter.
        """
        pairs, owners = [], []
        for number, request in enumerate(requests):
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, windows):
                pairs.append(window)
                owners.append(number)
        sums = [0.0] * len(requests)
        found = self._scored(self._texts, pairs, disable_tqdm)
        for number, (value, _) in zip(owners, found, strict=True):
            sums[number] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def _scored(
        self, scorer: OptionScorer, pairs: Sequence[tuple[list[int], list[int]]], disable_tqdm: bool
    ) -> list[tuple[float, bool]]:
        """Returns (log-likelihood, whether greedy decoding says it) of each (context, wanted)."""
        # The continuations of one context share its encoding.
        places: dict[tuple[int, ...], list[int]] = collections.defaultdict(list)
        for place, pair in enumerate(pairs):
            places[tuple(pair[0])].append(place)
        contexts = list(places)
        options = [
            [np.array(pairs[place][1], np.int32) for place in places[context]]
            for context in contexts
        ]
        answers: list[tuple[float, bool]] = [(0.0, True)] * len(pairs)
        with tqdm(total=len(pairs), desc="log-likelihoods", disable=disable_tqdm) as bar:
            for index, found in scorer.details(self._prompts(contexts), options):
                for number, place in enumerate(places[contexts[index]]):
                    value, greedy = found.log_probabilities[number], found.greedy[number]
                    answers[place] = (float(value), bool(greedy))
                    bar.update(1)
        return answers

    # ------------------------------------------------------------------------------- generation

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Returns the output for each request, up to the first of its `until` texts.

        Raises:
          UserError: a request with generation settings that there are not here.
        """
        # Requests of one kind go together, so that each kind is compiled once.
        kinds: dict[tuple[int, Sampling], list[int]] = collections.defaultdict(list)
        stops: list[Sequence[str]] = []
        for place, request in enumerate(requests):
            wish = harness_requests.wish(request.args[1], self.max_gen_toks)
            stops.append(wish.until)
            kinds[wish.max_length, wish.sampling].append(place)
        asked: collections.Counter[str] = collections.Counter()
        texts = [""] * len(requests)
        with tqdm(total=len(requests), desc="outputs", disable=disable_tqdm) as bar:
            for (limit, sampling), places in kinds.items():
                contexts = [requests[place].args[0] for place in places]
                seeds = []
                for context in contexts:
                    # The same prompt asked again is another draw.
                    seeds.append(harness_requests.seed_of(self.seed, context, asked[context]))
                    asked[context] += 1
                outputs = self._generator.generate(
                    self._prompts(map(self.tok_encode, contexts)),
                    max_length=limit,
                    sampling=sampling,
                    seeds=seeds,
                )
                for index, (best, *_) in outputs:
                    place = places[index]
                    texts[place] = harness_requests.cut(
                        self.vocabulary.decode(best.tokens), stops[place]
                    )
                    if sampling.method != "sample":
                        args = requests[place].args
                        self.cache_hook.add_partial("generate_until", args, texts[place])
                    bar.update(1)
        return texts


def main() -> int:
    """Runs the harness's own command line with our model known to it; returns the exit code."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except UserError as error:
        print(f"flan-train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
