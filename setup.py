"""What the package is: metadata, dependencies, entry point.

`tasks/`, `mixtures/` and `t5x_configs/` stand at the top of the repository, where people look for
them; committed symlinks under `flan_train/` give them their import names (a top-level `tasks`
module would clash with other packages).
"""

import pathlib

from setuptools import find_namespace_packages, setup

HERE = pathlib.Path(__file__).resolve().parent

# Lower bounds are what the code was written against; constraints.txt pins the tested set.
REQUIRES = [
    "jax>=0.10.2",
    "flax>=0.12.8",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "tensorstore>=0.1.86",
    "msgpack>=1.2",
    "grain>=0.2.18",
    "array-record>=0.8.6",
    "seqio>=0.0.20",
    "tensorflow-datasets>=4.9.10",
    # TFDS imports it to prepare a data set, and no longer gets it through etils.
    "importlib-resources>=6.4",
    "gin-config>=0.5.0",
    "sentencepiece>=0.2.1",
    "numpy>=2.0",
    "numba>=0.68",
    "jaxtyping>=0.3",
    "requests>=2.32",
    "rich>=14",
    "safetensors>=0.6",
    "tensorboardX>=2.6.5",
    "wrapt>=2.0",
    "jinja2>=3.1.4",
    "pyyaml>=6.0",
    # Metrics of summaries and of translations.
    "rouge-score>=0.1.2",
    "sacrebleu>=2.6",
]

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "gpu": ["jax[cuda13]"],
    "hf": ["transformers>=5", "datasets"],
    "beam": ["apache-beam>=2.77"],
    "procedural": ["reasoning-gym"],
    "eval": ["lm-eval>=0.4.13"],
    "dev": [
        "apache-beam>=2.77",
        "beartype",
        "hypothesis",
        "import-linter",
        "mypy",
        "pytest",
        "pytest-xdist",
        "ruff",
        "scikit-learn",
        "transformers>=5",
    ],
}

setup(
    name="flan-train",
    version="0.1.0",
    description="Instruction finetuning on JAX, TPU first: the Flan 2022 system, rebuilt to work",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=find_namespace_packages(include=["flan_train", "flan_train.*"]),
    package_data={
        "flan_train": ["py.typed", "*.html", "*.css", "inspect_assets/*", "data_manifest.json"],
        "flan_train.tasks": ["prompts/**/*.json", "tables/*", "vocabularies/*.model"],
        "flan_train.t5x_configs": ["*/*.gin"],
    },
    install_requires=REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["flan-train = flan_train.cli:main"]},
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
